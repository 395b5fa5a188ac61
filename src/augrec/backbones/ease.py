"""EASE, a linear item-item model in closed form (Steck, Embarrassingly Shallow Autoencoders, WWW 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.linalg import get_lapack_funcs
from torch.nn import functional

from augrec.backbones.itemknn import binary_rows
from augrec.errors import NumericalError, UsageError
from augrec.typed import Config

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.data.interactions import Interactions

# Columns mirrored at once when the lower triangle is copied to the upper.
_STRIP = 1024


class EASEConfig(Config):
    """Settings of EASE.

    lambda was chosen on the validation part of Beauty: the best recall@20 of the ratio split (.1424) among 50, 100,
    250, 500 and 1000, and on leave-one-out, among 50, 100 and 250, between the best with seen items masked (50:
    ndcg@10 .0519, here .0513) and kept (250: .0369, here .0358).
    """

    regularisation: float = Field(default=100.0, gt=0.0, allow_inf_nan=False)
    """lambda, the weight of the squared norm of B."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the inversion. The scores are float32 in either case."""
    memory_budget_mb: int = Field(default=4096, ge=1)
    """Largest dense item-item matrix that may be built, in MiB (I x I x 4 or 8 bytes)."""


class EASE:
    """Scores X_u B with B the minimiser of |X - X B|^2 + lambda |B|^2 under a zero diagonal.

    With P = (X^T X + lambda I)^-1, equation (8) of the paper: B_ij = -P_ij / P_jj off the diagonal. X is binary,
    repeated interactions count once.
    """

    Config = EASEConfig

    def __init__(self, weights: Tensor, *, config: EASEConfig | None = None) -> None:
        """Take `weights` B (I, I); row i is what item i of a history adds to every item's score."""
        self.config = config or EASEConfig()
        self.weights = weights
        self.n_items = int(weights.shape[0])

    @classmethod
    def fit(cls, train: Interactions, *, config: EASEConfig | None = None) -> EASE:
        """Invert the regularised co-occurrence matrix of `train`, in place: memory stays near one I x I matrix.

        Raises UsageError when that matrix would exceed `memory_budget_mb`.
        """
        config = config or EASEConfig()
        dtype = np.dtype(config.dtype)
        n_items = train.n_items
        needed = n_items * n_items * dtype.itemsize / (1 << 20)
        if needed > config.memory_budget_mb:
            raise UsageError(
                f"EASE on {n_items} items needs a dense {n_items} x {n_items} matrix of {needed:,.0f} MiB, over the "
                f"budget of {config.memory_budget_mb} MiB: raise memory_budget_mb if the machine has it, filter "
                "rare items, or use ItemKNN."
            )
        users = binary_rows(train, np.arange(train.n_users, dtype=np.int64)).astype(dtype)
        gram = np.zeros((n_items, n_items), dtype=dtype, order="F")
        (users.T @ users).tocsc().toarray(out=gram)
        gram[np.diag_indices(n_items)] += config.regularisation
        factor, invert = get_lapack_funcs(("potrf", "potri"), (gram,))
        # LAPACK works in the lower triangle of the very same memory.
        lower, failed = factor(gram, lower=1, overwrite_a=1, clean=0)
        if not failed:
            lower, failed = invert(lower, lower=1, overwrite_c=1)
        if failed:
            raise NumericalError(
                f"X^T X + {config.regularisation} I is not positive definite in {config.dtype}: raise the "
                "regularisation or use dtype float64."
            )
        scale = -1.0 / np.diag(lower).copy()
        for start in range(0, n_items, _STRIP):
            stop = min(start + _STRIP, n_items)
            square = lower[start:stop, start:stop]
            square[:] = np.tril(square) + np.tril(square, -1).T
            lower[start:stop, stop:] = lower[stop:, start:stop].T
        weights = lower.T  # P is symmetric, so the transposed view is P in the row-major order that scoring reads
        weights *= scale
        np.fill_diagonal(weights, 0.0)
        return cls(torch.from_numpy(weights.astype(np.float32, copy=False)), config=config)

    def score(self, user: Tensor, history: Interactions) -> Tensor:
        """Scores (B, I) float32 from the users' rows of `history`."""
        rows = binary_rows(history, user.cpu().numpy())
        weights = self.weights.to(user.device)
        index = torch.from_numpy(rows.indices.astype(np.int64)).to(user.device)
        offsets = torch.from_numpy(rows.indptr[:-1].astype(np.int64)).to(user.device)
        return functional.embedding_bag(index, weights, offsets, mode="sum")
