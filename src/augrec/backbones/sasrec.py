"""SASRec (Kang and McAuley, ICDM 2018): a causal transformer over the history, in the post-norm form most libraries
train."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from augrec.backbones.transformer import TransformerBackbone, TransformerConfig


class SASRecConfig(TransformerConfig):
    """Settings of SASRec."""

    temperature: float | None = Field(default=None, gt=0)
    """Tau of the score tau * cosine(query, item), PDRec's (5 on Amazon, 10 on Douban); None is the inner product."""


class SASRec(TransformerBackbone):
    """SASRec over packed tokens: a state depends on its own token and on earlier ones."""

    name: ClassVar[str] = "sasrec"
    causal: ClassVar[bool] = True
    Config = SASRecConfig

    def build_head(self, config: TransformerConfig) -> None:
        assert isinstance(config, SASRecConfig)
        self.temperature = config.temperature
