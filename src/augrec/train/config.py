"""Settings of the training loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from augrec.typed import Config

PAIR_BATCH, TARGET_BATCH, USER_BATCH = 2048, 512, 400
"""Batch sizes where none is set. 512 targets: SASRec-softmax on Beauty (seed 0) reached validation NDCG@10 .0511 in 24
epochs, with 1,024 it took 47 to reach .0512."""

SPARSE_ROWS = 1 << 18
"""Rows from which a table that is only looked up has sparse gradients where nothing else is said."""

SEQUENCE_AVERAGE = 0.999
"""Decay of the weight average of sequence runs: it took that run's best validation NDCG@10 from .0511 to .0520."""


class TrainConfig(Config):
    """How long, how fast and by what a model is trained."""

    epochs: int = Field(default=200, ge=1)
    """Epochs at most."""
    batch_size: int | None = Field(default=None, ge=1)
    """Targets in a batch; None: 2,048 pairs, 512 sequence targets, or 400 users of a generative model."""
    rows: Literal["whole", "prefix", "prefix-dense"] = "whole"
    """Rows of a sequence model: whole histories, every event a target once (`whole`); one row for every event with a
    past, this event its only target (`prefix`); or with every event in it a target (`prefix-dense`), so that early
    events are targets again and again. See docs/protocols.md."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Adam's learning rate."""
    weight_decay: float = Field(default=0.0, ge=0)
    """L2 term inside Adam, or with adamw the decay beside it."""
    optimiser: Literal["adam", "adamw"] = "adam"
    """Of the encoder: adam adds the weight decay to the gradient, adamw takes it off the weights (decoupled)."""
    sparse: bool | None = None
    """Whether Adam moves a row of the user and item table when it is next looked up, by all steps since, and not at
    every step: the same weights up to rounding, at the cost of the rows touched. For mf, and for sequence models whose
    objective draws negatives; without weight decay. None: for tables of 262,144 rows or more, without plug-ins. See
    docs/benchmarks.md."""
    decay: float = Field(default=1.0, gt=0, le=1)
    """Factor on the encoder's learning rate after every epoch; 1 keeps it."""
    clip: float | None = Field(default=None, gt=0)
    """Largest gradient norm of the encoder; None does not clip."""
    patience: int = Field(default=10, ge=1)
    """Validations without a better value before training stops."""
    evaluate_every: int = Field(default=1, ge=1)
    """Epochs between validations."""
    average: float | None = Field(default=None, gt=0, lt=1)
    """Decay of a running average of the encoder's weights, validated and kept in their place; None keeps none, and a
    sequence run starts with 0.999."""
    select: str | None = None
    """Validation metric to select on; None: recall@20 for pairs, ndcg@10 for sequences."""
    select_part: Literal["valid", "test"] = "valid"
    """The part that the epoch is selected on. "test" is what some public code does; a result made so says it."""
    checkpoint_every: int = Field(default=1, ge=1)
    """Epochs between checkpoints."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads; None measures a few steps on one and on all cores and keeps the faster."""
