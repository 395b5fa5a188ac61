"""RecTools 0.19.0: its own models, data preparation and trainer on the same log. Runs in its own environment."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any


def _frame(path: str) -> Any:
    """The log with the place of each event as its time, as RecTools names columns."""
    import numpy as np
    import pandas as pd

    with np.load(path, allow_pickle=False) as found:
        frame = pd.DataFrame({"user_id": found["user"], "item_id": found["item"]})
    frame["weight"] = 1
    place = frame.groupby("user_id").cumcount()
    frame["datetime"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(place, unit="D")
    frame["left"] = frame.groupby("user_id")["user_id"].transform("size") - 1 - place
    return frame


class Program:
    """A model fitted on a few batches, so that everything is made, and the train part of the log."""

    def __init__(self, settings: dict[str, Any]) -> None:
        warnings.filterwarnings("ignore")
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        import rectools
        import torch
        from rectools.dataset import Dataset
        from rectools.models import BERT4RecModel, SASRecModel

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        frame = _frame(settings["log"])
        self.test = frame[frame["left"] == 0].drop(columns="left")
        train = frame[frame["left"] >= 2].drop(columns="left")
        # The evaluation reads train and validation events.
        self.known = Dataset.construct(frame[frame["left"] >= 1].drop(columns="left"))
        self.dataset = Dataset.construct(train)
        self.cap = settings.get("batches") or 16
        cap = self.cap

        def trainer() -> Any:
            from pytorch_lightning import Trainer

            return Trainer(
                max_epochs=1, limit_train_batches=cap, accelerator="cpu", devices=1, logger=False,
                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            )  # fmt: skip

        kind = {"SASRec": SASRecModel, "BERT4Rec": BERT4RecModel}[settings["model"]]
        self.model = kind(
            n_blocks=2, n_heads=2, n_factors=64, session_max_len=50, batch_size=256, loss=settings["loss"],
            n_negatives=1, lr=1e-3, get_trainer_func=trainer, verbose=0,
        )  # fmt: skip
        self.model.fit(self.dataset)
        self.loader = self.model.data_preparator.get_dataloader_train()
        batches = len(self.loader)
        part = batches / min(batches, self.cap)
        # One row a user, every place but the first of it a target.
        lengths = train.groupby("user_id").size().clip(upper=51) - 1
        self.info: dict[str, Any] = {
            "version": rectools.__version__, "torch": torch.__version__, "users": int(train["user_id"].nunique()),
            "items": int(train["item_id"].nunique()), "targets": int(lengths.sum()), "batches": batches, "scale": part,
            "extrapolated": part > 1,
        }  # fmt: skip

    def ready(self) -> None:
        """Nothing."""


class Epoch(Program):
    """Batches of an epoch by its own trainer, scaled: each is padded to the same length, so they cost the same."""

    def unit(self) -> None:
        """As many batches as the trainer is limited to. The data are prepared before, as scaling would count them
        often."""
        trainer = self.model.fit_trainer
        self.model.lightning_model.train()
        done = trainer.fit_loop.epoch_progress.current.ready
        trainer.fit_loop.max_epochs = trainer.fit_loop.min_epochs = done + 1
        trainer.fit(self.model.lightning_model, self.loader)


class Evaluation(Program):
    """Its lists of 20 for all users, seen items kept, and its metrics on them."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings | {"batches": 1})
        from rectools.metrics import NDCG, Recall, calc_metrics

        users = self.test["user_id"].unique()
        asked = settings.get("users")
        self.users = users[:asked] if asked else users
        part = len(users) / len(self.users)
        self.info |= {"evaluated": len(users), "scale": part, "extrapolated": part > 1}
        self.metrics = {
            f"{name}@{k}": kind(k=k) for name, kind in (("recall", Recall), ("ndcg", NDCG)) for k in (10, 20)
        }
        self.judge = calc_metrics

    def unit(self) -> None:
        """Lists and metrics."""
        lists = self.model.recommend(users=self.users, dataset=self.known, k=20, filter_viewed=False)
        self.judge(self.metrics, reco=lists, interactions=self.test[self.test["user_id"].isin(self.users)])


def open_work(task: str, settings: dict[str, Any]) -> Any:
    """The work of a task."""
    works: dict[str, Any] = {"train": Epoch, "evaluate": Evaluation}
    if task not in works:
        raise ValueError(f"RecTools has no task '{task}'")
    return works[task](settings)
