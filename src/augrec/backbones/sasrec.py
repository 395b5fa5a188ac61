"""SASRec (Kang and McAuley, ICDM 2018): a causal transformer over the history, in the post-norm form most libraries
train."""

from __future__ import annotations

from typing import ClassVar

from augrec.backbones.transformer import TransformerBackbone, TransformerConfig


class SASRecConfig(TransformerConfig):
    """Settings of SASRec."""


class SASRec(TransformerBackbone):
    """SASRec over packed tokens: a state depends on its own token and on earlier ones."""

    name: ClassVar[str] = "sasrec"
    causal: ClassVar[bool] = True
    Config = SASRecConfig
