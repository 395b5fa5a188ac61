"""The scans against the full naive chain, and every chain against the closed form of a Gaussian."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from augrec.augment.adar.chain import draw_noise, plan_chain, run_masked, run_prefix
from augrec.augment.adar.generator import DiffusionGenerator
from augrec.diffusion import Denoiser, DMNSDenoiser, FiLMDenoiser, Schedule, cosine, linear, scaled_linear
from augrec.errors import ConfigError, UsageError

WIDTH = 16


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator_for(schedule: Schedule, *, sampler: str, arch: str = "film", scale: str = "none") -> DiffusionGenerator:
    base = (1 - schedule.alpha_bar).rsqrt()
    base[0] = 0.0
    network: Denoiser = FiLMDenoiser(WIDTH, base, generator=seeded(0))
    if arch == "dmns":
        network = DMNSDenoiser(WIDTH, schedule.steps, generator=seeded(0))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=seeded(1)))
    return DiffusionGenerator(schedule, network, sampler=sampler, scale=scale)  # type: ignore[arg-type]


def targets(name: str, rows: int, steps: int) -> Tensor:
    return {
        "random": torch.randint(0, steps + 1, (rows,), generator=seeded(2)),
        "clean": torch.zeros(rows, dtype=torch.int64),
        "noise": torch.full((rows,), steps),
        "saturated": torch.full((rows,), steps - 1),
    }[name]


@pytest.mark.parametrize("sampler", ["mean", "ddpm", "ddim"])
@pytest.mark.parametrize("make", [linear, scaled_linear])
@pytest.mark.parametrize("name", ["random", "clean", "noise", "saturated"])
@pytest.mark.parametrize("arch", ["film", "dmns"])
def test_both_scans_equal_the_naive_chain(sampler: str, make, name: str, arch: str) -> None:
    model = generator_for(make(20), sampler=sampler, arch=arch)
    condition = torch.randn(101, WIDTH, generator=seeded(3))
    t_star = targets(name, 101, 20)
    naive = model.generate_naive(condition, t_star, generator=seeded(4))
    unit = float(naive.std())
    assert unit > 0
    for method in ("prefix", "masked"):
        fast = model.generate(condition, t_star, generator=seeded(4), method=method)
        torch.testing.assert_close(fast, naive, rtol=1e-4, atol=1e-4 * unit)
    different = model.generate(condition, t_star, generator=seeded(5))
    assert float((different - naive).std()) > (0.1 * unit if name != "clean" else 0)


@pytest.mark.parametrize("sampler", ["mean", "ddpm"])
def test_chunks_change_nothing(sampler: str) -> None:
    model = generator_for(linear(20), sampler=sampler)
    condition, t_star = torch.randn(101, WIDTH, generator=seeded(3)), targets("random", 101, 20)
    plan = plan_chain(t_star, 20)
    noise = draw_noise(plan, condition, fresh=sampler == "ddpm", generator=seeded(4))
    whole = run_prefix(model.denoiser, condition, noise, model.coefficients, plan, chunk_rows=1000)
    for rows, block in ((1, 1), (10, 1), (10, 25), (100, 150), (100, 10_000)):
        part = run_prefix(model.denoiser, condition, noise, model.coefficients, plan, chunk_rows=rows, block_rows=block)
        torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)
    for elements in (1, 20_000):
        part = run_masked(model.denoiser, condition, t_star, noise, model.coefficients, plan, elements=elements)
        torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)


def test_the_scan_makes_exactly_the_needed_steps() -> None:
    calls: list[tuple[int, int]] = []

    class Counting(DMNSDenoiser):
        def film_steps(
            self, hidden: Tensor, time: Tensor, steps: Sequence[int], counts: Sequence[int]
        ) -> tuple[Tensor, Tensor]:
            calls.extend(zip(steps, counts, strict=True))
            return super().film_steps(hidden, time, steps, counts)

    t_star = torch.tensor([18, 20, 15, 19])
    model = DiffusionGenerator(linear(20), Counting(WIDTH, 20))
    model.generate(torch.zeros(4, WIDTH), t_star, method="prefix")
    assert calls == [(20, 3), (19, 2), (18, 1), (17, 1), (16, 1)]
    assert sum(rows for _, rows in calls) == int((20 - t_star).sum())


class Oracle(Denoiser):
    """The exact denoiser of x_0 ~ N(1, 1) in every coordinate."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.width, self.steps = WIDTH, schedule.steps
        self.alpha_bar = schedule.alpha_bar

    def hidden_condition(self, condition: Tensor) -> Tensor:
        return condition

    def hidden_time(self) -> Tensor:
        return torch.zeros(self.steps + 1, WIDTH)

    def film(self, hidden: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        signal = self.alpha_bar[t].unsqueeze(-1)
        gamma = (1 - signal).sqrt() / (signal + 1 - signal)
        shape = torch.zeros_like(hidden)
        return (shape + gamma).float(), (shape - gamma * signal.sqrt()).float()


@pytest.mark.parametrize(
    ("make", "sampler", "mean", "deviation"),
    [
        (linear, "mean", 0.19, 0.88),
        (linear, "ddpm", 0.20, 0.99),
        (linear, "ddim", 0.10, 1.0),
        (scaled_linear, "mean", 0.06, 0.05),
        (scaled_linear, "ddpm", 0.05, 1.0),
        (scaled_linear, "ddim", 0.04, 0.99),
        (cosine, "mean", 0.42, 0.0),
        (cosine, "ddpm", 0.41, 0.99),
        (cosine, "ddim", 0.42, 1.0),
    ],
)
@pytest.mark.parametrize("method", ["naive", "prefix"])
def test_gaussian_oracle_moments_at_step_36(make, sampler: str, mean: float, deviation: float, method: str) -> None:
    schedule = make(50)
    model = DiffusionGenerator(schedule, Oracle(schedule), sampler=sampler)  # type: ignore[arg-type]
    rows = 4000 if method == "naive" else 20_000
    x = model.generate(torch.zeros(rows, WIDTH), torch.full((rows,), 36), generator=seeded(6), method=method)
    error = 4 / math.sqrt(rows * WIDTH)
    assert float(x.mean()) == pytest.approx(mean, abs=0.011 + error * deviation)
    assert float(x.std()) == pytest.approx(deviation, abs=0.011 + error * deviation)


def test_the_oracles_ddpm_chain_ends_in_the_data() -> None:
    schedule = cosine(200)
    model = DiffusionGenerator(schedule, Oracle(schedule), sampler="ddpm")
    x = model.generate(torch.zeros(4000, WIDTH), torch.zeros(4000, dtype=torch.int64), generator=seeded(7))
    assert float(x.mean()) == pytest.approx(1.0, abs=0.03)
    assert float(x.std()) == pytest.approx(1.0, abs=0.03)


def test_levels_are_states_of_one_chain() -> None:
    model = generator_for(scaled_linear(20), sampler="mean")
    condition = torch.randn(9, WIDTH, generator=seeded(3))
    levels = [20, 10, 10, 3, 0]
    states = model.generate_levels(condition, levels, generator=seeded(4))
    for level, state in zip(levels, states, strict=True):
        expected = model.generate_naive(condition, torch.full((9,), level), generator=seeded(4))
        torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="must fall"):
        model.generate_levels(condition, [3, 4])


def test_between_two_steps_lies_the_line_between_their_states() -> None:
    model = generator_for(linear(20), sampler="mean")
    condition = torch.randn(4, WIDTH, generator=seeded(3))
    real = torch.tensor([13.25, 7.0, 19.5, 0.0])
    made = model.generate_between(condition, real, generator=seeded(4))
    low = model.generate_naive(condition, real.floor().long(), generator=seeded(4))
    high = model.generate_naive(condition, real.ceil().long(), generator=seeded(4))
    share = torch.tensor([0.25, 0.0, 0.5, 0.0]).unsqueeze(1)
    torch.testing.assert_close(made, (1 - share) * low + share * high, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["prefix", "masked", "naive"])
@pytest.mark.parametrize("sampler", ["mean", "ddpm"])
def test_no_rows_give_no_rows(method: str, sampler: str) -> None:
    model = generator_for(linear(20), sampler=sampler)
    empty = model.generate(torch.zeros(0, WIDTH), torch.zeros(0, dtype=torch.int64), method=method)  # type: ignore[arg-type]
    assert empty.shape == (0, WIDTH)


@pytest.mark.parametrize("steps", [1, 2000])
@pytest.mark.parametrize("make", [linear, scaled_linear, cosine])
def test_shortest_and_very_long_chains(steps: int, make) -> None:
    model = generator_for(make(steps), sampler="mean")
    condition = torch.randn(5, WIDTH, generator=seeded(3))
    t_star = torch.tensor([0, steps, steps - 1, steps // 2, max(0, steps - 3)])
    fast = model.generate(condition, t_star, generator=seeded(4))
    naive = model.generate_naive(condition, t_star, generator=seeded(4))
    torch.testing.assert_close(fast, naive, rtol=1e-4, atol=1e-4 * float(naive.abs().max()))
    assert torch.isfinite(model.diffusion_loss(condition, condition, generator=seeded(1)))


def test_wrong_shapes_are_refused() -> None:
    model = generator_for(linear(20), sampler="mean")
    with pytest.raises(UsageError, match=r"\(3, 4\)"):
        model.generate(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UsageError, match="one step per row"):
        model.generate(torch.zeros(3, WIDTH), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ConfigError, match="steps"):
        DiffusionGenerator(linear(10), DMNSDenoiser(WIDTH, 20))
