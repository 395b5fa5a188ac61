"""Importance-sampled steps against a loop over lists; SNR weights and reverse factors against published values."""

from __future__ import annotations

import math

import pytest
import torch

from augrec.diffusion import StepSampler, linear_var, posterior_coefficients, snr_difference
from augrec.errors import ConfigError

TOY = {"scale": 0.01, "noise_min": 0.0005, "noise_max": 0.005}


def slow_probabilities(history, memory, uniform):
    steps = len(history)
    if any(len(losses) < memory for losses in history):
        return [1 / steps] * steps
    size = [math.sqrt(sum(loss**2 for loss in losses) / memory) for losses in history]
    return [(1 - uniform) * one / sum(size) + uniform / steps for one in size]


@pytest.mark.parametrize("rows", [1, 3, 40, 200])
def test_the_history_equals_lists_kept_one_by_one(rows) -> None:
    steps, memory = 5, 4
    sampler, history = StepSampler(steps, memory=memory, uniform=0.01), [[] for _ in range(steps)]
    generator = torch.Generator().manual_seed(rows)
    for _ in range(30):
        chance = sampler.probabilities
        assert chance.tolist() == pytest.approx(slow_probabilities(history, memory, 0.01), rel=1e-12)
        step, divisor = sampler.draw(rows, generator=generator)
        assert divisor.tolist() == pytest.approx([chance[t - 1].item() * steps for t in step.tolist()])
        loss = torch.rand(rows, generator=generator, dtype=torch.float64) * step
        sampler.note(step, loss)
        for t, value in zip(step.tolist(), loss.tolist(), strict=True):
            history[t - 1] = [*history[t - 1], value][-memory:]
    assert sorted(sampler.losses[0].tolist()) == pytest.approx(sorted(history[0]))


def test_draws_follow_the_probabilities_and_keep_the_expectation() -> None:
    sampler = StepSampler(4, memory=2)
    step = torch.arange(1, 5).repeat_interleave(2)
    sampler.note(step, torch.tensor([1.0, 1, 2, 2, 4, 4, 9, 9]))
    drawn, divisor = sampler.draw(200_000, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(drawn - 1, minlength=4) / len(drawn)
    assert torch.allclose(share.double(), sampler.probabilities, atol=5e-3)
    value = torch.tensor([3.0, 1.0, 7.0, 5.0], dtype=torch.float64)
    assert (value[drawn - 1] / divisor).mean().item() == pytest.approx(value.mean().item(), rel=0.02)


def test_all_zero_losses_draw_evenly_and_bad_sizes_are_refused() -> None:
    sampler = StepSampler(3, memory=1)
    sampler.note(torch.tensor([1, 2, 3]), torch.zeros(3))
    assert sampler.probabilities.tolist() == pytest.approx([1 / 3] * 3)
    for wrong in ({"steps": 0}, {"steps": 2, "memory": 0}, {"steps": 2, "uniform": 0.0}):
        with pytest.raises(ConfigError, match="step sampler"):
            StepSampler(**wrong)


def test_published_weights_of_both_data_sets() -> None:
    toy = snr_difference(linear_var(10, **TOY))
    assert toy[1:].round().tolist() == [1, 33333, 16667, 10000, 6667, 4762, 3571, 2778, 2222, 1818]
    book = snr_difference(linear_var(10, **{**TOY, "noise_max": 0.01}))
    assert book[1:].round().tolist() == [1, 51351, 16506, 8143, 4851, 3220, 2293, 1716, 1332, 1064]
    assert toy[0] == 0


def test_published_reverse_factors() -> None:
    of_x0, of_xt = posterior_coefficients(linear_var(10, **TOY))
    wanted = [1, 0.333, 0.25, 0.2, 0.167, 0.143, 0.125, 0.111, 0.1, 0.091]
    assert of_x0[1:].tolist() == pytest.approx(wanted, abs=5e-4)
    assert (of_x0 + of_xt)[1:].tolist() == pytest.approx([1.0] * 10, abs=1e-4)
    assert (of_x0[1].item(), of_xt[1].item()) == (1.0, 0.0)
