"""Disentangled attention and the denoiser against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from augrec.augment.cadirec import ContextDenoiser, RelativeStack
from augrec.testing.sequence_checks import tokens_of

ROWS = ([3, 1, 4, 1, 5, 2], [2], [7, 1, 8])
TOKENS = tokens_of(ROWS)
DIM, HEADS, WIDTH = 8, 2, 4


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stack(max_distance=50, layers=2):
    torch.manual_seed(0)
    made = RelativeStack(dim=DIM, layers=layers, heads=HEADS, inner=10, dropout=0.0, max_distance=max_distance)
    for parameter in made.parameters():
        parameter.data.normal_(0, 0.5)
    return made.double()


def reference(net, x, rows):
    """Every pair of events of a row, one score at a time."""
    out = []
    for part in x.split([len(row) for row in rows]):
        h, n = part, len(part)
        for layer in net.layers:
            q, k, v = layer.qkv(h).chunk(3, -1)
            mixed = torch.zeros_like(h)
            for head in range(HEADS):
                cut = slice(head * WIDTH, (head + 1) * WIDTH)
                score = torch.zeros(n, n, dtype=torch.float64)
                for i in range(n):
                    for j in range(n):
                        there = max(-net.max_distance, min(net.max_distance, i - j)) + net.max_distance
                        back = max(-net.max_distance, min(net.max_distance, j - i)) + net.max_distance
                        r = layer.position_key(net.distance[there])[cut]
                        s = layer.position_query(net.distance[back])[cut]
                        score[i, j] = (q[i, cut] @ k[j, cut] + q[i, cut] @ r + k[j, cut] @ s) / math.sqrt(3 * WIDTH)
                mixed[:, cut] = score.softmax(1) @ v[:, cut]
            h = layer.norm1(h + layer.out(mixed))
            h = layer.norm2(h + layer.narrow(F.gelu(layer.wide(h))))
        out.append(h)
    return torch.cat(out)


@pytest.mark.parametrize("max_distance", [1, 3, 50])
@pytest.mark.parametrize("rows", [ROWS, ([1, 2, 3], [4, 5, 6]), ([9],)], ids=["mixed", "equal", "single"])
def test_packed_attention_equals_a_loop_over_pairs(rows, max_distance) -> None:
    net, x = stack(max_distance), normal(sum(map(len, rows)), DIM)
    with torch.no_grad():
        assert torch.allclose(net(x, tokens_of(rows)), reference(net, x, rows), atol=1e-11)


def test_distances_matter_and_absolute_places_do_not() -> None:
    """Two equal events at distance 2 meet alike at the start and at the end of a row of equal events."""
    net = stack(max_distance=2, layers=1)
    same = normal(1, DIM).expand(6, DIM)
    out = net(same, tokens_of(([0] * 6,)))
    assert torch.allclose(out[2], out[3], atol=1e-12)
    ordered = normal(3, DIM)
    turned = net(ordered.flip(0), tokens_of(([0] * 3,))).flip(0)
    assert not torch.allclose(net(ordered, tokens_of(([0] * 3,))), turned, atol=1e-3)


def test_time_is_an_embedded_sine_code_of_the_row() -> None:
    torch.manual_seed(0)
    net = ContextDenoiser(dim=DIM, steps=10, input_dropout=0.0, stack=stack()).double()
    x, t = normal(10, DIM), torch.tensor([10, 0, 4])
    inputs = []
    for index, row in enumerate(TOKENS.rows.tolist()):
        angle = [t[row].item() * 10000 ** (-2 * i / DIM) for i in range(DIM // 2)]
        code = torch.tensor([f(a) for a in angle for f in (math.sin, math.cos)], dtype=torch.float64)
        inputs.append(net.norm(x[index] + net.time(code)))
    assert torch.allclose(net(x, t, TOKENS), net.stack(torch.stack(inputs), TOKENS), atol=1e-6)
