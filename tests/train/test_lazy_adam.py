"""Adam on rows as they are read against torch's Adam on all; which runs use it, and that they resume."""

from __future__ import annotations

import json

import pytest
import torch

from augrec.errors import UnsupportedCombinationError
from augrec.experiment import build as build_module
from augrec.experiment.config import resolve
from augrec.experiment.run import run
from augrec.train import lazy_adam
from augrec.train.callbacks import Callback
from augrec.train.lazy_adam import LazyAdam, coalesced

ROWS, WIDTH = 40, 3


def sparse_gradient(seed: int, rows: list[int]) -> torch.Tensor:
    values = torch.randn(len(rows), WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (ROWS, WIDTH), check_invariants=True)


def table() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.linspace(-1, 1, ROWS * WIDTH, dtype=torch.float64).view(ROWS, WIDTH))


def draws(steps: int):
    """Rows and gradients of steps: rows from 4 on rest after the first half, the last five are never touched."""
    generator = torch.Generator().manual_seed(0)
    for number in range(steps):
        rows = (
            torch.randperm(4 if 2 * number > steps else ROWS - 5, generator=generator)[: 1 + number % 4].sort().values
        )
        values = torch.randn(len(rows), WIDTH, dtype=torch.float64, generator=generator)
        yield number, rows, torch.sparse_coo_tensor(rows[None], values, (ROWS, WIDTH), check_invariants=True)


@pytest.mark.parametrize(("at_once", "epsilon", "close"), [(1 << 17, 1e-30, 1e-12), (7, 1e-30, 1e-12), (7, 1e-8, 1e-5)])
def test_every_row_is_where_adam_has_it_when_it_is_read(monkeypatch, at_once, epsilon, close) -> None:
    """900 steps, so that the resting rows' tails end; the learning rate halves on the way, the state is loaded anew."""
    monkeypatch.setattr(lazy_adam, "_AT_ONCE", at_once)
    found, wanted = table(), table()
    ours = LazyAdam([found], lr=0.1, eps=epsilon, fused=True)
    theirs = torch.optim.Adam([wanted], lr=0.1, eps=epsilon, fused=True)
    for number, rows, gradient in draws(900):
        ours.catch_up(found, torch.cat([rows, rows]))
        assert torch.allclose(found[rows], wanted[rows], rtol=0, atol=close)
        late = found.detach().clone()
        found.grad, wanted.grad = coalesced(gradient), gradient.to_dense()
        ours.step()
        theirs.step()
        assert (found.detach() != late).any(1).nonzero()[:, 0].tolist() == rows.tolist(), "no other row moves"
        if number in (500, 501):
            ours.catch_up(found)
        if number == 501:
            ours.param_groups[0]["lr"] = theirs.param_groups[0]["lr"] = 0.05
        if number in (550, 600):
            saved, ours = ours.state_dict(), LazyAdam([found], eps=epsilon, fused=True)
            ours.load_state_dict(saved)
        if number == 501:
            del ours.state[found]["moments"]  # a state whose moments are as old as its weights
    assert not torch.allclose(found, wanted, rtol=0, atol=1e-3), "rows that were not asked for are late"
    ours.catch_up(found)
    assert torch.allclose(found, wanted, rtol=0, atol=close)
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.allclose(ours.state[found][name], theirs.state[wanted][name], rtol=1e-9, atol=1e-300)


def test_dense_gradients_are_adams_before_between_and_after_sparse_ones() -> None:
    found, plain = table(), table()
    options = {"lr": 0.1, "eps": 1e-30, "fused": True}
    ours, theirs = LazyAdam([found], **options), torch.optim.Adam([plain], **options)
    for number, rows, gradient in draws(60):
        dense = number < 5 or number % 7 == 0
        if not dense:
            ours.catch_up(found, rows)
        found.grad, plain.grad = gradient.to_dense() if dense else coalesced(gradient), gradient.to_dense()
        ours.step()
        theirs.step()
    ours.catch_up(found)
    assert torch.allclose(found, plain, rtol=0, atol=1e-12)


def test_rows_named_twice_or_out_of_order_are_summed() -> None:
    rows, values = torch.tensor([[4, 2, 4]]), torch.ones(3, WIDTH)
    twice = torch.sparse_coo_tensor(rows, values, (ROWS, WIDTH), check_invariants=True)
    found = coalesced(twice)
    assert found.indices().tolist() == [[2, 4]]
    assert found.values().sum(1).tolist() == [WIDTH, 2 * WIDTH]
    once = sparse_gradient(0, [1, 2, 9])
    assert not once.is_coalesced()
    assert coalesced(once)._values().data_ptr() == once._values().data_ptr(), "nothing is copied"


class Losses(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_step(self, epoch, batch, loss):
        self.seen.append(loss)


CASES = [
    ("mf", "bpr", {}), ("sasrec", "bce", {}), ("sasrec", "sampled-softmax", {"average": 0.9}),
    ("gru4rec", "bpr", {"clip": 0.1}), ("bert4rec", "bce", {}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "objective", "more"), CASES, ids=[f"{m}-{o}" for m, o, _ in CASES])
def test_runs_learn_with_sparse_gradients_and_resume_to_the_bit(make, model, objective, more) -> None:
    train = {"sparse": True, "batch_size": 30, "learning_rate": 0.01, **more}
    small = {"heads": 1, "inner": 6} if model in ("sasrec", "bert4rec") else {}
    options = {"model": model, "objective": objective, "parts": {model: {"dim": 6, **small}}}

    def of(name: str, epochs: int, **other):
        watch = Losses()
        made = make(**options, train={**train, "epochs": epochs, **other}, name=name, callbacks=[watch])
        return made, watch.seen

    whole, losses = of("whole", 4)
    optimiser = whole.loop.optimisers["main"]
    assert isinstance(optimiser, LazyAdam)
    seen = []
    step = optimiser.step
    optimiser.step = lambda *a: seen.append(whole.step.backbone.looked_up().grad.is_sparse) or step(*a)
    whole.loop._fabric_optimisers["main"]._optimizer = optimiser
    whole.loop.run()
    assert len(seen) == len(losses)
    assert all(seen)
    means = [sum(line["loss"].values()) for line in whole.lines]
    assert means[-1] < means[0]
    plain, wanted = of("plain", 4, sparse=False)
    plain.loop.run()
    # Adam makes steps of gradients that are nothing but rounding (a key's bias): runs drift apart by little.
    assert losses[:20] == pytest.approx(wanted[:20], abs=1e-4)
    assert losses == pytest.approx(wanted, abs=1e-3)
    half, _ = of("half", 2)
    half.loop.run()
    rest, _ = of("rest", 4)
    rest.loop.resume(half.loop.checkpoints.latest())
    rest.loop.run()
    for one, other in zip(rest.step.parameters(), whole.step.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_a_run_stopped_inside_an_epoch_goes_on_to_the_bit(make, stop_at) -> None:
    def of(name: str):
        train = {"sparse": True, "batch_size": 60, "learning_rate": 0.01, "epochs": 3}
        return make(model="mf", objective="bpr", parts={"mf": {"dim": 6}}, train=train, name=name)

    whole = of("whole")
    assert stop_at % len(whole.loop.batches), "the stop is inside an epoch"
    whole.loop.run()
    snapshot = of("cut").stop_after(stop_at)
    last = next(value for name, value in snapshot.tensors.items() if name.endswith("/last"))
    assert int(last.min()) < stop_at, "some rows are late where the run was cut"
    rest = of("rest")
    rest.loop.resume(snapshot)
    rest.loop.run()
    for one, other in zip(rest.step.parameters(), whole.step.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_tables_size_decides_where_nothing_is_said(make, log, monkeypatch) -> None:
    def sparse(**options) -> bool:
        return make(name=str(next(names)), **options).step.backbone.sparse

    names = iter(range(20))
    small = {"model": "sasrec", "parts": {"sasrec": {"dim": 6, "heads": 1, "inner": 6}}}
    assert not sparse()
    monkeypatch.setattr(build_module, "SPARSE_ROWS", 60)
    assert sparse()
    assert not sparse(train={"sparse": False})
    plugged = resolve(model="mf", augment=("dns",), overrides={"mf": {"dim": 6}})
    assert not build_module.build(plugged, log, seed=0).step.backbone.sparse, "a plug-in may read the whole table"
    assert not sparse(train={"weight_decay": 0.1})
    assert sparse(**small, objective="bpr")
    assert not sparse(**small, objective="softmax"), "every item has a gradient"
    assert not sparse(model="lightgcn"), "propagation reads every row"
    cosine = {"sasrec": {"dim": 6, "heads": 1, "inner": 6, "temperature": 5.0}}
    assert not sparse(model="sasrec", objective="bpr", parts=cosine), "rows are normalised first"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"train": {"weight_decay": 0.1}}, "train.weight_decay moves every row"),
        ({"model": "lightgcn"}, "lightgcn with objective bpr reads every row"),
        ({"model": "sasrec", "objective": "softmax", "parts": {"sasrec": {"dim": 6, "heads": 1}}}, "objective softmax"),
    ],
    ids=["weight-decay", "lightgcn", "softmax"],
)
def test_what_cannot_be_sparse_is_refused(make, options, reason) -> None:
    options["train"] = {"sparse": True, **options.get("train", {})}
    with pytest.raises(UnsupportedCombinationError, match=reason):
        make(**options)


def test_a_run_records_that_its_table_is_sparse(log, tmp_path) -> None:
    overrides = {"mf": {"dim": 6}, "train": {"sparse": True, "threads": 1}}
    run(resolve(model="mf", epochs=1, overrides=overrides), tmp_path / "run", source=log)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["choices"]["sparse"] is True
