"""Denoisers against their plain, unsplit forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from augrec.diffusion import Denoiser, DMNSDenoiser, FiLMDenoiser, linear, sinusoid_table
from augrec.errors import ConfigError

WIDTH, STEPS, ROWS = 12, 20, 33


def film(seed: int = 0, *, trained: bool = True) -> FiLMDenoiser:
    alpha_bar = linear(STEPS).alpha_bar
    base = (1 - alpha_bar).rsqrt()
    base[0] = 0.0
    generator = torch.Generator().manual_seed(seed)
    network = FiLMDenoiser(WIDTH, base, generator=generator)
    if trained:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    x, condition = torch.randn(2, ROWS, WIDTH, generator=generator)
    return x, torch.randint(1, STEPS + 1, (ROWS,), generator=generator), condition


@pytest.mark.parametrize("width", [1, 7, 64])
def test_sinusoid_table_by_hand(width: int) -> None:
    table = sinusoid_table(30, width)
    assert table.shape == (31, width)
    for t in (0, 1, 30):
        for column in range(width):
            angle = t * 10000 ** (-2 * (column // 2) / width)
            expected = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert float(table[t, column]) == pytest.approx(expected, abs=1e-6)


def test_film_equals_two_separate_mlps_on_the_concatenation() -> None:
    network = film().double()
    x, t, condition = inputs()
    x, condition = x.double(), condition.double()
    joined = torch.cat([network.time_code[t], condition], dim=1)
    weight = torch.cat([network.time_weight, network.condition_weight], dim=1)
    half = network.hidden
    gamma = F.silu(F.linear(joined, weight[:half], network.first_bias[:half])) @ network.gamma_weight
    eta = F.silu(F.linear(joined, weight[half:], network.first_bias[half:])) @ network.eta_weight
    scale = (1 + gamma + network.gamma_bias) * network.base_scale[t].unsqueeze(1)
    torch.testing.assert_close(network(x, t, condition), scale * x + eta + network.eta_bias, rtol=1e-9, atol=1e-9)
    assert half == 2 * WIDTH


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN: autograd finds every gradient")
@pytest.mark.parametrize("trains_inputs", [False, True])
def test_film_gradients_equal_those_autograd_finds_in_float64(trains_inputs: bool) -> None:
    found, network = [], film()
    for dtype in (torch.float32, torch.float64):
        x, t, condition = inputs()
        network = network.to(dtype)
        given = [one.to(dtype).requires_grad_(trains_inputs) for one in (x, condition)]
        # In float64, `forward` is the base class's.
        out = network(given[0], t, given[1])
        weights = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
        wanted = [*network.parameters(), *(given if trains_inputs else [])]
        found.append([out, *torch.autograd.grad((out * weights).sum(), wanted)])
    assert type(found[0][0].grad_fn).__name__ == "_PredictNoiseBackward"
    assert type(found[1][0].grad_fn).__name__ != "_PredictNoiseBackward"
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def test_film_starts_as_the_exact_answer_for_x0_zero() -> None:
    network = film(trained=False)
    _, t, condition = inputs()
    noise = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
    x_t = (1 - linear(STEPS).alpha_bar[t]).sqrt().float().unsqueeze(1) * noise
    torch.testing.assert_close(network(x_t, t, condition), noise, rtol=1e-5, atol=1e-6)


def test_film_first_layer_has_the_xavier_bound_of_the_whole_layer() -> None:
    network = film(trained=False)
    bound = math.sqrt(6 / (2 * WIDTH + network.hidden))
    for weight in (network.time_weight, network.condition_weight):
        assert bound * 0.97 < float(weight.detach().abs().max()) <= bound


def test_dmns_equals_its_blocks_applied_in_turn() -> None:
    network = DMNSDenoiser(WIDTH, STEPS, generator=torch.Generator().manual_seed(0))
    x, t, condition = inputs()
    embedding = network.time_mlp(network.time_code[t]) + condition
    expected = x
    for block in network.blocks:
        scale, shift = block(F.silu(embedding)).chunk(2, dim=1)
        expected = (1 + scale) * expected + shift
    torch.testing.assert_close(network(x, t, condition), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", [film(), DMNSDenoiser(WIDTH, STEPS)], ids=["film", "dmns"])
def test_several_steps_in_one_call_equal_each_alone(network: Denoiser) -> None:
    _, _, condition = inputs()
    steps, counts = [9, 7, 1], [3, ROWS, 1]
    with torch.no_grad():
        hidden, time = network.hidden_condition(condition), network.hidden_time()
        scales, shifts, factors = network.film_steps(hidden, time, steps, counts)
        alone = [network.film(hidden[:rows] + time[t], t) for t, rows in zip(steps, counts, strict=True)]
    scales = torch.cat([factor * part for factor, part in zip(factors, scales.split(counts), strict=True)])
    torch.testing.assert_close(scales, torch.cat([scale for scale, _ in alone]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shifts, torch.cat([shift for _, shift in alone]), rtol=1e-5, atol=1e-5)


def test_initialisation_follows_the_generator_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    first, second, other = film(0), film(0), film(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.condition_weight, second.condition_weight)
    assert not torch.equal(first.condition_weight, other.condition_weight)


def test_bad_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        FiLMDenoiser(0, torch.ones(5))
    with pytest.raises(ConfigError, match="at least 1"):
        DMNSDenoiser(0, 4)
