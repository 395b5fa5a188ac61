"""ADAR's diffusion loss against equation 8 written out, and what it may and may not touch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from augrec.augment.adar import Adar, AdarConfig, DiffusionGenerator, preset
from augrec.augment.adar.arms import build_denoiser, build_schedule
from augrec.diffusion import q_sample, x0_from_noise

WIDTH, ROWS = 16, 57


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(config: AdarConfig) -> Adar:
    model = Adar(config, width=WIDTH, generator=seeded(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeded(1)))
    return model


def rows(count: int = ROWS) -> tuple[Tensor, Tensor]:
    query, positive = 0.3 * torch.randn(2, count, WIDTH, generator=seeded(2))
    return query.requires_grad_(), positive.requires_grad_()


@pytest.mark.parametrize("name", ["paper", "robust"])
def test_loss_is_equation_8_with_the_one_step_reconstruction(name: str) -> None:
    model = trained(preset(name, scale="none", recon_clip=None, schedule="linear")).double()
    query, positive = (value.detach().double() for value in rows())
    source = seeded(3)
    t = torch.randint(1, 51, (ROWS,), generator=source)
    noise = torch.randn(ROWS, WIDTH, generator=source, dtype=torch.float64)
    x_t = q_sample(model.schedule, positive, t, noise)
    predicted = model.generator.denoiser(x_t, t, query)
    rebuilt = x0_from_noise(model.schedule, x_t, t, predicted)
    printed = ((noise - predicted).square() + (positive - rebuilt).square()).mean()
    loss = model.diffusion_loss(positive, query, generator=seeded(3))
    torch.testing.assert_close(loss, printed, rtol=1e-6, atol=0)
    weighted = ((noise - predicted).square() / model.schedule.alpha_bar[t].unsqueeze(1)).mean()
    torch.testing.assert_close(loss, weighted, rtol=1e-6, atol=0)


def test_clip_bounds_the_reconstruction_and_is_inactive_on_the_papers_schedule() -> None:
    paper, free = (Adar(preset("paper", recon_clip=clip), width=4) for clip in (5.0, None))
    assert torch.equal(paper.generator.loss_weight, free.generator.loss_weight)
    robust = Adar(preset("robust"), width=4)
    assert float(robust.generator.loss_weight.max()) == 6.0
    assert (Adar(preset("paper", recon="none"), width=4).generator.loss_weight == 1).all()


def test_chain_reconstruction_adds_the_error_of_a_full_chain() -> None:
    model = trained(preset("paper", recon="chain", steps=6))
    query, positive = rows()
    source = seeded(3)
    t = torch.randint(1, 7, (ROWS,), generator=source)
    noise = torch.randn(ROWS, WIDTH, generator=source)
    x_t = q_sample(model.schedule, positive, t, noise)
    first = F.mse_loss(model.generator.denoiser(x_t, t, query), noise)
    end = model.generator.generate_naive(query, torch.zeros_like(t), generator=source)
    loss = model.diffusion_loss(positive, query, generator=seeded(3))
    torch.testing.assert_close(loss, first + F.mse_loss(end, positive), rtol=1e-5, atol=1e-5)
    loss.backward()
    assert query.grad is None
    assert positive.grad is None


@pytest.mark.parametrize("arch", ["film", "dmns"])
def test_gradient_reaches_the_denoiser_only(arch: str) -> None:
    model = trained(preset("paper", arch=arch))
    query, positive = rows()
    model.diffusion_loss(positive, query, generator=seeded(3)).backward()
    assert query.grad is None
    assert positive.grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("arch", ["film", "dmns"])
def test_gradient_equals_finite_differences(arch: str) -> None:
    model = trained(preset("paper", arch=arch)).double()
    query, positive = (value.detach().double() for value in rows())
    model.diffusion_loss(positive, query, generator=seeded(3)).backward()
    for parameter in model.parameters():
        direction = torch.randn(parameter.shape, generator=seeded(8), dtype=torch.float64)
        values = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                parameter.add_(step * direction)
            values.append(float(model.diffusion_loss(positive, query, generator=seeded(3)).detach()))
        with torch.no_grad():
            parameter.add_(1e-5 * direction)
        assert parameter.grad is not None
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(float((parameter.grad * direction).sum()), rel=1e-4)


def test_training_learns_a_gaussian_of_the_condition() -> None:
    """Positives 2 + 0.1 z: after training, the mean chain must end near 2 where it started far away."""
    model = Adar(preset("robust", scale="none", sampler="mean"), width=4, generator=seeded(0))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    source, query = seeded(1), torch.ones(256, 4)
    bottom = torch.zeros(256, dtype=torch.int64)
    before = float(model.generator.generate(query, bottom, generator=seeded(2)).mean())
    for _ in range(300):
        positive = 2 + 0.1 * torch.randn(256, 4, generator=source)
        optimiser.zero_grad()
        model.diffusion_loss(positive, query, generator=source).backward()
        optimiser.step()
    after = model.generator.generate(query, bottom, generator=seeded(2))
    assert abs(before) < 0.5
    assert float(after.mean()) == pytest.approx(2.0, abs=0.4)
    assert float(after.std()) < 0.5


def test_no_rows_cost_nothing() -> None:
    model = trained(preset("robust"))
    loss = model.diffusion_loss(torch.zeros(0, WIDTH), torch.zeros(0, WIDTH))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert int(model.generator.scale_updates) == 0


def test_running_scale_is_the_bias_corrected_mean_square() -> None:
    model = trained(preset("robust", scale_momentum=0.9))
    assert float(model.generator.rms()) == 1.0
    weights, values = [], []
    for index in range(4):
        positive = (index + 1) * torch.randn(ROWS, WIDTH, generator=seeded(index))
        model.diffusion_loss(positive, positive, generator=seeded(9))
        values.append(float(positive.square().mean()))
        weights.append(0.9 ** (3 - index))
    expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert float(model.generator.rms()) == pytest.approx(expected**0.5, rel=1e-5)
    model.eval()
    model.diffusion_loss(positive, positive)
    assert int(model.generator.scale_updates) == 4


def test_scaled_space_commutes_with_the_unit_of_the_vectors() -> None:
    """With scale rms, vectors ten times as long give the same loss and samples ten times as long."""
    losses, samples = [], []
    for factor in (1.0, 10.0):
        model = trained(preset("robust"))
        query, positive = (factor * value.detach() for value in rows())
        losses.append(model.diffusion_loss(positive, query, generator=seeded(3)))
        samples.append(model.generator.generate(query, torch.full((ROWS,), 10), generator=seeded(4)) / factor)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(samples[0], samples[1], rtol=1e-3, atol=1e-3)


def test_autocast_and_low_precision_inputs_compute_in_float32() -> None:
    model = trained(preset("paper"))
    query, positive = (value.detach().bfloat16() for value in rows())
    plain = model.diffusion_loss(positive.float(), query.float(), generator=seeded(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model.diffusion_loss(positive, query, generator=seeded(3))
        made = model.augment(query, positive, positive_score=(query * positive).sum(1), generator=seeded(4))
    assert torch.equal(plain, cast)
    assert made.vectors is not None
    assert made.vectors.dtype == torch.bfloat16


def test_state_resumes_and_holds_no_derived_tables() -> None:
    model = trained(preset("robust", score="standardised"))
    query, positive = rows()
    score = (query * positive).sum(1)
    for seed in range(3):
        model.diffusion_loss(positive, query, generator=seeded(seed))
        model.augment(query, positive, positive_score=score, generator=seeded(seed))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert not any("time_code" in name or "alpha_bar" in name for name in state)
    other = Adar(preset("robust", score="standardised"), width=WIDTH, generator=seeded(77))
    other.load_state_dict(state)
    results = []
    for part in (model, other):
        loss = part.diffusion_loss(positive, query, generator=seeded(5))
        made = part.augment(query, positive, positive_score=score, generator=seeded(6))
        results.append((loss, made.vectors, made.t_star, part.statistics()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])  # type: ignore[arg-type]
    assert torch.equal(results[0][2], results[1][2])  # type: ignore[arg-type]
    assert results[0][3] == results[1][3]


def test_generator_builds_from_any_width() -> None:
    for width in (1, 7, 256):
        config = preset("paper")
        schedule = build_schedule(config, "sequences")
        model = DiffusionGenerator(schedule, build_denoiser(config, schedule, width))
        made = model.generate(torch.zeros(3, width), torch.tensor([0, 10, 20]), generator=seeded(0))
        assert made.shape == (3, width)
        assert schedule.steps == 20
