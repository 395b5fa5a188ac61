"""One of the processes of `test_equal.py`, which starts two as torchrun would: trains every case over both, and in
process 0 also in one. Arguments: the log, the folder to work in, and the cases as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from unittest import mock

from augrec.data.catalog import load
from augrec.errors import AugrecError
from augrec.experiment.config import parse_overrides, resolve
from augrec.experiment.run import run
from augrec.train.callbacks import Callback


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_step(self, epoch: int, batch: int, loss: float) -> None:
        self.values.append(loss)


def train(case: dict, log, out: Path) -> dict:
    names = {key: value for key, value in case.items() if key in ("model", "objective", "augment")}
    config = resolve(data="toy", **names, epochs=case["epochs"], overrides=parse_overrides(case["set"]))
    losses = Losses()
    try:
        done = run(config, out, source=log, callbacks=[losses], threads=1)
    except AugrecError as error:
        return {"error": str(error)}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    per_user = (out / "per_user.parquet").read_bytes().hex()
    return {"losses": losses.values, "result": done.result, "lines": lines, "per_user": per_user}


def main() -> None:
    log, folder, cases = load(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    rank = int(os.environ["RANK"])
    found: dict[str, dict] = {}
    alone = {key: value for key, value in os.environ.items() if key != "TORCHELASTIC_RUN_ID"}
    for name, case in cases.items():
        shared = train(case, log, folder / f"{name}-2")
        if rank == 0:
            with mock.patch.dict(os.environ, alone, clear=True):
                found[name] = {"one": train(case, log, folder / f"{name}-1"), "two": shared}
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
