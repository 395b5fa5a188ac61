"""HBR's weights: published vectors, a slow formula per user, and what reaches a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from augrec.augment.pdrec import HBR, HBRConfig, Preference, Scan, history_weights
from augrec.backbones.sasrec import SASRec, SASRecConfig
from augrec.errors import ConfigError
from augrec.experiment.build import make_batches
from augrec.testing import tiny_log
from augrec.testing.assemble import assemble

ROW = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("values", "padding", "long", "clip", "rescale", "wanted"),
    [
        ((0.9, 0.3, 0.6), 0.01, False, 3, 2, (2.90756, 0.95910, 1.93333)),
        ((0.9, 0.3, 0.6), -0.02, False, 3, 2, (2.85714, 1.00952, 1.93333)),
        ((0.9, 0.3, 0.6), 0.01, True, 3, 2, (3.8, 0.06667, 1.93333)),
        ((0.9, -0.1, 0.6), 0.01, False, 1, 4, (4.0, 0.42523, 4.0)),
    ],
)
def test_published_vectors(values, padding, long, clip, rescale, wanted) -> None:
    found = history_weights(
        torch.tensor(values), ROW, 1, rank_share=0.1, clip=clip, rescale=rescale,
        padding=torch.tensor([padding]), padded_length=3 if long else 200,
    )  # fmt: skip
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)
    if long:
        plain = history_weights(torch.tensor(values), ROW, 1, rank_share=0.1, clip=clip, rescale=rescale)
        assert torch.equal(found, plain)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("values", [(0.7,), (-0.2,), (0.4, 0.4, 0.4), (0.0, 0.0)])
def test_equal_preferences_scale_to_one(values, padded) -> None:
    count = len(values)
    found = history_weights(
        torch.tensor(values), torch.zeros(count, dtype=torch.int64), 1, rank_share=0.25, clip=9, rescale=1,
        padding=torch.zeros(1) if padded else None,
    )  # fmt: skip
    assert found.tolist() == pytest.approx([0.75 + 0.25 * (j + 1) / count for j in range(count)])


def slow(values, *, rank_share, clip, rescale, truncation, padding, long):
    """One user, step by step."""
    count = len(values)
    low, high = min(values), max(values)
    if padding is not None and count < long:
        least = min(low, padding)
        low = 0.5 * least if least > 0 else 1.5 * least
    scaled = [(v - low) / (high - low) if high > low else 1.0 for v in values]
    rank = {place: r + 1 for r, place in enumerate(sorted(range(count), key=lambda j: values[j]))}
    weights = [(1 - rank_share) * s * count / sum(scaled) + rank_share * rank[j] / count for j, s in enumerate(scaled)]
    if truncation == "scalar":
        return [rescale * min(max(clip, min(weights)), max(weights))] * count
    return [rescale * min(max(w, 0), clip) for w in weights]


@pytest.mark.parametrize("truncation", ["clamp", "scalar"])
@pytest.mark.parametrize("padded", [False, True])
def test_many_users_at_once_equal_one_by_one(truncation, padded) -> None:
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(12, (80,), generator=generator)
    value = torch.randn(80, generator=generator, dtype=torch.float64)
    padding = torch.randn(12, generator=generator, dtype=torch.float64) if padded else None
    options = {"rank_share": 0.3, "clip": 1.4, "rescale": 2.5, "truncation": truncation}
    found = history_weights(value, row, 12, padding=padding, padded_length=7, **options)
    for user in range(12):
        own = row == user
        pad = padding[user].item() if padded else None
        wanted = slow(value[own].tolist(), padding=pad, long=7, **options)
        assert found[own].tolist() == pytest.approx(wanted, rel=1e-12)


def made(log, **fields):
    generator = torch.Generator().manual_seed(4)
    preference = Preference(
        user=torch.randn(log.n_users, 5, generator=generator), item=torch.randn(log.n_items, 5, generator=generator)
    )
    plugin = HBR(HBRConfig(**fields), kind="sequences", dim=8, n_items=log.n_items)
    plugin.use(Scan(preference, log))
    plugin.settle()
    return plugin, preference


def test_a_batch_gets_the_weights_of_its_own_events() -> None:
    log = tiny_log()
    plugin, preference = made(log, weight=1.0, rescale=2.0, minmax="observed")
    config = SASRecConfig(dim=8, inner=8)
    trial = assemble(
        lambda log: SASRec(config, n_users=log.n_users, n_items=log.n_items), "bce", [plugin], log, batch_size=16
    )
    matrix = preference.user @ preference.item.T
    for batch in make_batches(trial.backbone, log, 16).epoch():
        weights = plugin.targets(batch, trial.step.encode(batch)).weights
        for event, weight in zip(batch.event.tolist(), weights.tolist(), strict=True):
            user = int(log.user[event])
            events = range(log.offsets[user] + 1, log.offsets[user + 1])
            values = [matrix[user, log.item[e]].item() for e in events]
            own = slow(values, rank_share=0.1, clip=3, rescale=2, truncation="clamp", padding=None, long=0)
            assert weight == pytest.approx(own[event - events.start], rel=1e-4, abs=1e-5)
    first = torch.from_numpy(log.offsets[:-1][log.degrees() > 0])
    assert (plugin.by_event[first] == 1).all(), "the first event of a history is never a target"


def test_the_share_lies_between_one_and_the_weight_and_a_missing_padding_column_is_named() -> None:
    log = tiny_log()
    whole, half = made(log, weight=1.0)[0].by_event, made(log, weight=0.5)[0].by_event
    assert torch.allclose(half, 0.5 + 0.5 * whole)
    assert not np.allclose(whole, 1)
    with pytest.raises(ConfigError, match=r"hbr\.minmax = padded .* preference\.padding_column=true"):
        made(log, minmax="padded")


def test_scaled_from_zero_the_worst_target_keeps_its_share_of_the_largest() -> None:
    log = tiny_log()
    plugin, preference = made(log, weight=1.0, rank_share=0.0, clip=1e9)
    seen = 0
    for user in range(log.n_users):
        events = torch.arange(int(log.offsets[user]), int(log.offsets[user + 1]))[1:]
        value = preference.scores(torch.full_like(events, user), torch.from_numpy(log.item)[events].long()).double()
        if not len(events) or value.min() <= 0:
            continue
        seen += 1
        assert torch.allclose(plugin.by_event[events].double(), value / value.mean(), rtol=1e-5)
    assert seen
