"""Preferences of every user for every item, kept low rank: one model, trained once, read by HBR, DPA and NNS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from augrec.backbones.diffrec import DiffRec, TDiffRec, TDiffRecConfig, TIDiffRec, TIDiffRecConfig
from augrec.backbones.gru4rec import GRU4Rec
from augrec.backbones.sasrec import SASRec
from augrec.batches.batch import shared_tensor
from augrec.linear import matmul

if TYPE_CHECKING:
    from collections.abc import Iterator

    from augrec.backbones.base import Backbone
    from augrec.data.interactions import Interactions
    from augrec.seams import Fit

_CELLS = 1 << 23
"""Scores in a block, 32 MB: fewer users would have the product reorder the items' table too often."""


class PreferenceConfig(TIDiffRecConfig):
    """The model whose preferences the parts of PDRec read; the fields of TI-DiffRec, and how it is trained."""

    model: Literal["ti-diffrec", "t-diffrec", "sasrec", "gru4rec"] = "ti-diffrec"
    """What gives the preferences. SASRec is the paper's ablation; sequence models stand in with their own defaults."""
    seed: int | None = Field(default=0, ge=0)
    """Seed of its training; None takes the run's own. One number shares one model between all seeds of a comparison."""
    epochs: int = Field(default=200, ge=1)
    """Epochs at most."""
    patience: int = Field(default=10, ge=1)
    """Validations without a better value before training stops."""
    select: Literal["last-train-item", "nothing"] = "last-train-item"
    """last-train-item: each user's last train item is held out of its training and selects the epoch (ndcg@10);
    nothing: all epochs on all train items. Preferences are read from whole train histories in either case."""
    learning_rate: float | None = Field(default=None, gt=0)
    """None: 3e-4 for the diffusion models (published: 5e-5), 1e-3 for the others."""
    weight_decay: float | None = Field(default=None, ge=0)
    """None: 0.5 (decoupled) for the diffusion models, 0 for the others."""
    decay: float | None = Field(default=None, gt=0, le=1)
    """Factor on the learning rate after every epoch. None: 0.99 for the diffusion models, 1 for the others."""
    batch_size: int | None = Field(default=None, ge=1)
    """None: 400 users for the diffusion models, 512 targets for the others."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Preference:
    """xhat(u, i) = user[u] . item[i]; no users x items matrix."""

    user: Tensor
    """(U, D) float32."""
    item: Tensor
    """(I, D) float32."""
    padding: Tensor | None = None
    """(U,) preference for the padding token, where the model has a column for it."""

    def scores(self, user: Tensor, item: Tensor, *, at_once: int = 1 << 15) -> Tensor:
        """(N,) preferences of the pairs `user` (N,), `item` (N,), gathered."""
        pairs = zip(user.split(at_once), item.split(at_once), strict=True)
        found = [(self.user.index_select(0, u) * self.item.index_select(0, i)).sum(1) for u, i in pairs]
        return torch.cat(found) if found else self.user.new_zeros(0)

    def blocks(self, users: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Users (B,) and their preferences (B, I) for blocks of `users`; the caller may write into a block."""
        for part in users.split(max(1, _CELLS // max(self.item.shape[0], 1))):
            yield part, matmul(self.user.index_select(0, part), self.item.T)


def observed_cells(train: Interactions, users: Tensor) -> tuple[Tensor, Tensor]:
    """Places in `users` (n,) and items (n,) of the train events of `users` (B,)."""
    offsets, items = shared_tensor(train.offsets), shared_tensor(train.item)
    begin = offsets[users]
    length = offsets[users + 1] - begin
    row = torch.repeat_interleave(length)
    place = torch.arange(row.shape[0]) + (begin - (torch.cumsum(length, 0) - length))[row]
    return row, items[place].long()


def random_preference(train: Interactions, *, seed: int, width: int = 16) -> dict[str, Tensor]:
    """Preferences without any knowledge: the control arm of all three parts."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "user": torch.randn(train.n_users, width, generator=generator),
        "item": torch.randn(train.n_items, width, generator=generator),
    }


def _held_out(train: Interactions) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(n,) True at the last candidate event of every user who keeps two events or more."""
    inside = np.flatnonzero(train.in_candidates())
    last = np.zeros(train.n_users, dtype=np.int64)
    last[train.user[inside]] = inside
    chosen = np.bincount(train.user[inside], minlength=train.n_users).astype(bool) & (train.degrees() >= 3)
    held = np.zeros(len(train), dtype=np.bool_)
    held[last[chosen]] = True
    return held


def fit_preference(config: PreferenceConfig, train: Interactions, fit: Fit, *, seed: int) -> dict[str, Tensor]:
    """`user` (U, D), `item` (I, D) and, with a padding column, `padding` (U,): preferences after training on `train`.

    Raises `DataError` where TI-DiffRec is asked of a log without times.
    """
    learned, valid = train, None
    if config.select == "last-train-item":
        held = _held_out(train)
        learned, valid = train.part(~held), train.part(held)
    backbone = _make(config, learned, seed)
    settings: dict[str, Any] = {"patience": config.patience}
    if isinstance(backbone, DiffRec):
        settings |= dict(backbone.run_preset("default")["train"])
    own = {name: getattr(config, name) for name in ("learning_rate", "weight_decay", "decay", "batch_size")}
    settings |= {name: value for name, value in own.items() if value is not None}
    settings |= {"patience": config.patience}
    settings.pop("epochs", None)
    fitted = fit(
        backbone,
        objective=backbone.objective or "softmax",
        train=learned,
        epochs=config.epochs,
        seed=seed,
        valid=valid,
        settings=settings,
    ).eval()
    with torch.no_grad():
        tables = fitted.tables()
        every = torch.arange(train.n_users)
        user = torch.cat([fitted.query_users(part, train, tables) for part in every.split(4096)] or [tables.item[:0]])
        found = {"user": user.float().contiguous(), "item": tables.item.float().clone()}
        if isinstance(fitted, DiffRec) and config.padding_column:
            found["padding"] = (user @ fitted.outward[-1]).float()
    return {name: tensor.detach() for name, tensor in found.items()}


def _make(config: PreferenceConfig, train: Interactions, seed: int) -> Backbone:
    sizes: dict[str, Any] = {"n_users": train.n_users, "n_items": train.n_items, "train": train}
    # Some modules draw from torch's own generator before their start is set; the caller's state is not ours to move.
    with torch.random.fork_rng(devices=[]):
        generator = torch.Generator().manual_seed(seed)
        torch.set_rng_state(generator.get_state())
        if config.model in ("ti-diffrec", "t-diffrec"):
            by_time = config.model == "ti-diffrec"
            names = (TIDiffRecConfig if by_time else TDiffRecConfig).model_fields
            fields = {name: getattr(config, name) for name in names}
            if by_time:
                return TIDiffRec(TIDiffRecConfig(**fields), generator=generator, **sizes)
            return TDiffRec(TDiffRecConfig(**fields), generator=generator, **sizes)
        kind: Any = {"sasrec": SASRec, "gru4rec": GRU4Rec}[config.model]
        made: Backbone = kind(kind.Config(), generator=generator, **sizes)
        return made
