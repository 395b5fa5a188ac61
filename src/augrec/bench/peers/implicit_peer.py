"""implicit 0.7.3: its BPR, a stochastic gradient descent one pair at a time in C++. Runs in its own environment."""

from __future__ import annotations

import os
from typing import Any

EPOCHS = 4
"""Epochs of a unit: its `fit` makes the matrix ready anew each time, which a user pays once."""


class Program:
    """BPR of 63 factors, to which it adds one for the items' bias, and the train part as a matrix."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import implicit
        import numpy as np
        from implicit.cpu.bpr import BayesianPersonalizedRanking
        from scipy.sparse import csr_matrix

        with np.load(settings["log"], allow_pickle=False) as found:
            user, item = found["user"], found["item"]
        sizes = np.bincount(user)
        left = np.cumsum(sizes)[user] - 1 - np.arange(len(user))
        train = left >= 2
        shape = (int(user.max()) + 1, int(item.max()) + 1)
        ones = np.ones(int(train.sum()), dtype=np.float32)
        self.matrix = csr_matrix((ones, (user[train], item[train])), shape=shape)
        self.threads = int(os.environ["OMP_NUM_THREADS"])
        self.model = BayesianPersonalizedRanking(
            factors=63, iterations=EPOCHS, num_threads=self.threads, random_state=0
        )  # fmt: skip
        self.model.fit(self.matrix, show_progress=False)
        self.users = np.unique(user[left == 0])
        self.info: dict[str, Any] = {
            "version": implicit.__version__, "users": shape[0], "items": shape[1], "targets": int(self.matrix.nnz),
            "scale": 1.0,
        }  # fmt: skip

    def ready(self) -> None:
        """Nothing."""


class Epoch(Program):
    """Epochs of its BPR: as many draws as the matrix has entries."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.info |= {"scale": 1.0 / EPOCHS, "extrapolated": False}

    def unit(self) -> None:
        """Some epochs."""
        self.model.fit(self.matrix, show_progress=False)


class Lists(Program):
    """Lists of 20 for all users, train items left out; it has no metrics of its own that fit here."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.info |= {"evaluated": len(self.users)}

    def unit(self) -> None:
        """Lists of everybody."""
        self.model.recommend(self.users, self.matrix[self.users], N=20, filter_already_liked_items=True)


def open_work(task: str, settings: dict[str, Any]) -> Any:
    """The work of a task."""
    works: dict[str, Any] = {"train": Epoch, "evaluate": Lists}
    if task not in works:
        raise ValueError(f"implicit has no task '{task}'")
    return works[task](settings)
