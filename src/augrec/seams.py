"""The seams: where an augmentation may act, as contracts only, in the order data flows. Nothing here trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from augrec.batches.batch import Batch, Tokens

if TYPE_CHECKING:
    from augrec.backbones.base import Backbone, Kind
    from augrec.backbones.tables import Tables
    from augrec.data.interactions import Interactions
    from augrec.typed import Config

Seam = Literal["log", "views", "weights", "positives", "replace", "append", "offset", "losses", "phases"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a plug-in or objective wants made; the fast paths serve exactly this."""

    hops: bool = False
    """Per-hop node tables (`Tables.hops`)."""
    mask_token: bool = False
    """A mask token in the backbone."""
    negatives: bool = False
    """Sampled negatives for each target."""
    mix: bool = False
    """The encoder's layers seeing both ways (`Tables.mix`)."""
    every_item: bool = False
    """Gradients of every item's vector in every batch; sparse ones are not made then."""
    kinds: frozenset[Kind] = frozenset({"pairs", "sequences"})
    """Backbones it works on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Negatives:
    """K negatives for each target: ids that are looked up, or vectors made by somebody."""

    ids: Tensor | None = None
    """(M, K) int64, or (S,) where the whole batch shares them."""
    vectors: Tensor | None = None
    """(M, K, D); wins over ids."""
    layer0: Tensor | None = None
    """(M, K, D0) rows the L2 term is taken on, where they differ from the looked-up ones."""
    mode: Literal["replace", "append"] = "replace"
    share: float = 1.0
    """What an appended source weighs beside the base source, whose share is 1."""

    def rows(self, tables: Tables) -> Tensor:
        """(M, K, D) the vectors, or (S, D): looked up where only ids are given."""
        assert self.vectors is not None or self.ids is not None
        return tables.items(self.ids) if self.vectors is None else self.vectors  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftPositives:
    """Extra positives: a binary cross-entropy term of its own beside any objective (PDRec's DPA)."""

    query: Tensor
    """(Q, D)."""
    ids: Tensor
    """(Q, n) int64 items taken as liked."""
    weight: float
    scale: float = 1.0
    cosine: bool = False
    """Score by scale times the cosine and not by scale times the inner product."""
    vectors: Tensor | None = None
    """(Q, n, D) of the ids, where looked up already."""
    products: Tensor | None = None
    """(Q, n) inner products of the query with the ids' vectors, without gradient, where they are known already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Offset:
    """A shift of the ranking margin: ADAR's equation 12 is s_i - s_j - weight * score."""

    score: Tensor
    """(M,) with gradient where the method wants it."""
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Additions:
    """What plug-ins add to the targets of a batch. Composition order: replace, append, offset."""

    weights: Tensor | None = None
    """(M,) weight of each positive, without gradient."""
    positives: tuple[SoftPositives, ...] = ()
    replaced: Negatives | None = None
    appended: tuple[Negatives, ...] = ()
    offsets: tuple[Offset, ...] = ()

    def merge(self, other: Additions) -> Additions:
        """Both together; a second replacement wins (two replacing plug-ins are refused when a run is built)."""
        weights = self.weights if other.weights is None else other.weights
        if self.weights is not None and other.weights is not None:
            weights = self.weights * other.weights
        return Additions(
            weights=weights, positives=self.positives + other.positives, replaced=other.replaced or self.replaced,
            appended=self.appended + other.appended, offsets=self.offsets + other.offsets,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One more set of sequences to encode together with the batch's own."""

    name: str
    tokens: Tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedView:
    """A view after encoding; on a bidirectional backbone `last` is at a mask token: the query for what is next."""

    tokens: Tokens
    states: Tensor
    """(N, D)."""

    @property
    def last(self) -> Tensor:
        """(B, D) the state at each row's last token."""
        return self.states.index_select(0, self.tokens.last)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A batch after encoding: all a plug-in or objective scores with."""

    tables: Tables
    query: Tensor
    """(M, D)."""
    target: Tensor | None = None
    """(M,) int64, the items to rank high; None where a generative backbone has its own loss."""
    negatives: Negatives | None = None
    """Base negatives, as ids or as replaced so far; None where the objective needs none."""
    anchor: EncodedView | None = None
    """The batch's own sequences; on a bidirectional backbone those with hidden items."""
    views: Mapping[str, EncodedView] = field(default_factory=dict)
    own: Tensor | None = None
    """The loss of a generative backbone, which makes no queries."""

    @property
    def positive(self) -> Tensor:
        """(M, D) scoring vectors of the targets, looked up when somebody asks, with gradient where that is enabled."""
        assert self.target is not None
        return self.tables.items(self.target)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Parameters with an optimiser of their own; gradients are clipped per group."""

    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    weight_decay: float = 0.0
    clip: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One optimiser step of a batch: a loss and the group it moves ("main" is the encoder's)."""

    name: str
    group: str
    loss: Callable[[Batch, Encoded], Tensor] | None
    """None is the ranking loss with all its additions."""
    when: Literal["before", "after"] = "before"


class Fit(Protocol):
    """The training loop, handed to `prepare` so that no plug-in imports it."""

    def __call__(
        self, backbone: Backbone, *, objective: str, train: Interactions, epochs: int, seed: int,
        valid: Interactions | None = None, settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> Backbone:  # fmt: skip
        """`backbone` trained on `train` with the named objective and no plug-in. `valid` (rows held out of `train`)
        selects the epoch by full-ranking ndcg@10, else the last is kept; `settings` are fields of the loop."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a plug-in made before training."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Saved, cached and given back through `Plugin.load_prepared`."""
    train: Interactions | None = None
    """The rewritten train log, if the plug-in rewrites it."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What plug-ins that were prepared together make of it together, in memory only."""


class Plugin(nn.Module):
    """A training-time augmentation. Every seam has a default that does nothing; a method overrides those it acts at."""

    name: ClassVar[str]
    acts: ClassVar[frozenset[Seam]]
    """The seams it uses; the composer and the objectives refuse what cannot work, by these."""
    needs: Needs = Needs()
    prepares: ClassVar[bool] = False
    """True where `prepare` has work to do."""
    off: ClassVar[Mapping[str, Any]] = MappingProxyType({"weight": 0.0})
    """Config fields that switch it off."""
    shared: ClassVar[Mapping[str, type[Config]]] = MappingProxyType({})
    """Parts of the run it reads beside its own, which several plug-ins have in common."""

    def __init__(self, config: Config, *, kind: Kind, dim: int, n_items: int) -> None:
        """`kind`, `dim` and `n_items` are the backbone's. Draws from torch's own generator; a run swaps a stream in."""
        super().__init__()
        self.config, self.kind, self.dim, self.n_items = config, kind, dim, n_items

    @property
    def active(self) -> bool:
        """False where the config switches it off (see `off`); it is then not built into the run."""
        return True

    @classmethod
    def preset(cls, name: str, *, kind: Kind) -> Mapping[str, Any]:
        """Config fields that the preset `name` sets on a backbone of this kind; "default" sets none."""
        return {}

    @classmethod
    def run_preset(cls, name: str) -> Mapping[str, Mapping[str, Any]]:
        """Fields that the preset sets in other parts of the run: shared ones, "train", "evaluate"."""
        return {}

    @classmethod
    def deviations(cls, config: Any) -> tuple[str, ...]:
        """Switches that depart from the clean protocol, by name; the result lists them."""
        return ()

    def adopt(self, parts: Mapping[str, Config]) -> None:
        """Takes the run's `shared` parts, once, before `prepare`; until then their defaults hold."""

    def prepared_key(self, seed: int) -> list[Any]:
        """What prepared state depends on beside the train rows, as JSON; equal keys share one preparation."""
        return [self.name, self.config.model_dump(mode="json"), seed]

    def prepare(self, train: Interactions, fit: Fit, *, seed: int) -> Prepared:
        """Once, before training, from the train log only."""
        return Prepared()

    def load_prepared(self, prepared: Prepared, train: Interactions) -> None:
        """Takes back what `prepare` made, once; samplers and indices of `train`, the log trained on, are built here."""

    def inputs(self, batch: Batch, tables: Tables) -> tuple[View, ...]:
        """More sequences to encode with it."""
        return ()

    def targets(self, batch: Batch, encoded: Encoded) -> Additions:
        """What is added to the targets after encoding."""
        return Additions()

    def losses(self, batch: Batch, encoded: Encoded) -> Mapping[str, Tensor]:
        """Own terms, already weighted."""
        return {}

    def groups(self) -> Mapping[str, Group]:
        """Parameter groups with optimisers of their own, by name; other parameters train with the encoder."""
        return {}

    def phases(self) -> tuple[Phase, ...]:
        """Optimiser steps of its own, before or after the encoder's."""
        return ()

    def start_epoch(self, epoch: int) -> None:
        """Told before each epoch, from 1; schedules (warm-up, curricula) hang on it."""

    def epoch_log(self) -> Mapping[str, Any]:
        """Figures for the epoch's line in metrics.jsonl; called once an epoch, may reset counters."""
        return {}


class Objective(Protocol):
    """Batch, encoding and additions in; one scalar out."""

    name: str
    needs: Needs
    refuses: frozenset[Seam]
    """Seams that make no sense with it."""
    samples: bool
    """Whether it draws negatives for each target."""
    splits: bool
    """Whether it is a mean over targets, each by itself, so that processes can share it."""

    def inputs(self, batch: Batch) -> Batch:
        """The batch it trains on, where it wants another; drawn from the objective's own stream."""

    def draw(self, batch: Batch) -> Negatives:
        """Its base negatives, as ids: (M, K) for each target, (S,) shared by the batch, or none (K = 0)."""

    def __call__(self, batch: Batch, encoded: Encoded, additions: Additions) -> Tensor:
        """The ranking loss, a scalar."""
