"""Record the validation curve of RecBole 1.2.1 on our own split; `augrec bench` times it.

RecBole's own trainer steps and evaluates; this file only converts the data, checks that both programs hold out the
same rows, and writes one JSON object a line. Run it with the environment that `augrec bench` makes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from state import load_state, save_state

PREFIX_LENGTH = 50
EVAL_BATCH = {"SASRec": 4096, "GRU4Rec": 4096, "LightGCN": 6196224}
TRAIN_BATCH = {"SASRec": 256, "GRU4Rec": 256, "LightGCN": 2048}
LOSSES: dict[str, dict[str, Any]] = {
    "CE": {"loss_type": "CE", "train_neg_sample_args": None},
    "BPR": {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}},
}
MODEL_CONFIG: dict[str, dict[str, Any]] = {
    "SASRec": {
        "n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 256, "hidden_dropout_prob": 0.5,
        "attn_dropout_prob": 0.5, "MAX_ITEM_LIST_LENGTH": PREFIX_LENGTH,
    },
    "GRU4Rec": {
        "embedding_size": 64, "hidden_size": 128, "num_layers": 1, "dropout_prob": 0.3,
        "MAX_ITEM_LIST_LENGTH": PREFIX_LENGTH,
    },
    "LightGCN": {"n_layers": 3, "embedding_size": 64, "reg_weight": 1e-4},
}  # fmt: skip


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    p = argparse.ArgumentParser(description="RecBole 1.2.1 as a peer: its validation curve.")
    p.add_argument("--model", choices=sorted(MODEL_CONFIG), required=True)
    p.add_argument("--loss", choices=sorted(LOSSES), default="CE", help="of SASRec and GRU4Rec; LightGCN has its own")
    p.add_argument("--data", type=Path, required=True, help="Parquet with columns user, item and, if any, timestamp")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--out", type=Path, required=True, help="a new file of JSON lines")
    p.add_argument("--seed", type=int, default=2020)
    p.add_argument("--train-batch-size", type=int, help="sequences 256, LightGCN 2048; RecBole's default is 2048")
    p.add_argument(
        "--eval-batch-size", type=int, help="sequences 4096; LightGCN 6196224 = 512 users (RecBole: 4096 = 1)"
    )
    p.add_argument("--learning-rate", type=float, default=1e-3)
    p.add_argument("--anomaly", choices=["as-found", "off"], default="as-found", help="autograd anomaly mode")
    p.add_argument("--max-epochs", type=int, default=300)
    p.add_argument("--eval-every", type=int, default=1)
    p.add_argument("--patience", type=int, default=10, help="evaluations without a better NDCG@10")
    p.add_argument("--state", type=Path, help="safetensors file kept after each evaluation, to go on from")
    args = p.parse_args()
    args.train_batch_size = args.train_batch_size or TRAIN_BATCH[args.model]
    args.eval_batch_size = args.eval_batch_size or EVAL_BATCH[args.model]
    args.out = args.out.resolve()
    args.state = args.state.resolve() if args.state else None
    if not args.data.is_file():
        p.error(f"--data {args.data}: no such file")
    if args.out.exists() and not (args.state and args.state.exists()):
        p.error(f"--out {args.out} exists: give a new file, or --state with the saved state of the run to go on with")
    return args


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The model's settings, its loss included."""
    return MODEL_CONFIG[args.model] | (LOSSES[args.loss] if args.model != "LightGCN" else {})


class Clock:
    """Wall seconds and the busy cores of other processes since the start of a measurement (Linux)."""

    def __init__(self) -> None:
        self.restart()

    @staticmethod
    def _busy() -> float:
        fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = fields
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")

    def restart(self) -> None:
        self._wall, self._own, self._all = time.perf_counter(), time.process_time(), self._busy()

    def read(self) -> tuple[float, float]:
        """Return (seconds, foreign busy cores)."""
        wall = time.perf_counter() - self._wall
        foreign = self._busy() - self._all - (time.process_time() - self._own)
        return wall, round(max(foreign, 0.0) / max(wall, 1e-9), 2)


def write(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line and flush it, so that a stopped run keeps what it measured."""
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(record) + "\n")


def convert(data: Path, folder: Path) -> Any:
    """Write RecBole's atomic file with the within-user rank as timestamp; return the ordered frame."""
    import pandas as pd

    frame = pd.read_parquet(data)
    keys = ["user", *[k for k in ("timestamp",) if k in frame], *[k for k in ("position",) if k in frame]]
    frame = frame.sort_values(keys, kind="stable")[["user", "item"]].reset_index(drop=True)
    frame["rank"] = frame.groupby("user").cumcount()
    (folder / "peer").mkdir()
    header = ["user_id:token", "item_id:token", "timestamp:float"]
    frame.to_csv(folder / "peer" / "peer.inter", sep="\t", index=False, header=header)
    return frame


class Peer:
    """RecBole's objects for one model on one data set."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        frame = convert(args.data, folder)
        os.chdir(folder)
        sys.argv = sys.argv[:1]
        import torch
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import get_model, get_trainer, init_seed

        torch.set_num_threads(args.threads)
        settings = {
            **settings_of(args),
            "data_path": str(folder), "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp",
            "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
            "metrics": ["NDCG", "Hit"], "topk": [5, 10, 20], "valid_metric": "NDCG@10", "metric_decimal_place": 6,
            "train_batch_size": args.train_batch_size, "eval_batch_size": args.eval_batch_size,
            "learning_rate": args.learning_rate, "seed": args.seed, "use_gpu": False, "show_progress": False,
        }  # fmt: skip
        self.config = Config(model=args.model, dataset="peer", config_dict=settings)
        init_seed(args.seed, True)
        clock = Clock()
        dataset = create_dataset(self.config)
        self.train, self.valid, self.test = data_preparation(self.config, dataset)
        init_seed(args.seed, True)
        self.model = get_model(args.model)(self.config, self.train.dataset)
        self.trainer = get_trainer(self.config["MODEL_TYPE"], args.model)(self.config, self.model)
        self.trainer.eval_collector.data_collect(self.train)
        self.prepare_seconds = clock.read()[0]
        self.anomaly_found = torch.is_anomaly_enabled()
        self.rows, self.batches = len(self.train.dataset), len(self.train)
        self._check_split(frame, dataset)

    def _check_split(self, frame: Any, dataset: Any) -> None:
        last = frame["rank"] == frame.groupby("user")["rank"].transform("max")
        second = (frame["rank"] + 1) == frame.groupby("user")["rank"].transform("max")
        for name, loader, mask in (("valid", self.valid, second), ("test", self.test, last)):
            inter = loader.dataset.inter_feat
            users = dataset.id2token("user_id", inter["user_id"].numpy()).astype(int)
            items = dataset.id2token("item_id", inter["item_id"].numpy()).astype(int)
            ours = set(zip(frame.loc[mask, "user"], frame.loc[mask, "item"], strict=True))
            if set(zip(users, items, strict=True)) != ours or len(users) != int(mask.sum()):
                raise SystemExit(f"the {name} part that RecBole made is not the leave-one-out row of every user")

    def step(self, epoch: int) -> float:
        """Train one epoch with RecBole's own loop; return its summed loss."""
        loss = self.trainer._train_epoch(self.train, epoch)
        return float(sum(loss) if isinstance(loss, tuple) else loss)

    def evaluate(self, part: Any) -> dict[str, float]:
        """Return RecBole's own metrics of the present parameters on a part."""
        return {k: float(v) for k, v in self.trainer.evaluate(part, load_best_model=False).items()}


def describe(args: argparse.Namespace, peer: Peer) -> dict[str, Any]:
    """Return what was run on what."""
    import numpy
    import recbole
    import torch

    return {
        "program": "recbole", "version": recbole.__version__, "model": args.model, "mode": "curve",
        "data": args.data.stem, "settings": settings_of(args), "learning_rate": args.learning_rate,
        "split": "leave-one-out", "split_checked": True, "ranking": "full",
        "seen_items": "kept" if args.model != "LightGCN" else "train items masked in valid, train and valid in test",
        "rows": peer.rows, "batches": peer.batches, "train_batch_size": args.train_batch_size,
        "eval_batch_size": args.eval_batch_size, "threads": args.threads, "seed": args.seed,
        "anomaly_found": peer.anomaly_found, "prepare_seconds": round(peer.prepare_seconds, 2),
        "torch": torch.__version__, "numpy": numpy.__version__, "python": platform.python_version(),
        "cores": os.cpu_count(),
    }  # fmt: skip


def peak_mb() -> int:
    """Return the peak resident memory of this process in MB (Linux counts in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def run_curve(args: argparse.Namespace, peer: Peer) -> None:
    """Train until `patience` evaluations bring no better validation NDCG@10, one JSON line an epoch."""
    import torch

    torch.autograd.set_detect_anomaly(peer.anomaly_found and args.anomaly == "as-found")
    first, best, best_epoch = 1, -1.0, 0
    if args.state and args.state.exists():
        facts = load_state(args.state, peer)
        first, best, best_epoch = facts["epoch"] + 1, facts["best"], facts["best_epoch"]
        write(args.out, {"kind": "resumed", "from_epoch": first})
    for epoch in range(first, args.max_epochs + 1):
        clock = Clock()
        loss = peer.step(epoch)
        wall, foreign = clock.read()
        line: dict[str, Any] = {
            "kind": "epoch", "epoch": epoch, "train_seconds": round(wall, 2), "foreign_cores": foreign, "loss": loss,
            "threads": args.threads, "train_batch_size": args.train_batch_size, "anomaly": torch.is_anomaly_enabled(),
        }  # fmt: skip
        if epoch % args.eval_every == 0:
            clock.restart()
            line["valid"] = peer.evaluate(peer.valid)
            line["eval_seconds"] = round(clock.read()[0], 2)
            if line["valid"]["ndcg@10"] > best:
                best, best_epoch = line["valid"]["ndcg@10"], epoch
                line["test"] = peer.evaluate(peer.test)
        write(args.out, line | {"peak_rss_mb": peak_mb()})
        if args.state and epoch % args.eval_every == 0:
            save_state(args.state, peer, epoch, best, best_epoch)
        if epoch - best_epoch >= args.patience * args.eval_every and best_epoch:
            break
    write(args.out, {"kind": "end", "epochs": epoch, "best_epoch": best_epoch, "best_valid_ndcg@10": best})


def main() -> None:
    """Run what the command line asks for."""
    args = parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)
    args.data = args.data.resolve()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="recbole-peer-") as name:
        home = Path.cwd()
        peer = Peer(args, Path(name))
        if not args.out.exists():
            write(args.out, {"kind": "run", "patience": args.patience, "eval_every": args.eval_every}
                  | describe(args, peer))  # fmt: skip
        run_curve(args, peer)
        os.chdir(home)


if __name__ == "__main__":
    main()
