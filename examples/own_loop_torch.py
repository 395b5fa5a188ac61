"""ADAR in somebody else's loop: a bare matrix factorisation and plain PyTorch. Nothing of augrec trains here.

python examples/own_loop_torch.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import augrec
from augrec.augment.adar import Adar, AdarConfig


class BareMF(nn.Module):
    """One vector a user, one an item."""

    def __init__(self, n_users: int, n_items: int, dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.user = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_users, dim), generator=generator))
        self.item = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_items, dim), generator=generator))


def denoiser_loss(model: BareMF, adar: Adar, user: Tensor, item: Tensor) -> Tensor:
    """First line: equation 8; its gradient reaches the denoiser alone."""
    return adar.diffusion_loss(F.embedding(item, model.item), F.embedding(user, model.user))


def ranking_loss(model: BareMF, adar: Adar, user: Tensor, item: Tensor, negative: Tensor) -> Tensor:
    """BPR; the two marked lines are ADAR's, equation 12."""
    query, positive = F.embedding(user, model.user), F.embedding(item, model.item)
    score, other = (query * positive).sum(1), (query * F.embedding(negative, model.item)).sum(1)
    made = adar.augment(query, positive, positive_score=score, negative_score=other)  # second line
    other = other + made.weight * (query * made.vectors).sum(1)  # third line
    return F.softplus(other - score).mean()


def main(steps: int = 200, batch_size: int = 2048) -> list[float]:
    """Trains on the embedded data set for a few steps; returns the ranking losses."""
    log = augrec.load("beauty")
    generator = torch.Generator().manual_seed(0)
    users, items = torch.tensor(log.user).long(), torch.tensor(log.item).long()
    model = BareMF(log.n_users, log.n_items, 64, generator)
    adar = Adar(AdarConfig(weight=0.5), width=64, kind="pairs", generator=generator)
    for_model = torch.optim.Adam(model.parameters(), lr=1e-2)
    for_adar = torch.optim.Adam(adar.parameters(), lr=1e-3)
    losses = []
    for step in range(steps):
        row = torch.randint(len(users), (batch_size,), generator=generator)
        negative = torch.randint(log.n_items, (batch_size,), generator=generator)
        for_adar.zero_grad()
        denoiser_loss(model, adar, users[row], items[row]).backward()
        for_adar.step()
        for_model.zero_grad()
        loss = ranking_loss(model, adar, users[row], items[row], negative)
        loss.backward()
        for_model.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: ranking loss {losses[-1]:.4f}, {adar.statistics(reset=True).mean:.2f} mean t*/T")
    return losses


if __name__ == "__main__":
    main()
