"""ADAR in somebody else's Fabric loop: the encoder and the denoiser are two modules with an optimiser each.

python examples/own_loop_fabric.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

import augrec
from augrec.augment.adar import Adar, AdarConfig


class BareMF(nn.Module):
    """One vector a user, one an item; `forward` looks up a batch."""

    def __init__(self, n_users: int, n_items: int, dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.user = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_users, dim), generator=generator))
        self.item = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_items, dim), generator=generator))

    def forward(self, user: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """(M, D) query vectors and (M, n, D) vectors of `items` (M, n)."""
        return F.embedding(user, self.user), F.embedding(items, self.item)


class Train:
    """Two optimisers and the two steps of a batch."""

    def __init__(self, fabric: Fabric, model: BareMF, adar: Adar, *, learning_rate: float = 1e-2) -> None:
        self.fabric, self.adar = fabric, adar
        for_model = torch.optim.Adam(model.parameters(), lr=learning_rate)
        for_adar = torch.optim.Adam(adar.parameters(), lr=adar.config.learning_rate)
        self.model, self.for_model = fabric.setup(model, for_model)
        wrapped, self.for_adar = fabric.setup(adar, for_adar)
        # Fabric must be told of methods other than forward that run the module.
        wrapped.mark_forward_method("diffusion_loss")
        wrapped.mark_forward_method("augment")
        self.plugin = wrapped

    def denoiser_step(self, user: Tensor, item: Tensor) -> float:
        """Equation 8; the vectors are detached inside."""
        query, vectors = self.model(user, item[:, None])
        loss = self.plugin.diffusion_loss(vectors[:, 0], query)
        self.fabric.backward(loss)
        self.for_adar.step()
        self.for_adar.zero_grad()
        return float(loss.detach())

    def ranking_step(self, user: Tensor, item: Tensor, negative: Tensor) -> float:
        """BPR with equation 12."""
        query, vectors = self.model(user, torch.stack([item, negative], 1))
        score, other = torch.einsum("md,mkd->km", query, vectors)
        made = self.plugin.augment(query, vectors[:, 0], positive_score=score, negative_score=other)
        loss = F.softplus(other + made.weight * (query * made.vectors).sum(1) - score).mean()
        self.fabric.backward(loss)
        self.for_model.step()
        self.for_model.zero_grad()
        return float(loss.detach())


def main(steps: int = 200, batch_size: int = 2048) -> list[float]:
    """Trains on the embedded data set for a few steps; returns the ranking losses."""
    fabric = Fabric(accelerator="auto", devices=1)
    log = augrec.load("beauty")
    generator = torch.Generator().manual_seed(0)
    users, items = torch.tensor(log.user).long(), torch.tensor(log.item).long()
    adar = Adar(AdarConfig(weight=0.5), width=64, kind="pairs", generator=generator)
    train = Train(fabric, BareMF(log.n_users, log.n_items, 64, generator), adar)
    losses = []
    for step in range(steps):
        row = torch.randint(len(users), (batch_size,), generator=generator)
        negative = torch.randint(log.n_items, (batch_size,), generator=generator)
        user, item, negative = fabric.to_device((users[row], items[row], negative))
        train.denoiser_step(user, item)
        losses.append(train.ranking_step(user, item, negative))
        if (step + 1) % 50 == 0:
            fabric.print(f"step {step + 1}: ranking loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    main()
