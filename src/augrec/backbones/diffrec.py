"""T-DiffRec (Wang et al., SIGIR 2023) and TI-DiffRec (PDRec, AAAI 2024): whole histories, noised and restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from augrec.backbones.base import Backbone, Kind
from augrec.backbones.dropout import Dropout
from augrec.backbones.interval import Ties, WeightedRows, weighted_rows
from augrec.backbones.tables import Tables
from augrec.diffusion.importance import StepSampler, snr_difference
from augrec.diffusion.process import posterior_coefficients
from augrec.diffusion.schedules import Schedule, linear_var
from augrec.errors import ConfigError, DataError
from augrec.linear import linear, matmul
from augrec.typed import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from augrec.batches.batch import Batch
    from augrec.data.interactions import Interactions


class TDiffRecConfig(Config):
    """Settings of T-DiffRec."""

    hidden: int = Field(default=256, ge=1)
    """Width H of the denoiser; published: 1,000 on Toy, 256 on Book."""
    time_dim: int = Field(default=10, ge=2)
    """Width of the step's embedding; published: 10 on Toy, 8 on Book."""
    steps: int = Field(default=10, ge=1)
    """Diffusion steps T."""
    noise_scale: float = Field(default=0.01, gt=0)
    """Factor s on both ends of the noise."""
    noise_min: float = Field(default=0.0005, gt=0)
    """1 - alpha_bar of the first step, over s."""
    noise_max: float = Field(default=0.005, gt=0)
    """1 - alpha_bar of the last step, over s; published: 0.005 on Toy, 0.01 on Book."""
    inference_noise_max: float | None = Field(default=None, gt=0)
    """Another `noise_max` when preferences are inferred. None is that of training; the public code infers Book, trained
    with 0.01, at 0.005."""
    low: float = Field(default=0.5, gt=0)
    """Weight w_min of the oldest event; published: 0.5 on Toy, 0.3 on Book."""
    high: float = Field(default=1.0, gt=0)
    """Weight w_max of the newest event."""
    foreign: float = Field(default=1.0, ge=0)
    """Factor on events of other domains in a mixed log; the public code's unused branch has 0.5."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout on the noised history; the step's embedding has none. Published: 0.5."""
    noise: Literal["all", "observed"] = "all"
    """Whether every item's coordinate is noised, as published, or only those of the history (a departure that needs no
    random numbers for the rest of the catalogue)."""
    epoch: Literal["shuffled", "with-replacement"] = "shuffled"
    """shuffled: each user once an epoch; with-replacement: as many draws, with replacement (public code)."""
    padding_column: bool = False
    """One more item that nobody has: the public code's column of the padding token, which HBR of `published-code`
    reads."""


class TIDiffRecConfig(TDiffRecConfig):
    """Settings of TI-DiffRec."""

    ties: Ties = "AllOne"
    """Weights where all times of a history are equal: AllOne gives w_max (the released models), AllLinear weighs by
    order, MinMax gives w_min."""


class DiffRec(Backbone):
    """A denoiser f(x_t, t) of weighted histories; preferences are what the deterministic reverse chain makes of the
    un-noised history.

    f is Linear(N + E, H) - tanh - Linear(H, N), so with a = W_in x the chain needs only H numbers a user: a_T is a
    sparse sum of rows of W_in, h = tanh(a + time_t), a <- c1_t (M h + W_in b) + c2_t a with M = W_in W_out (H x H).
    Its last step has (c1, c2) = (1, 0), so the preference is W_out[i] . h + b_i exactly: `tables().item` is
    [W_out, b] (I, H + 1) and the query [h, 1]. No users x items matrix is made.
    """

    kind: ClassVar[Kind] = "users"
    objective: ClassVar[str | None] = "denoising"
    by_time: ClassVar[bool]
    inward_bias: Tensor

    def __init__(
        self,
        config: TDiffRecConfig,
        *,
        n_users: int,
        n_items: int,
        train: Interactions | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Raises `ConfigError` for noise levels that fall, `DataError` where times are needed and the log has none."""
        super().__init__(n_users=n_users, n_items=n_items, dim=config.hidden + 1)
        self.config = config
        for name in ("noise_max", "inference_noise_max"):
            if (getattr(config, name) or config.noise_max) < config.noise_min:
                raise ConfigError(f"{self.name}.{name} is below noise_min = {config.noise_min}; noise may not fall")
        if config.high < config.low:
            raise ConfigError(f"{self.name}.high = {config.high} is below low = {config.low}; newer events weigh more")
        if train is not None and self.by_time and len(train) and train.timestamp is None:
            raise DataError(
                f"{train.name}: {self.name} weighs events by their times and this log has none; use t-diffrec, which "
                f"weighs by order"
            )
        columns, width = n_items + config.padding_column, config.hidden
        self.with_replacement = config.epoch == "with-replacement"
        spread = (2.0 / (columns + config.time_dim + width)) ** 0.5
        self.inward = nn.Parameter(torch.empty(columns, width).normal_(0, spread, generator=generator))
        self.inward_time = nn.Parameter(torch.empty(width, config.time_dim).normal_(0, spread, generator=generator))
        self.inward_bias = nn.Parameter(torch.empty(width).normal_(0, 0.001, generator=generator))
        spread = (2.0 / (columns + width)) ** 0.5
        outward = torch.empty(columns, width + 1).normal_(0, spread, generator=generator)
        outward[:, -1].normal_(0, 0.001, generator=generator)
        self.outward = nn.Parameter(outward)
        spread = config.time_dim**-0.5
        self.time = nn.Parameter(torch.empty(config.time_dim, config.time_dim).normal_(0, spread, generator=generator))
        self.time_bias = nn.Parameter(torch.empty(config.time_dim).normal_(0, 0.001, generator=generator))
        self.dropout = Dropout(config.dropout)
        self.sampler = StepSampler(config.steps)
        self.schedule = self._schedule(config.noise_max)
        self.reverse = posterior_coefficients(self._schedule(config.inference_noise_max or config.noise_max))
        self.code = time_codes(config.steps, config.time_dim)
        self.rows = None if train is None else self._weighted(train, torch.arange(n_users))

    @classmethod
    def width(cls, config: Any) -> int:
        return int(config.hidden) + 1

    @classmethod
    def run_preset(cls, name: str) -> Mapping[str, Mapping[str, Any]]:
        train: dict[str, Any] = {"optimiser": "adamw", "learning_rate": 3e-4, "weight_decay": 0.5, "decay": 0.99}
        train |= {"batch_size": 400, "epochs": 1000, "patience": 10}
        own: dict[str, Any] = {}
        if name not in ("default", "robust"):
            own = {"hidden": 1000, "dropout": 0.5}
            train |= {"learning_rate": 5e-5}
        if name == "published-code":
            own |= {"epoch": "with-replacement", "padding_column": True}
            train |= {"select_part": "test"}
        return {cls.name: own, "train": train}

    @classmethod
    def deviations(cls, config: Any) -> tuple[str, ...]:
        found = {
            f"{cls.name}.epoch=with-replacement": config.epoch == "with-replacement",
            f"{cls.name}.padding_column": config.padding_column,
            f"{cls.name}.inference_noise_max": config.inference_noise_max is not None,
            f"{cls.name}.noise=observed": config.noise == "observed",
        }
        return tuple(name for name, is_so in found.items() if is_so)

    def _schedule(self, noise_max: float) -> Schedule:
        config = self.config
        return linear_var(config.steps, scale=config.noise_scale, noise_min=config.noise_min, noise_max=noise_max)

    def _weighted(self, history: Interactions, user: Tensor) -> WeightedRows:
        config = self.config
        ties: Ties = config.ties if isinstance(config, TIDiffRecConfig) else "AllLinear"
        return weighted_rows(
            history, user, low=config.low, high=config.high, by_time=self.by_time, ties=ties, foreign=config.foreign
        )

    def time_part(self) -> Tensor:
        """(T + 1, H): what each step adds before the tanh, the bias included; row 0 is not a step."""
        embedded = F.linear(self.code.to(self.time), self.time, self.time_bias)
        return F.linear(embedded, self.inward_time, self.inward_bias)

    def tables(self, *, hops: bool = False) -> Tables:
        item = self.outward[: self.n_items]
        chain = None
        if not self.training:
            chain = self._chain()
        return Tables(item=item, item0=item, chain=chain)

    def _chain(self) -> tuple[Tensor, Tensor]:
        """W_in W_out (H, H) as rows are multiplied by it, and W_in b (H,)."""
        outward = self.outward[:, :-1].T
        through = outward @ self.inward if torch.is_grad_enabled() else matmul(outward, self.inward)
        return through, self.outward[:, -1] @ self.inward

    def own_loss(self, batch: Batch, tables: Tables) -> Tensor:
        """weight_t / (p_t T) * mean over items of (x_0 - f(x_t, t))^2, averaged over users: DiffRec's equation 11 with
        importance-sampled t. In evaluation mode t is uniform and no loss is noted."""
        assert self.rows is not None, "made without a train log: it can score but not train"
        rows = self.rows.take(batch.user)
        columns, count = self.inward.shape[0], batch.user.shape[0]
        clean = self.inward.new_zeros(count, columns)
        cell = rows.row * columns + rows.item
        clean.view(-1)[cell] = rows.weight.to(clean.dtype)
        if self.training:
            step, divisor = self.sampler.draw(count)
        else:
            step = torch.randint(1, self.config.steps + 1, (count,))
            divisor = torch.ones(count, dtype=torch.float64)
        signal = self.schedule.alpha_bar.sqrt()[step].to(clean)
        sigma = (1 - self.schedule.alpha_bar).sqrt()[step].to(clean)
        if self.config.noise == "all":
            noised = torch.randn_like(clean).mul_(sigma[:, None]).addcmul_(clean, signal[:, None])
        else:
            noised = clean * signal[:, None]
            noised.view(-1)[cell] += torch.randn(len(cell), dtype=clean.dtype) * sigma[rows.row]
        hidden = torch.tanh(linear(self.dropout(noised), self.inward.T) + self.time_part().index_select(0, step))
        error = linear(_with_one(hidden), self.outward).sub(clean).square().mean(1)
        loss = error * snr_difference(self.schedule)[step].to(error)
        if self.training:
            self.sampler.note(step, loss)
        return (loss / divisor.to(loss)).mean()

    def _query(self, rows: WeightedRows, tables: Tables) -> Tensor:
        """(B, H + 1): the reverse chain of the rows, in H dimensions."""
        through, constant = tables.chain or self._chain()
        time, (of_x0, of_xt) = self.time_part(), self.reverse
        state = F.embedding_bag(
            rows.item, self.inward, rows.offsets[:-1], mode="sum", per_sample_weights=rows.weight.to(self.inward.dtype)
        )
        hidden = state
        for step in range(self.config.steps, 0, -1):
            hidden = torch.tanh(state + time[step])
            if step > 1:
                state = linear(hidden, through.T, constant) * float(of_x0[step]) + state * float(of_xt[step])
        return _with_one(hidden)

    def queries(self, batch: Batch, tables: Tables) -> Tensor:
        """(B, H + 1) of the batch's users, from their train histories."""
        assert self.rows is not None, "made without a train log: ask with query_users"
        return self._query(self.rows.take(batch.user), tables)

    def query_users(self, user: Tensor, history: Interactions, tables: Tables) -> Tensor:
        return self._query(self._weighted(history, user), tables)


class TDiffRec(DiffRec):
    """Events weigh by their order."""

    name: ClassVar[str] = "t-diffrec"
    by_time: ClassVar[bool] = False
    Config = TDiffRecConfig


class TIDiffRec(DiffRec):
    """Events weigh by the time that passed; a history without times, as some are given when served, by order."""

    name: ClassVar[str] = "ti-diffrec"
    by_time: ClassVar[bool] = True
    reads_time: ClassVar[bool] = True
    Config = TIDiffRecConfig


def time_codes(steps: int, width: int) -> Tensor:
    """(T + 1, E) float64: row t codes step t, counted from 0 as DiffRec does: cosines of (t - 1) * 10000^(-i / half),
    then sines, then a zero where E is odd. Row 0 is not a step."""
    half = width // 2
    rate = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(-1, steps, dtype=torch.float64)[:, None] * rate
    return F.pad(torch.cat([angle.cos(), angle.sin()], 1), (0, width % 2))


def _with_one(hidden: Tensor) -> Tensor:
    """(B, H + 1): a last coordinate 1, which meets the bias."""
    return F.pad(hidden, (0, 1), value=1.0)
