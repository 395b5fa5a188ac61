"""RecBole 1.2.1: its own trainer, loaders, sampler and evaluator on the same log. Runs in its own environment.

Its atomic file gets the place of each event in its user's history as the time, so that its leave-one-out is the one the
log says; that is checked. What is set against its defaults stands in `MODELS` and in `_settings`.
"""

from __future__ import annotations

import copy
import itertools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

_SEQUENCES: dict[str, Any] = {
    "hidden_dropout_prob": 0.5, "attn_dropout_prob": 0.5, "n_layers": 2, "n_heads": 2, "hidden_size": 64,
    "inner_size": 256,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "BPR": {"embedding_size": 64},
    "LightGCN": {"n_layers": 3, "embedding_size": 64, "reg_weight": 1e-4},
    "NGCF": {"hidden_size_list": [64, 64, 64], "embedding_size": 64, "reg_weight": 1e-5},
    "SASRec": _SEQUENCES,
    "BERT4Rec": _SEQUENCES | {"mask_ratio": 0.2, "hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2},
    "GRU4Rec": {"embedding_size": 64, "hidden_size": 128, "num_layers": 1, "dropout_prob": 0.3},
}
PAIRS = ("BPR", "LightGCN", "NGCF")
TUNED_CELLS = 6_196_224
"""Scores in an evaluation batch of general models: 512 users of Beauty. The default, 4,096, is one user."""


class Program:
    """RecBole's objects for one model."""

    def __init__(self, settings: dict[str, Any]) -> None:
        # Not its quick_start: that imports ray, which nothing here wants.
        self.folder = tempfile.TemporaryDirectory(prefix="recbole-")
        model = settings["model"]
        frame = _atomic_file(Path(settings["log"]), Path(self.folder.name))
        os.chdir(self.folder.name)
        sys.argv = sys.argv[:1]
        import recbole
        import torch
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import get_model, get_trainer, init_seed

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        config = Config(model=model, dataset="peer", config_dict=_settings(model, settings, self.folder.name))
        init_seed(2020, True)
        dataset = create_dataset(config)
        self.train, self.valid, self.test = data_preparation(config, dataset)
        self.model = get_model(model)(config, self.train.dataset)
        self.trainer = get_trainer(config["MODEL_TYPE"], model)(config, self.model)
        self.trainer.eval_collector.data_collect(self.train)
        # One of its sequential models switches autograd's anomaly mode on for the whole process at import.
        self.anomaly = torch.is_anomaly_enabled()
        if settings.get("anomaly") == "off":
            torch.autograd.set_detect_anomaly(False)
        _check_split(frame, dataset, self.test)
        self.rows, self.batches = len(self.train.dataset), len(self.train)
        self.info: dict[str, Any] = {
            "version": recbole.__version__, "torch": torch.__version__, "targets": self.rows, "batches": self.batches,
            "users": dataset.user_num - 1, "items": dataset.item_num - 1, "anomaly_as_found": self.anomaly,
            "anomaly": torch.is_anomaly_enabled(), "scale": 1.0,
        }  # fmt: skip


class Epoch(Program):
    """Batches of an epoch by its own loop, scaled to the epoch: each is padded to the same length, so they cost the
    same."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.cap = settings.get("batches")
        part = self.batches / min(self.batches, self.cap) if self.cap else 1.0
        self.info |= {"scale": part, "extrapolated": part > 1, "batch_targets": round(self.rows / self.batches)}

    def ready(self) -> None:
        """Nothing."""

    def unit(self) -> None:
        """The first batches of a shuffled epoch."""
        data = itertools.islice(iter(self.train), self.cap) if self.cap else self.train
        self.trainer._train_epoch(data, 0)


class Evaluation(Program):
    """Its full ranking of the test users with its metrics."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.cap = settings.get("batches")
        count = len(self.test)
        part = count / min(count, self.cap) if self.cap else 1.0
        self.data = _first(self.test, min(count, self.cap)) if self.cap else self.test
        self.info |= {"evaluated": len(self.test.dataset), "scale": part, "extrapolated": part > 1, "batches": count}

    def ready(self) -> None:
        """Nothing."""

    def unit(self) -> None:
        """One evaluation, or its first batches, scaled."""
        self.trainer.evaluate(self.data, load_best_model=False)


def _first(loader: Any, count: int) -> Any:
    """A loader of its first batches; RecBole asks for the class, so it has one of the same kind."""
    kind: Any = type(loader)

    def batches(self: Any) -> Any:
        return itertools.islice(kind.__iter__(self), count)

    capped = copy.copy(loader)
    capped.__class__ = type("First", (kind,), {"__iter__": batches, "__len__": lambda self: count})
    return capped


class Draws(Program):
    """Its sampler: one negative for each of `rows` users, outside their train items."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings | {"model": "BPR"})
        import numpy as np

        users = self.train.dataset.inter_feat["user_id"].numpy()
        self.users = users[np.random.default_rng(0).integers(0, len(users), int(settings["rows"]))]
        self.k = int(settings["k"])
        self.info |= {"draws": len(self.users) * self.k}

    def ready(self) -> None:
        """Nothing."""

    def unit(self) -> None:
        """One batch of draws."""
        self.train._sampler.sample_by_user_ids(self.users, None, self.k)


def _settings(model: str, settings: dict[str, Any], folder: str) -> dict[str, Any]:
    general = model in PAIRS
    found = MODELS[model] | {
        "data_path": folder, "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "TIME_FIELD": "timestamp",
        "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
        "metrics": ["NDCG", "Recall"], "topk": [10, 20], "valid_metric": "NDCG@10",
        "train_batch_size": settings.get("batch_size", 2048 if general else 256),
        "eval_batch_size": TUNED_CELLS if general and settings.get("tuned") else 4096,
        "learning_rate": 1e-3, "seed": 2020, "use_gpu": False, "show_progress": False, "state": "ERROR",
    }  # fmt: skip
    if not general:
        loss = settings.get("loss", "CE")
        found |= {"MAX_ITEM_LIST_LENGTH": 50, "loss_type": loss}
        if loss == "CE":
            found["train_neg_sample_args"] = None
    return found


def _atomic_file(log: Path, folder: Path) -> Any:
    """RecBole's file of a log (arrays `user`, `item`, ordered by user and time); the ordered frame."""
    import numpy as np
    import pandas as pd

    with np.load(log, allow_pickle=False) as found:
        frame = pd.DataFrame({"user": found["user"], "item": found["item"]})
    frame["rank"] = frame.groupby("user").cumcount()
    (folder / "peer").mkdir()
    header = ["user_id:token", "item_id:token", "timestamp:float"]
    frame.to_csv(folder / "peer" / "peer.inter", sep="\t", index=False, header=header)
    return frame


def _check_split(frame: Any, dataset: Any, test: Any) -> None:
    """Its test rows are the last event of every user."""
    last = frame["rank"] == frame.groupby("user")["rank"].transform("max")
    rows = test.dataset.inter_feat
    users = dataset.id2token("user_id", rows["user_id"].numpy()).astype(int)
    items = dataset.id2token("item_id", rows["item_id"].numpy()).astype(int)
    wanted = set(zip(frame.loc[last, "user"], frame.loc[last, "item"], strict=True))
    if set(zip(users, items, strict=True)) != wanted:
        raise ValueError("the test part that RecBole made is not the last event of every user")


_WORKS = {"train": Epoch, "evaluate": Evaluation, "sample": Draws}


def open_work(task: str, settings: dict[str, Any]) -> Any:
    """The work of a task."""
    if task not in _WORKS:
        raise ValueError(f"RecBole has no task '{task}'")
    return _WORKS[task](settings)
