"""Step selection and the arms, against tables, closed forms and simulation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from augrec.augment.adar import ARMS, Adar, AdarConfig, eq11_fraction, preset, theorem_steps, with_arm
from augrec.augment.adar.selectors import mixed_levels, round_steps
from augrec.diffusion import cosine, linear
from augrec.errors import ConfigError, UsageError

WIDTH, ROWS = 16, 64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(count: int = ROWS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, positive, positive score, negative score; gradient on the vectors."""
    query, positive, negative = torch.randn(3, count, WIDTH, generator=seeded(2))
    query.requires_grad_(), positive.requires_grad_()
    return query, positive, (query * positive).sum(1), (query * negative).sum(1)


def steps_of(score: list[float], steps: int, **options: object) -> list[int]:
    model = Adar(preset("paper", steps=steps, **options), width=1)
    scores = torch.tensor(score)
    made = model.augment(torch.ones(len(score), 1), scores.unsqueeze(1), positive_score=scores, generator=seeded(0))
    assert made.t_star is not None
    return made.t_star.tolist()


def test_equation_11_reproduces_the_table() -> None:
    assert steps_of([-1, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.37, 2.5, 9], 50) == [29, 36, 39, 41, 44, 46, 48, 49, 49, 49]
    assert steps_of([0, 0.5, 1, 1.09, 5], 20) == [14, 16, 18, 19, 19]
    assert steps_of([1.51, 1.53], 50, rounding="round", allow_T=True) == [49, 50]
    assert steps_of([1.29, 1.31], 20, rounding="round", allow_T=True) == [19, 20]
    assert steps_of([2.9], 50, allow_T=True) == [50]


@pytest.mark.parametrize("steps", [1, 2, 50, 2000])
def test_extreme_scores_stay_in_range(steps: int) -> None:
    extreme = [-1e4, 1e4, -math.inf, math.inf, math.nan]
    assert steps_of(extreme, steps) == [steps // 2 if steps > 1 else 0, steps - 1] * 2 + [steps - 1]
    assert max(steps_of(extreme, steps, allow_T=True)) == steps


def test_equation_11_against_the_slow_formula() -> None:
    score = torch.linspace(-5, 2.5, 40)
    for omega, k in ((1.0, 1.0), (0.3, 2.0), (2.0, 0.5)):
        slow = [1 / (1 + math.exp(-omega * math.exp(k * float(p)))) for p in score]
        assert eq11_fraction(score, omega=omega, k=k).tolist() == pytest.approx(slow, abs=1e-6)


def test_rounding_rules() -> None:
    fraction = torch.tensor([0.731, 0.75, 0.999, 1.0])
    chosen = {
        rule: round_steps(fraction, 50, rounding=rule, allow_T=False).step.tolist()  # type: ignore[arg-type]
        for rule in ("floor", "round", "ceil", "lerp")
    }
    assert chosen["floor"] == [36, 37, 49, 49]
    assert chosen["round"] == [37, 38, 49, 49]
    assert chosen["ceil"] == [37, 38, 49, 49]
    lerp = round_steps(fraction, 50, rounding="lerp", allow_T=False)
    assert lerp.real is not None
    assert lerp.real.tolist() == pytest.approx([36.55, 37.5, 49, 49], abs=1e-4)


def test_score_modes() -> None:
    query, positive, score, _ = rows()
    fractions = {}
    for mode in ("raw", "cosine", "sigmoid"):
        model = Adar(preset("paper", steps=2000, score=mode), width=WIDTH)
        made = model.augment(query, positive, positive_score=score, generator=seeded(0))
        assert made.t_star is not None
        fractions[mode] = made.t_star / 2000
    assert 0.58 < float(fractions["cosine"].min()) <= float(fractions["cosine"].max()) < 0.941
    assert 0.730 < float(fractions["sigmoid"].min()) <= float(fractions["sigmoid"].max()) < 0.939
    assert float(fractions["raw"].max()) == pytest.approx(1999 / 2000)
    expected = torch.sigmoid(torch.exp(F.cosine_similarity(query, positive)))
    torch.testing.assert_close(fractions["cosine"], (expected * 2000).floor() / 2000, atol=1e-3, rtol=0)


def test_standardised_scores_forget_shift_and_unit() -> None:
    query, positive, score, _ = rows()
    chosen = []
    for shift, unit in ((0.0, 1.0), (5.0, 3.0)):
        model = Adar(preset("paper", score="standardised"), width=WIDTH)
        made = model.augment(query, positive, positive_score=score * unit + shift, generator=seeded(0))
        chosen.append(made.t_star)
    score = score.detach().double()
    slow = torch.sigmoid(torch.exp((score - score.mean()) / score.std(unbiased=False))) * 50
    assert torch.equal(chosen[0], slow.floor().clamp(max=49).long())  # type: ignore[arg-type]
    assert int((chosen[0] != chosen[1]).sum()) <= 1  # type: ignore[operator]


@pytest.mark.parametrize("make", [linear, cosine])
def test_theorem_steps_by_search(make) -> None:
    schedule = make(50)
    positive = torch.randn(500, generator=seeded(0)) * 2
    negative = torch.randn(500, generator=seeded(1)) * 2
    chosen = theorem_steps(positive, negative, schedule.alpha_bar)
    for plus, minus, t in zip(positive.tolist(), negative.tolist(), chosen.tolist(), strict=True):
        if plus <= 0 or minus >= plus:
            expected = 1
        elif minus <= 0:
            expected = 50
        else:
            reached = [s for s in range(1, 51) if float(schedule.alpha_bar[s].sqrt()) * plus <= minus]
            expected = reached[0] if reached else 50
        assert t == expected
    assert len(set(chosen.tolist())) > 8


def test_theorem_needs_a_negative_score_or_rho() -> None:
    query, positive, score, negative = rows()
    model = Adar(preset("paper", selector="theorem", schedule="cosine"), width=WIDTH)
    with pytest.raises(UsageError, match="set rho"):
        model.augment(query, positive, positive_score=score)
    by_score = model.augment(query, positive, positive_score=score, negative_score=negative).t_star
    constant = Adar(preset("paper", selector="theorem", schedule="cosine", rho=0.5), width=WIDTH)
    by_rho = constant.augment(query, positive, positive_score=score.abs() + 1).t_star
    assert by_score is not None
    assert by_rho is not None
    first = next(t for t in range(1, 51) if float(cosine(50).alpha_bar[t]) <= 0.25)
    assert by_rho.tolist() == [first] * ROWS
    assert len(by_score.unique()) > 3
    assert int(by_score.max()) == 49


def test_fixed_random_and_mixed_steps() -> None:
    query, positive, score, _ = rows()
    for fraction, expected in ((0.5, 25), (0.75, 37), (0.9, 45), (1.0, 49)):
        model = Adar(preset("paper", selector="fixed", fixed_fraction=fraction), width=WIDTH)
        assert model.augment(query, positive, positive_score=score).t_star.tolist() == [expected] * ROWS  # type: ignore[union-attr]
    model = Adar(preset("paper", selector="random"), width=WIDTH)
    wide, tall = torch.zeros(20_000, WIDTH), torch.zeros(20_000)
    drawn = model.selector(wide, wide, positive_score=tall, generator=seeded(0)).step
    counts = torch.bincount(drawn, minlength=51)
    assert counts[50] == 0
    assert (counts[:50] - 400).abs().max() < 5 * math.sqrt(400)
    assert mixed_levels(50) == [25, 12, 6, 5]


def test_mixed_is_the_weighted_mean_of_one_chains_states() -> None:
    query, positive, score, _ = rows()
    model = Adar(preset("paper", selector="mixed"), width=WIDTH, generator=seeded(0))
    made = model.augment(query, positive, positive_score=score, generator=seeded(4))
    expected = torch.zeros(ROWS, WIDTH)
    for level, weight in ((5, 1.0), (6, 0.9), (12, 0.8), (25, 0.7)):
        state = model.generator.generate_naive(query, torch.full((ROWS,), level), generator=seeded(4))
        expected += weight / 3.4 * state
    torch.testing.assert_close(made.vectors, expected, rtol=1e-4, atol=1e-4)


def test_lerp_reads_between_steps() -> None:
    query, positive, score, _ = rows()
    model = Adar(preset("paper", rounding="lerp"), width=WIDTH, generator=seeded(0))
    made = model.augment(query, positive, positive_score=score, generator=seeded(4))
    real = (eq11_fraction(score.detach(), omega=1, k=1) * 50).clamp(max=49)
    torch.testing.assert_close(made.vectors, model.generator.generate_between(query, real, generator=seeded(4)))


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("name", ["paper", "robust"])
def test_every_arm_gives_detached_vectors_or_a_penalty(arm: str, name: str) -> None:
    query, positive, score, negative = rows()
    model = Adar(with_arm(preset(name), arm), width=WIDTH, generator=seeded(0))
    state = torch.get_rng_state()
    made = model.augment(query, positive, positive_score=score, negative_score=negative, generator=seeded(4))
    assert torch.equal(torch.get_rng_state(), state)
    if arm == "off":
        assert made.vectors is None
        assert made.weight == 0.0
        return
    assert made.weight == 0.5
    if arm == "ridge":
        assert made.vectors is None
        assert made.penalty is not None
        assert made.penalty.shape == (ROWS,)
        made.penalty.sum().backward()
        assert query.grad is not None
        return
    assert made.vectors is not None
    assert made.t_star is not None
    assert made.vectors.shape == (ROWS, WIDTH)
    assert not made.vectors.requires_grad
    assert torch.isfinite(made.vectors).all()
    again = model.augment(query, positive, positive_score=score, negative_score=negative, generator=seeded(5))
    assert not torch.equal(made.vectors, again.vectors)  # type: ignore[arg-type]
    margin = negative + made.weight * (query * made.vectors).sum(1) - score
    F.softplus(margin).mean().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert query.grad is not None


def test_no_rows_and_wrong_shapes() -> None:
    for arm in ARMS:
        model = Adar(with_arm(preset("robust"), arm), width=WIDTH)
        query, positive, score, negative = rows(0)
        made = model.augment(query, positive, positive_score=score, negative_score=negative)
        assert made.vectors is None or made.vectors.shape == (0, WIDTH)
    model = Adar(preset("paper"), width=WIDTH)
    with pytest.raises(UsageError, match="expected"):
        model.augment(torch.zeros(3, 4), torch.zeros(3, 4), positive_score=torch.zeros(3))


def test_ridge_is_the_expected_loss_of_gaussian_negatives() -> None:
    query = 0.4 * torch.randn(6, WIDTH, generator=seeded(0))
    positive_score, negative_score = torch.tensor([2.0, 1, 0.5, 0, -1, 3]), torch.zeros(6)
    model = Adar(preset("paper", source="ridge", weight=0.2), width=WIDTH)
    made = model.augment(query, query, positive_score=positive_score, negative_score=negative_score)
    noise = torch.randn(200_000, WIDTH, generator=seeded(1))
    noise = torch.cat([noise, -noise])
    base = F.softplus(-positive_score)
    simulated = F.softplus(-positive_score + 0.2 * noise @ query.T).double().mean(0) - base
    torch.testing.assert_close(made.penalty, simulated.float(), rtol=0.05, atol=1e-5)
    with pytest.raises(UsageError, match="ridge needs negative scores"):
        model.augment(query, query, positive_score=positive_score)


def test_gaussian_arm_is_the_chains_start_in_the_items_scale() -> None:
    query, positive, score, _ = rows()
    made = Adar(preset("paper", source="gaussian"), width=WIDTH).augment(
        query, positive, positive_score=score, generator=seeded(4)
    )
    assert torch.equal(made.vectors, torch.randn(ROWS, WIDTH, generator=seeded(4)))  # type: ignore[arg-type]
    assert made.t_star.tolist() == [50] * ROWS  # type: ignore[union-attr]
    scaled = Adar(preset("robust", source="gaussian"), width=WIDTH).augment(
        query, 0.01 * positive, positive_score=score, generator=seeded(4)
    )
    rms = float((0.01 * positive).detach().square().mean().sqrt())
    torch.testing.assert_close(scaled.vectors, rms * made.vectors, rtol=1e-4, atol=1e-7)  # type: ignore[operator]


@pytest.mark.parametrize("source", ["forward", "analytic"])
def test_marginal_arms_have_the_closed_forms_moments(source: str) -> None:
    count = 40_000
    centre = torch.full((count, WIDTH), 2.0)
    positive = centre + 0.5 * torch.randn(count, WIDTH, generator=seeded(0))
    config = preset("paper", source=source, selector="fixed", fixed_fraction=0.5, schedule="cosine")
    model = Adar(config, width=WIDTH)
    made = model.augment(
        torch.zeros(count, WIDTH), positive, positive_score=torch.zeros(count), context=centre, generator=seeded(1)
    )
    signal = float(model.schedule.alpha_bar[25])
    assert made.vectors is not None
    assert float(made.vectors.mean()) == pytest.approx(math.sqrt(signal) * 2, abs=0.01)
    assert float(made.vectors.var()) == pytest.approx(signal * 0.25 + 1 - signal, rel=0.02)
    correlated = float(torch.corrcoef(torch.stack([made.vectors.flatten(), positive.flatten()]))[0, 1])
    assert (correlated > 0.3) == (source == "forward")


def test_statistics_count_choices_and_saturation() -> None:
    model = Adar(preset("paper", steps=50), width=1)
    score = torch.tensor([0.0, 0, 1, 5])
    model.augment(torch.ones(4, 1), torch.ones(4, 1), positive_score=score)
    counted = model.statistics(reset=True)
    assert {t: n for t, n in enumerate(counted.histogram) if n} == {36: 2, 46: 1, 49: 1}
    assert counted.rows == 4
    assert counted.saturated == 0.25
    assert counted.mean == pytest.approx((36 * 2 + 46 + 49) / 200)
    assert model.statistics().rows == 0


def test_presets_are_the_specified_settings() -> None:
    paper, robust = preset("paper"), preset("robust")
    assert preset() == paper == AdarConfig()
    assert (paper.schedule, paper.sampler, paper.rounding, paper.score, paper.scale, paper.recon) == (
        "linear", "mean", "floor", "raw", "none", "one_step",
    )  # fmt: skip
    assert (robust.schedule, robust.sampler, robust.score, robust.scale, robust.recon_clip) == (
        "scaled_linear", "ddpm", "cosine", "rms", 5.0,
    )  # fmt: skip
    assert (paper.resolve_steps("pairs"), paper.resolve_steps("sequences")) == (50, 20)
    assert (paper.omega, paper.k, paper.learning_rate, paper.weight_decay) == (1.0, 1.0, 1e-3, 0.0)
    with pytest.raises(ConfigError, match="choose one of"):
        preset("papr")
    with pytest.raises(ConfigError, match="choose one of"):
        with_arm(paper, "gauss")
    with pytest.raises(ValidationError):
        preset("paper", weigth=0.3)


def test_only_the_diffusion_source_trains() -> None:
    model = Adar(preset("paper", source="gaussian"), width=WIDTH)
    assert not model.trains
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(UsageError, match="no network to train"):
        model.diffusion_loss(torch.zeros(2, WIDTH), torch.zeros(2, WIDTH))
