"""DNS (Zhang et al., SIGIR 2013): of some sampled items, the one the model ranks highest; or one of the M highest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field

from augrec.augment.candidates import CandidateConfig, CandidatePlugin, score_candidates
from augrec.errors import ConfigError
from augrec.seams import Additions, Negatives

if TYPE_CHECKING:
    from torch import Tensor

    from augrec.backbones.base import Kind
    from augrec.batches.batch import Batch
    from augrec.seams import Encoded


class DNSConfig(CandidateConfig):
    """Settings of dynamic negative sampling."""

    top: int = Field(default=1, ge=1)
    """The negative is drawn uniformly among the `top` highest-scored candidates; 1 takes the highest, DNS itself."""


def dns_select(
    query: Tensor, table: Tensor, candidates: Tensor, *, top: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """(M, K) item ids: of each set of C candidates the highest-scored, or a uniform draw among the `top` highest.

    Args:
        query: (M, D).
        table: (I, D) scoring vectors of the items.
        candidates: (M, K, C) int64.
        top: 1 <= top <= C.
        generator: source of the draw for top > 1; None is torch's own.
    """
    scores = score_candidates(query, table, candidates)
    if top == 1:
        place = scores.argmax(2, keepdim=True)
    else:
        source = query.device if generator is None else generator.device
        drawn = torch.randint(top, (*candidates.shape[:2], 1), generator=generator, device=source)
        place = scores.topk(top, dim=2).indices.gather(2, drawn.to(query.device))
    return candidates.gather(2, place).squeeze(2)


class DNS(CandidatePlugin):
    """Dynamic negative sampling, and its top-M variant."""

    name: ClassVar[str] = "dns"
    Config = DNSConfig

    def __init__(self, config: DNSConfig, *, kind: Kind, dim: int, n_items: int) -> None:
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        if 0 < config.candidates < config.top:
            raise ConfigError(
                f"dns.top = {config.top} is more than dns.candidates = {config.candidates}; lower top or raise "
                f"candidates"
            )
        self.top = config.top

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        candidates = self.draw(batch, encoded)
        chosen = dns_select(encoded.query, encoded.tables.item, candidates, top=self.top)
        return Additions(replaced=Negatives(ids=chosen))
