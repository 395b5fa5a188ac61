"""Forward process and way back against the closed forms."""

from __future__ import annotations

import pytest
import torch

from augrec.augment.simdiffrec import SequenceDenoiser, restore
from augrec.backbones.transformer import TransformerStack
from augrec.diffusion.process import q_sample
from augrec.diffusion.schedules import linear, rescale_zero_terminal_snr
from augrec.testing.sequence_checks import tokens_of

ROWS = ([3, 1, 4, 1, 5], [2], [7, 1, 8])
TOKENS = tokens_of(ROWS)
SCHEDULE = rescale_zero_terminal_snr(linear(1000))
LEVELS = {
    1: (0.99995, 0.0100), 11: (0.9989, 0.0470), 101: (0.9458, 0.3248), 251: (0.7203, 0.6936), 501: (0.2743, 0.9616),
    751: (0.0514, 0.9987), 901: (0.0102, 1.0), 1000: (0.0, 1.0),
}  # fmt: skip
"""Signal and noise after t steps of the rescaled schedule, worked out apart from this code."""


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("t", sorted(LEVELS))
def test_signal_and_noise(t) -> None:
    clean, noise = normal(4, 3), normal(4, 3, seed=1)
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    root = torch.cumprod(1 - beta, 0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    signal, level = root[t - 1].item(), (1 - root[t - 1] ** 2).sqrt().item()
    assert (signal, level) == pytest.approx(LEVELS[t], abs=6e-5)
    assert torch.allclose(q_sample(SCHEDULE, clean, t, noise), signal * clean + level * noise, atol=1e-9)


def test_most_steps_hold_more_noise_than_signal() -> None:
    assert (SCHEDULE.alpha_bar[1:] < 0.5).double().mean().item() == pytest.approx(0.74, abs=0.005)


def test_one_ddim_step_is_the_prediction() -> None:
    x, t = normal(9, 3), torch.tensor([1000, 7, 300])
    seen = []

    def predict(x, t):
        seen.append(t)
        return x * 0.3 + t[TOKENS.rows][:, None]

    found = restore(SCHEDULE, predict, x, t, TOKENS.rows, 1)
    assert torch.equal(found, predict(x, t))
    assert len(seen) == 2
    assert torch.equal(seen[0], t)


@pytest.mark.parametrize("steps", [2, 5, 10])
def test_ddim_equals_a_loop_over_rows(steps) -> None:
    x, start = normal(9, 3), torch.tensor([1000, 3, 300])
    levels = SCHEDULE.alpha_bar

    def predict(x, t):
        return x * 0.3 + 0.01 * t[TOKENS.rows][:, None]

    found = restore(SCHEDULE, predict, x, start, TOKENS.rows, steps)
    for row, part in enumerate(x.split([len(one) for one in ROWS])):
        state, t = part, int(start[row])
        for k in range(steps, 0, -1):
            now, then = -(-t * k // steps), -(-t * (k - 1) // steps)
            clean = state * 0.3 + 0.01 * now
            implied = (state - levels[now].sqrt() * clean) / (1 - levels[now]).sqrt()
            state = levels[then].sqrt() * clean + (1 - levels[then]).sqrt() * implied if k > 1 else clean
        assert torch.allclose(found[TOKENS.rows == row], state, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_perfect_denoiser_is_kept_by_the_chain(steps) -> None:
    clean, noise, t = normal(9, 3), normal(9, 3, seed=1), torch.tensor([1000, 2, 640])
    noised = q_sample(SCHEDULE, clean, t[TOKENS.rows], noise)
    found = restore(SCHEDULE, lambda x, t: clean, noised, t, TOKENS.rows, steps)
    assert torch.equal(found, clean)


def denoiser(stack=True):
    torch.manual_seed(0)
    own = TransformerStack(dim=6, layers=1, heads=2, inner=8, dropout=0.0, attention_dropout=0.0) if stack else None
    return SequenceDenoiser(dim=6, steps=10, positions=3, dropout=0.0, stack=own).double()


def test_input_of_the_layers_is_vector_time_and_position_from_the_newest() -> None:
    net, x, t = denoiser(stack=False), normal(9, 6), torch.tensor([10, 1, 4])
    seen = []

    def mix(hidden, tokens):
        seen.append(hidden)
        return hidden * 2

    found = net(x, t, TOKENS, mix)
    assert torch.equal(found, seen[0] * 2)
    index = 0
    for row, ids in enumerate(ROWS):
        for place in range(len(ids)):
            wanted = x[index] + net.time[t[row] - 1] + net.position[min(len(ids) - 1 - place, 2)]
            assert torch.allclose(seen[0][index], net.norm(wanted))
            index += 1


def test_it_sees_the_whole_row_and_no_other() -> None:
    net, t = denoiser(), torch.tensor([10, 1, 4])
    x = normal(9, 6)
    other = x.clone()
    other[4] = normal(6, seed=9)
    moved = (net(x, t, TOKENS) != net(other, t, TOKENS)).any(1)
    assert moved.tolist() == [True] * 5 + [False] * 4
