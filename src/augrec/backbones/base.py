"""What a recommender's encoder and a scorer are, for everybody else in the house.

Shape letters used everywhere: B rows of a batch, N packed tokens, M targets, K negatives per target, D width, I items,
U users.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from augrec.backbones.lookups import Lookups
from augrec.backbones.tables import Tables
from augrec.batches.batch import shared_tensor
from augrec.batches.masking import append_mask, hide_items
from augrec.batches.sequences import last_windows
from augrec.linear import matmul

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from augrec.batches.batch import Batch, Tokens
    from augrec.batches.masking import Masking
    from augrec.data.interactions import Interactions

Kind = Literal["pairs", "sequences", "users"]


@runtime_checkable
class Scorer(Protocol):
    """Anything that can score every item for some users. Higher is better; scores are finite."""

    n_items: int

    def score(self, user: Tensor, history: Interactions) -> Tensor:
        """Scores of all items, (B, I) float32, for the users `user` (B,) int64.

        `history` holds the events known at this point (train, or train + validation); a sequence model reads the
        user's last
        events from it, a neighbourhood model the user's row, a factorisation model nothing. Seen items are *not*
        masked here.
        """
        ...


@runtime_checkable
class QueryScorer(Scorer, Protocol):
    """A scorer whose users become vectors first, so that many users are encoded together and scored in blocks."""

    def queries(self, user: Tensor, history: Interactions) -> Tensor:
        """(B, D): the vectors that rank for the users `user` (B,) when `history` is known."""
        ...

    def score_queries(self, query: Tensor) -> Tensor:
        """(B, I) float32, the scores of all items for queries (B, D)."""
        ...


class Backbone(nn.Module):
    """An encoder whose score is the inner product `query . item`.

    Subclasses are plain modules: built from sizes and a typed config, usable in anybody's loop.
    """

    kind: ClassVar[Kind]
    name: ClassVar[str]
    causal: ClassVar[bool] = True
    """Whether a state depends on its own token and earlier ones only. A backbone that sees both ways says False and
    sets `masking`: it learns hidden items, as every other target would stand in its input."""
    masking: Masking | None = None
    """How a bidirectional backbone hides items; None on a causal one."""
    mixes: ClassVar[bool] = False
    """True where `tables()` carries `Tables.mix`."""
    objective: ClassVar[str | None] = None
    """The objective it is trained with unless another is asked for; None: bpr for pairs, softmax for sequences."""
    sparse: bool = False
    """Whether gradients of the table that is `looked_up` are sparse while others train it; see `TrainConfig.sparse`."""
    on_lookup: Callable[[Tensor], None] | None = None
    """Told the rows of that table before they are read, so that an optimiser can bring them up to date."""
    reads_time: ClassVar[bool] = False
    """Whether scores depend on the times of a history's events; a bundle then keeps them."""

    def __init__(self, *, n_users: int, n_items: int, dim: int) -> None:
        super().__init__()
        self.n_users, self.n_items, self.dim = n_users, n_items, dim

    @classmethod
    def width(cls, config: Any) -> int:
        """D of the scoring vectors under these settings, before a backbone is made: what plug-ins are built for."""
        return int(config.dim)

    @classmethod
    def run_preset(cls, name: str) -> Mapping[str, Mapping[str, Any]]:
        """Fields that the preset `name` sets, by part of the run: the backbone's own name, "train", "evaluate"."""
        return MappingProxyType({})

    @classmethod
    def deviations(cls, config: Any) -> tuple[str, ...]:
        """Switches in these settings that depart from the clean protocol, by name; written into the result."""
        return ()

    def looked_up(self) -> nn.Parameter | None:
        """The table (rows, D) of which a training step reads the rows it looks up and no others, so that it can have
        sparse gradients; None where every row is read."""
        return None

    def own_loss(self, batch: Batch, tables: Tables) -> Tensor | None:
        """The loss of a generative backbone, a scalar; None on one that ranks. Draws from torch's own generator."""
        return None

    def tables(self, *, hops: bool = False) -> Tables:
        """The scoring vectors under the current parameters, with gradient."""
        raise TypeError(f"{type(self).__name__} defines no tables()")

    def queries(self, batch: Batch, tables: Tables) -> Tensor:
        """(M, D): one vector a target."""
        raise TypeError(f"{type(self).__name__} defines no queries()")

    def penalty(self, batch: Batch, tables: Tables, negative0: Tensor | None) -> Tensor | None:
        """L2 term on the layer-0 rows of the batch (its users, targets and negatives), or None where the backbone has
        none.

        `negative0` is (M, K, D0). Value: l2 / (2 M) (||u0||^2 + ||i0||^2 + ||j0||^2), as LightGCN and MixGCF write it.
        """
        return None

    def query_users(self, user: Tensor, history: Interactions, tables: Tables) -> Tensor:
        """(B, D): the vectors that rank for `user` when `history` is known."""
        raise TypeError(f"{type(self).__name__} defines no query_users()")


class PairBackbone(Backbone):
    """A backbone with one vector a user. Users and items are one `nodes` parameter (U + I, D0), users first."""

    kind: ClassVar[Kind] = "pairs"

    def __init__(
        self,
        *,
        n_users: int,
        n_items: int,
        dim: int,
        l2: float,
        width: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """`dim` is D0, the width of `nodes`; `width` is D, that of the scoring vectors, where it differs."""
        super().__init__(n_users=n_users, n_items=n_items, dim=dim if width is None else width)
        self.l2 = l2
        nodes = torch.empty(n_users + n_items, dim)
        nn.init.xavier_uniform_(nodes[:n_users], generator=generator)
        nn.init.xavier_uniform_(nodes[n_users:], generator=generator)
        self.nodes = nn.Parameter(nodes)

    def split(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """(U, D) and (I, D) views of a node table."""
        user, item = nodes.split([self.n_users, self.n_items])
        return user, item

    def with_lookups(self, tables: Tables, out: Tensor | None) -> Tables:
        """`tables` with lookups: one gradient for the layer-0 rows, one for `out` (U + I, D), which the scoring vectors
        are views of (None: of nothing), or one for both where `out` is `nodes`."""
        if not (torch.is_grad_enabled() and self.nodes.requires_grad):
            return tables
        assert tables.user is not None and tables.user0 is not None
        sparse = self.sparse and self.looked_up() is self.nodes
        every = Lookups(self.nodes, sparse=sparse, before=self.on_lookup if sparse else None)
        found = [every.part(tables.user0, 0), every.part(tables.item0, self.n_users)]
        if out is not None:
            every = every if out is self.nodes else Lookups(out)
            found += [every.part(tables.user, 0), every.part(tables.item, self.n_users)]
        return replace(tables, lookups=tuple(found))

    def queries(self, batch: Batch, tables: Tables) -> Tensor:
        return tables.users(batch.user)

    def penalty(self, batch: Batch, tables: Tables, negative0: Tensor | None) -> Tensor | None:
        if self.l2 == 0:
            return None
        count = max(batch.target.shape[0], 1)
        total = tables.users0(batch.user).square().sum() + tables.items0(batch.target).square().sum()
        if negative0 is not None:
            total = total + negative0.square().sum()
        return total * (0.5 * self.l2 / count)

    def query_users(self, user: Tensor, history: Interactions, tables: Tables) -> Tensor:
        assert tables.user is not None
        return F.embedding(user, tables.user)


class SequenceBackbone(Backbone):
    """A backbone that reads a user's history. Subclasses define `encode`."""

    kind: ClassVar[Kind] = "sequences"
    temperature: float | None = None
    """Tau of the score tau * cosine(query, item); None scores by the inner product."""

    def __init__(self, *, n_users: int, n_items: int, dim: int, max_length: int, mask_token: bool) -> None:
        super().__init__(n_users=n_users, n_items=n_items, dim=dim)
        self.max_length = max_length
        self.item = nn.Parameter(torch.empty(n_items, dim))
        self.special = nn.Parameter(torch.empty(1, dim)) if mask_token else None

    def looked_up(self) -> nn.Parameter | None:
        return self.item if self.temperature is None else None

    def tables(self, *, hops: bool = False) -> Tables:
        item = self.item if self.temperature is None else F.normalize(self.item, dim=1)
        sparse = self.sparse and item is self.item
        lookups: tuple[Lookups, ...] = ()
        if torch.is_grad_enabled() and item.requires_grad:
            lookups = (Lookups(item, sparse=sparse, before=self.on_lookup if sparse else None),)
        return Tables(item=item, item0=self.item, special=self.special, temperature=self.temperature, lookups=lookups)

    def embed(self, tokens: Tokens, tables: Tables) -> Tensor:
        """(N, D) input vectors of the tokens; `tokens.vectors` win over ids, and id `n_items` is the mask token."""
        if tokens.vectors is not None:
            return tokens.vectors
        item = tables.item if self.temperature is None else tables.item0
        item = item.detach() if tokens.detach_items else item
        if not tokens.masked:
            return tables.items(tokens.ids) if item is tables.item else F.embedding(tokens.ids, item)
        assert tables.special is not None
        is_mask = tokens.ids >= self.n_items
        ids = tokens.ids.masked_fill(is_mask, 0)
        found = tables.items(ids) if item is tables.item else F.embedding(ids, item)
        return torch.where(is_mask[:, None], tables.special, found)

    def encode(self, tokens: Tokens, tables: Tables) -> Tensor:
        """(N, D): the state at every token. On a causal backbone a state never depends on a later token of its row."""
        raise TypeError(f"{type(self).__name__} defines no encode()")

    def training_batch(self, batch: Batch) -> Batch:
        """The batch it trains on: `batch` itself, or on a bidirectional backbone one with hidden items as targets,
        drawn from torch's own generator."""
        if self.masking is None:
            return batch
        return hide_items(batch, self.masking, mask_token=self.n_items)

    def asking(self, tokens: Tokens, tables: Tables) -> Tokens:
        """The tokens so that the state at each row's last one is the query for what comes next: themselves, or on a
        bidirectional backbone with the mask token after them."""
        if self.causal:
            return tokens
        return append_mask(tokens, mask_token=self.n_items, max_length=self.max_length, vector=tables.special)

    def queries(self, batch: Batch, tables: Tables) -> Tensor:
        assert batch.tokens is not None and batch.target_token is not None
        return tables.query(self.encode(batch.tokens, tables).index_select(0, batch.target_token))

    def query_users(self, user: Tensor, history: Interactions, tables: Tables, *, tokens_at_once: int = 8192) -> Tensor:
        """As `Backbone.query_users`; users without history get the zero vector (all items tie)."""
        items = shared_tensor(history.item)
        offsets = shared_tensor(history.offsets)
        length = (offsets[user + 1] - offsets[user]).clamp(max=self.max_length)
        order = torch.sort(length, stable=True).indices
        order = order[length[order] > 0]
        out = tables.item.new_zeros(user.shape[0], self.dim)
        share = torch.cumsum(length[order], 0).div(tokens_at_once, rounding_mode="floor")
        for part in order.split(torch.unique_consecutive(share, return_counts=True)[1].tolist()) if len(order) else ():
            tokens = self.asking(last_windows(history, user[part], items, max_length=self.max_length), tables)
            out[part] = tables.query(self.encode(tokens, tables)[tokens.last])
        return out


class InnerProductScorer:
    """A backbone's scores under its current parameters: tables are made once, in evaluation mode and without
    gradient."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone.eval()
        self.n_items = backbone.n_items
        with torch.no_grad():
            self.tables = backbone.tables()

    def score(self, user: Tensor, history: Interactions) -> Tensor:
        """(B, I) float32, see `Scorer`."""
        return self.score_queries(self.queries(user, history))

    @torch.no_grad()
    def queries(self, user: Tensor, history: Interactions) -> Tensor:
        """(B, D), see `QueryScorer`."""
        return self.backbone.query_users(user, history, self.tables)

    @torch.no_grad()
    def score_queries(self, query: Tensor) -> Tensor:
        """(B, I) float32, see `QueryScorer`."""
        score = matmul(query, self.tables.item.T)
        return (score if self.tables.bias is None else score + self.tables.bias).float()
