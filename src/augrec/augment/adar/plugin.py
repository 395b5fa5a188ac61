"""ADAR at the seams: a denoiser phase before the encoder's, then a shift of the ranking margin (arXiv 2601.01448, Alg.
1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from augrec.augment.adar.arms import Adar, Generated
from augrec.augment.adar.config import AdarConfig, preset
from augrec.seams import Additions, Group, Needs, Offset, Phase, Plugin, Seam

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from augrec.backbones.base import Kind
    from augrec.batches.batch import Batch
    from augrec.seams import Encoded


class ADAR(Plugin):
    """Generated negatives at the transition point of a diffusion, or one of the control arms, on any backbone.

    Equation 12: s_i - s_j becomes s_i - (s_j + lambda s_d), with s_d = e_u . e_d and e_d without gradient. The
    denoiser is trained
    on detached vectors, so its loss never reaches the encoder and the ranking loss never reaches the denoiser.
    """

    name: ClassVar[str] = "adar"
    Config = AdarConfig
    acts: ClassVar[frozenset[Seam]] = frozenset({"offset", "losses", "phases"})

    def __init__(self, config: AdarConfig, *, kind: Kind, dim: int, n_items: int) -> None:
        super().__init__(config, kind=kind, dim=dim, n_items=n_items)
        self.settings = config
        self.adar = Adar(config, width=dim, kind="sequences" if kind == "sequences" else "pairs")
        uses_negatives = config.source == "ridge" or (config.selector == "theorem" and config.rho is None)
        self.needs = Needs(negatives=uses_negatives)
        self._epoch = 1
        self._made: Generated | None = None

    @classmethod
    def preset(cls, name: str, *, kind: Kind) -> Mapping[str, Any]:
        return preset(name).model_dump(exclude_defaults=True)

    @property
    def active(self) -> bool:
        return self.settings.weight > 0 and self.settings.source != "off"

    def start_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def groups(self) -> Mapping[str, Group]:
        if not self.adar.trains:
            return {}
        parameters = tuple(self.adar.parameters())
        own = Group(
            parameters=parameters, learning_rate=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        return {"adar": own}

    def phases(self) -> tuple[Phase, ...]:
        if not self.adar.trains:
            return ()
        return tuple(Phase(name="adar", group="adar", loss=self._denoise) for _ in range(self.settings.diffusion_steps))

    def _denoise(self, batch: Batch, encoded: Encoded) -> Tensor:
        with torch.no_grad():
            positive = encoded.positive
        return self.adar.diffusion_loss(positive, encoded.query)

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        self._made = None
        if self._epoch <= self.settings.warmup_epochs:
            return Additions()
        query, negatives = encoded.query, encoded.negatives
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.settings.source == "ridge"):
            positive = encoded.positive
            score = (query * positive).sum(-1)
            negative: Tensor | None = None
            if self.needs.negatives and negatives is not None:
                rows = negatives.rows(encoded.tables)
                # Several negatives weigh as one of their mean score.
                negative = torch.einsum("md,mkd->mk", query, rows).mean(1) if rows.dim() == 3 else None
            made = self.adar.augment(query, positive, positive_score=score, negative_score=negative)
        self._made = made
        if made.vectors is None:
            return Additions()
        return Additions(offsets=(Offset(score=(query * made.vectors).sum(-1), weight=made.weight),))

    def losses(self, batch: Batch, encoded: Encoded) -> Mapping[str, Tensor]:
        if self._made is None or self._made.penalty is None:
            return {}
        return {"ridge": self._made.penalty.mean()}

    def epoch_log(self) -> Mapping[str, Any]:
        found = self.adar.statistics(reset=True)
        if not found.rows:
            return {}
        return {
            "t_star_mean": round(found.mean, 6),
            "saturated": round(found.saturated, 6),
            "t_star": list(found.histogram),
        }
