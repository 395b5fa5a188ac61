"""TI-DiffRec and T-DiffRec against dense chains, hand-made weights and the published sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from augrec.backbones.base import InnerProductScorer
from augrec.backbones.diffrec import TDiffRec, TIDiffRec, time_codes
from augrec.backbones.interval import weighted_rows
from augrec.batches.users import UserBatches
from augrec.data.interactions import Interactions, Vocabulary
from augrec.diffusion import linear_var, posterior_mean
from augrec.errors import ConfigError, DataError
from augrec.testing import log_of, tiny_log
from augrec.testing.logs import all_users

SMALL = {"hidden": 7, "time_dim": 5, "steps": 6, "noise_max": 0.05, "noise_scale": 1.0}


def timed(histories, times, n_items=9):
    user = [u for u, items in enumerate(histories) for _ in items]
    return Interactions.from_columns(
        user=user, item=[i for items in histories for i in items], timestamp=[t for row in times for t in row],
        users=Vocabulary.of(np.arange(len(histories))), items=Vocabulary.of(np.arange(n_items)),
    )  # fmt: skip


def made(kind=TIDiffRec, log=None, seed=0, **fields):
    log = tiny_log() if log is None else log
    generator = torch.Generator().manual_seed(seed)
    config = kind.Config(**{**SMALL, **fields})
    return kind(config, n_users=log.n_users, n_items=log.n_items, train=log, generator=generator).double().eval()


def dense_row(log, user, weights):
    """x0 of one user, written item by item; a repeated item keeps its last weight."""
    row = torch.zeros(log.n_items, dtype=torch.float64)
    for event, weight in zip(range(log.offsets[user], log.offsets[user + 1]), weights, strict=True):
        row[log.item[event]] = weight
    return row


def dense_chain(model, row, noise_max=None):
    """The reverse chain over all items, one step after the other, as it is published."""
    config = model.config
    schedule = linear_var(
        config.steps, scale=config.noise_scale, noise_min=config.noise_min, noise_max=noise_max or config.noise_max
    )
    row = F.pad(row, (0, int(config.padding_column)))
    for step in range(config.steps, 0, -1):
        rate = [10000 ** (-i / (config.time_dim // 2)) for i in range(config.time_dim // 2)]
        code = [math.cos((step - 1) * r) for r in rate] + [math.sin((step - 1) * r) for r in rate]
        code += [0.0] * (config.time_dim % 2)
        embedded = model.time @ torch.tensor(code, dtype=torch.float64) + model.time_bias
        weight = torch.cat([model.inward.T, model.inward_time], 1)
        hidden = torch.tanh(weight @ torch.cat([row, embedded]) + model.inward_bias)
        restored = model.outward[:, :-1] @ hidden + model.outward[:, -1]
        row = posterior_mean(schedule, restored, row, step)
    return row


@pytest.mark.parametrize("fields", [{}, {"padding_column": True, "time_dim": 4}, {"inference_noise_max": 0.02}])
@torch.no_grad()
def test_the_recurrence_equals_the_dense_chain(fields) -> None:
    log = timed([[0, 3, 3, 5], [2], [], [8, 1, 8, 4, 0]], [[0, 10, 30, 40], [7], [], [5, 5, 6, 6, 15]])
    model = made(log=log, **fields)
    rows = weighted_rows(log, all_users(log), low=0.5, high=1.0, by_time=True, ties="AllOne")
    query = model.query_users(all_users(log), log, model.tables())
    found = query @ model.outward.T
    for user in range(log.n_users):
        clean = torch.zeros(log.n_items, dtype=torch.float64)
        own = rows.row == user
        clean[rows.item[own]] = rows.weight[own]
        wanted = dense_chain(model, clean, fields.get("inference_noise_max"))
        assert torch.allclose(found[user], wanted, rtol=0, atol=1e-9)
    batch = next(UserBatches(log, batch_size=9).epoch())
    wanted = query.index_select(0, batch.user)
    # Products round by how many rows stand below each other.
    assert torch.allclose(model.queries(batch, model.tables()), wanted, rtol=0, atol=1e-12)


def test_time_weights_by_hand() -> None:
    log = timed([[0, 3, 3, 5], [2], [6, 7]], [[0, 10, 30, 40], [7], [9, 9]])

    def weights(ties, by_time=True):
        rows = weighted_rows(log, all_users(log), low=0.5, high=1.0, by_time=by_time, ties=ties)
        return [dict(zip(rows.item[rows.row == u].tolist(), rows.weight[rows.row == u].tolist(), strict=True))
                for u in range(3)]  # fmt: skip

    first = {0: 0.5, 3: 0.5 + 0.5 * 30 / 40, 5: 1.0}
    assert weights("AllOne") == [first, {2: 1.0}, {6: 1.0, 7: 1.0}]
    assert weights("MinMax") == [first, {2: 0.5}, {6: 0.5, 7: 0.5}]
    assert weights("AllLinear") == [first, {2: 0.5}, {6: 0.5, 7: 1.0}]
    order = [{0: 0.5, 3: pytest.approx(0.5 + 0.5 * 2 / 3), 5: 1.0}, {2: 0.5}, {6: 0.5, 7: 1.0}]
    assert weights("AllOne", by_time=False) == order


def test_seconds_are_not_lost_to_float32() -> None:
    start = 1_400_000_001
    log = timed([[0, 1, 2]], [[start, start + 1, start + 4]])
    rows = weighted_rows(log, torch.tensor([0]), low=0.0, high=1.0, by_time=True, ties="AllOne")
    assert rows.weight.tolist() == [0.0, 0.25, 1.0]


def test_other_domains_weigh_less_and_rows_can_be_taken_twice() -> None:
    log = timed([[0, 3, 5], [2]], [[0, 1, 2], [7]])
    mask = np.arange(9) >= 3
    log = Interactions(**{**log.__dict__, "candidates": mask})
    rows = weighted_rows(log, all_users(log), low=0.5, high=1.0, by_time=True, ties="AllOne", foreign=0.5)
    assert rows.weight.tolist() == [0.25, 0.75, 1.0, 0.5]
    twice = rows.take(torch.tensor([1, 0, 1]))
    assert twice.item.tolist() == [2, 0, 3, 5, 2]
    assert twice.row.tolist() == [0, 1, 1, 1, 2]


@pytest.mark.parametrize("noise", ["all", "observed"])
@torch.no_grad()
def test_the_training_loss_by_a_slow_formula(noise) -> None:
    """One step is drawn for each user; with dropout off the loss is a mean over users of weighted squared errors."""
    log = timed([[0, 3, 5], [2, 4]], [[0, 1, 2], [7, 9]])
    model = made(log=log, noise=noise, dropout=0.0)
    batch = next(UserBatches(log, batch_size=5).epoch(generator=torch.Generator().manual_seed(1)))
    tables = model.tables()
    state = torch.get_rng_state()
    found = model.own_loss(batch, tables)
    torch.set_rng_state(state)
    schedule = model.schedule
    step = torch.randint(1, 7, (2,))
    order = [[0, 3, 5], [2, 4]]
    values = [[0.5, 0.75, 1.0], [0.5, 1.0]]
    flat = torch.randn(2, 9, dtype=torch.float64) if noise == "all" else torch.randn(5, dtype=torch.float64)
    total, at = 0.0, 0
    for place, user in enumerate(batch.user.tolist()):
        clean, t = torch.zeros(9, dtype=torch.float64), int(step[place])
        clean[order[user]] = torch.tensor(values[user], dtype=torch.float64)
        fresh = torch.zeros(9, dtype=torch.float64)
        if noise == "all":
            fresh = flat[place]
        else:
            fresh[order[user]] = flat[at : at + len(order[user])]
            at += len(order[user])
        bar = schedule.alpha_bar[t]
        noised = bar.sqrt() * clean + (1 - bar).sqrt() * fresh
        embedded = model.time @ time_codes(6, 5)[t] + model.time_bias
        hidden = torch.tanh(noised @ model.inward + model.inward_time @ embedded + model.inward_bias)
        error = (clean - model.outward[:, :-1] @ hidden - model.outward[:, -1]).square().mean()
        snr = schedule.snr
        total += error * (1.0 if t == 1 else snr[t - 1] - snr[t]) / 2
    assert found.item() == pytest.approx(float(total), rel=1e-9)


def test_an_epoch_visits_everybody_once_or_draws_with_replacement() -> None:
    log = log_of([[0, 1], [], [2], [3, 1, 2], [4]], n_items=5)
    batches = UserBatches(log, batch_size=3)
    seen = list(batches.epoch())
    assert sorted(torch.cat([b.user for b in seen]).tolist()) == [0, 2, 3, 4]
    for batch in seen:
        event = batch.event.numpy()
        assert log.user[event].tolist() == batch.target_user.tolist()
        assert log.item[event].tolist() == batch.target.tolist()
        assert len(batch.target) == log.degrees()[batch.user.numpy()].sum()
    drawn = UserBatches(log, batch_size=3, replacement=True)
    users = torch.cat([b.user for _ in range(300) for b in drawn.epoch(generator=None)])
    assert len(users) == 300 * 6
    assert (torch.bincount(users, minlength=5)[[0, 2, 3, 4]] / len(users)).tolist() == pytest.approx(
        [0.25] * 4, abs=0.05
    )
    generator = torch.Generator()
    tail = [b.user.tolist() for b in batches.epoch(generator=generator.manual_seed(3), start=1)]
    assert tail == [b.user.tolist() for b in batches.epoch(generator=generator.manual_seed(3))][1:]


def test_it_learns_to_restore_and_keeps_its_history_of_losses() -> None:
    log = tiny_log()
    torch_state = torch.get_rng_state()
    model = made(log=log, hidden=32, noise_scale=0.01, noise_max=0.005, dropout=0.2).float().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(120):
        for batch in UserBatches(log, batch_size=12).epoch():
            loss = model.own_loss(batch, model.tables())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.3 * np.mean(losses[:20])
    assert (model.sampler.count >= 10).all()
    assert "sampler.losses" in model.state_dict()
    scores = InnerProductScorer(model).score(all_users(log), log)
    own = torch.from_numpy(log.item).long()
    user = torch.from_numpy(log.user).long()
    assert scores[user, own].mean() > scores.mean() + 0.3
    torch.set_rng_state(torch_state)


def test_bad_settings_and_logs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ti-diffrec\.noise_max is below noise_min"):
        made(noise_min=0.1, noise_max=0.05)
    with pytest.raises(ConfigError, match=r"t-diffrec\.high = 0\.2 is below low"):
        made(TDiffRec, high=0.2)
    bare = Interactions.from_columns(user=[0, 0], item=[1, 2], name="bare")
    with pytest.raises(DataError, match=r"bare: ti-diffrec weighs events by their times .* use t-diffrec"):
        made(log=bare)
    made(TDiffRec, log=bare)


def test_published_sizes() -> None:
    """99.27 M parameters on Toy with the columns of both domains and the padding one; 33.04 M on Book."""

    def parameters(columns, hidden, width):
        return columns * hidden + hidden * width + hidden + columns * (hidden + 1) + width * (width + 1)

    for padding in (False, True):
        model = made(padding_column=padding)
        assert sum(p.numel() for p in model.parameters()) == parameters(model.n_items + padding, 7, 5)
    assert parameters(49_604, 1000, 10) / 1e6 == pytest.approx(99.27, abs=0.01)
    assert parameters(64_405, 256, 8) / 1e6 == pytest.approx(33.04, abs=0.01)
