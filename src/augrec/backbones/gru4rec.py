"""GRU4Rec in its next-item form (Hidasi et al., ICLR 2016; the variant with a whole history a row, not
session-parallel batches)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from augrec.backbones.base import SequenceBackbone
from augrec.backbones.dropout import Dropout
from augrec.backbones.padding import Grid
from augrec.backbones.tables import Tables
from augrec.linear import Linear, matmul, own_product, pad_rows
from augrec.typed import Config

if TYPE_CHECKING:
    from augrec.batches.batch import Tokens
    from augrec.data.interactions import Interactions


class GRU4RecConfig(Config):
    """Settings of GRU4Rec."""

    dim: int = Field(default=64, ge=1)
    """Width of item vectors and queries."""
    hidden: int = Field(default=128, ge=1)
    """Width of the recurrent state."""
    layers: int = Field(default=1, ge=1)
    """Stacked GRU layers."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout on the inputs."""
    max_length: int = Field(default=50, ge=1)
    """Events of a history that are read."""
    temperature: float | None = Field(default=None, gt=0)
    """Tau of the score tau * cosine(query, item), PDRec's (5 on Amazon, 10 on Douban); None is the inner product."""


class GRU4Rec(SequenceBackbone):
    """GRU over the history, then a linear map back to the item width."""

    name: ClassVar[str] = "gru4rec"
    Config = GRU4RecConfig

    def __init__(
        self,
        config: GRU4RecConfig,
        *,
        n_users: int,
        n_items: int,
        train: Interactions | None = None,
        mask_token: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            n_users=n_users, n_items=n_items, dim=config.dim, max_length=config.max_length, mask_token=mask_token
        )
        self.temperature = config.temperature
        self.dropout = Dropout(config.dropout)
        self.gru = nn.GRU(config.dim, config.hidden, config.layers, bias=False, batch_first=True)
        self.out = Linear(config.hidden, config.dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter, generator=generator)
            else:
                nn.init.zeros_(parameter)

    def encode(self, tokens: Tokens, tables: Tables) -> Tensor:
        if not tokens.ids.shape[0]:
            # torch's GRU refuses a sequence without steps.
            return tables.item.new_zeros(0, self.dim)
        grid = Grid(tokens)
        padded = grid.pad(self.dropout(self.embed(tokens, tables)))
        if torch.is_grad_enabled() or not own_product(padded, self.item):
            states = self.gru(padded)[0]
        else:
            states = self._recur(padded)
        out: Tensor = self.out(grid.unpad(states))
        return out

    def _recur(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, H): what `self.gru` gives, without gradient, its products through oneDNN: the input's for
        all events at once."""
        rows, width = x.shape[0], self.gru.hidden_size
        x = pad_rows(x).transpose(0, 1).contiguous()
        for layer in range(self.gru.num_layers):
            inward, own = (getattr(self.gru, f"weight_{name}_l{layer}") for name in ("ih", "hh"))
            given = matmul(x.flatten(0, 1), inward.t()).unflatten(0, x.shape[:2])
            reset_update, new = given.split([2 * width, width], 2)
            state, x = x.new_zeros(x.shape[1], width), x.new_empty(*x.shape[:2], width)
            for event in range(x.shape[0]):
                gates, candidate = matmul(state, own.t()).split([2 * width, width], 1)
                reset, update = gates.add_(reset_update[event]).sigmoid_().split(width, 1)
                # tanh(a) = 2 sigmoid(2a) - 1, by the function that torch has vectorised: a third of tanh_'s time.
                candidate = torch.addcmul(new[event], reset, candidate).mul_(2).sigmoid_().mul_(2).sub_(1)
                state = torch.lerp(candidate, state, update, out=x[event])
        return x.transpose(0, 1)[:rows]
