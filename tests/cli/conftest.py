"""A small log, finished runs on it, and the command line run in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from augrec.cli import main

ONE_THREAD = ("--set", "train.threads=1")


@dataclass(frozen=True)
class Answer:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))

    @property
    def message(self) -> str:
        """The one line that an error consists of."""
        lines = [line for line in self.err.splitlines() if ": epoch " not in line]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("augrec: ")
        assert "Traceback" not in self.err
        assert "defect of augrec" not in self.err
        return lines[0].removeprefix("augrec: ")


def call(arguments: tuple[object, ...]) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(one) for one in arguments])
    assert isinstance(done.value.code, int)
    return done.value.code


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def run(*arguments: object) -> Answer:
        capfd.readouterr()
        code = call(arguments)
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return run


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test stands in an empty folder with an empty cache."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("AUGREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AUGREC_DATA", raising=False)
    return work


def log(users: int = 60, items: int = 40, least: int = 5, most: int = 11) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:03d}", f"i{item:02d}", 1_500_000_000 + 10_000 * user + 60 * place)
        for user in range(users)
        for place, item in enumerate(rng.choice(items, size=rng.integers(least, most), replace=False))
    ]
    return pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 users, 40 items, text ids, times."""
    path = tmp_path_factory.mktemp("data") / "small.csv"
    log().write_csv(path)
    return path


@pytest.fixture(scope="session")
def runs(small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs of one model of each sort; tests do not write to them."""
    found = {}
    for model in ("mf", "sasrec", "itemknn"):
        found[model] = tmp_path_factory.mktemp("runs") / model
        assert call(("train", "--data", small, "--model", model, "--set", "train.epochs=2", *ONE_THREAD,
                     "--out", found[model])) == 0  # fmt: skip
    return found
