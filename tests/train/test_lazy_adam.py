"""Adam on touched rows against torch's SparseAdam and Adam; which runs use it, and that they resume."""

from __future__ import annotations

import json

import pytest
import torch

from augrec.errors import UnsupportedCombinationError
from augrec.experiment import build as build_module
from augrec.experiment.config import resolve
from augrec.experiment.run import run
from augrec.train import lazy_adam
from augrec.train.lazy_adam import LazyAdam, coalesced

ROWS, WIDTH = 40, 3


def sparse_gradient(seed: int, rows: list[int]) -> torch.Tensor:
    values = torch.randn(len(rows), WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (ROWS, WIDTH), check_invariants=True)


def table() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.linspace(-1, 1, ROWS * WIDTH, dtype=torch.float64).view(ROWS, WIDTH))


STEPS = [[3, 5, 39], [0], [3, 4, 5, 6, 7, 8], list(range(ROWS)), [5]]


@pytest.mark.parametrize("at_once", [1, 7, 1 << 17])
def test_the_rule_is_that_of_sparse_adam_however_many_rows_move_at_once(monkeypatch, at_once) -> None:
    monkeypatch.setattr(lazy_adam, "_AT_ONCE", at_once)
    found, wanted = table(), table()
    # SparseAdam adds epsilon before its bias correction, Adam after it: here it is nothing.
    options = {"lr": 0.1, "eps": 1e-30}
    ours, theirs = LazyAdam([found], fused=True, **options), torch.optim.SparseAdam([wanted], **options)
    for number, rows in enumerate(STEPS):
        before = found.detach().clone()
        found.grad, wanted.grad = coalesced(sparse_gradient(number, rows)), sparse_gradient(number, rows)
        ours.step()
        theirs.step()
        moved = (found.detach() != before).any(1).nonzero()[:, 0].tolist()
        assert moved == rows
        assert found.grad is not None
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_with_every_row_touched_it_is_adam_and_dense_gradients_are_adams() -> None:
    found, plain = [table(), table()], [table(), table()]
    ours, theirs = LazyAdam(found, lr=0.1, fused=True), torch.optim.Adam(plain, lr=0.1, fused=True)
    for number in range(4):
        gradient = sparse_gradient(number, list(range(ROWS)))
        found[0].grad, found[1].grad = coalesced(gradient), gradient.to_dense() * 2
        plain[0].grad, plain[1].grad = gradient.to_dense(), gradient.to_dense() * 2
        ours.step()
        theirs.step()
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(found, plain, strict=True))
    theirs.load_state_dict(ours.state_dict())  # one state for both
    assert ours.state[found[0]].keys() == theirs.state[plain[0]].keys()


def test_rows_named_twice_or_out_of_order_are_summed() -> None:
    rows, values = torch.tensor([[4, 2, 4]]), torch.ones(3, WIDTH)
    twice = torch.sparse_coo_tensor(rows, values, (ROWS, WIDTH), check_invariants=True)
    found = coalesced(twice)
    assert found.indices().tolist() == [[2, 4]]
    assert found.values().sum(1).tolist() == [WIDTH, 2 * WIDTH]
    once = sparse_gradient(0, [1, 2, 9])
    assert not once.is_coalesced()
    assert coalesced(once)._values().data_ptr() == once._values().data_ptr(), "nothing is copied"


CASES = [
    ("mf", "bpr", {}), ("sasrec", "bce", {}), ("sasrec", "sampled-softmax", {"average": 0.9}),
    ("gru4rec", "bpr", {"clip": 0.1}), ("bert4rec", "bce", {}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "objective", "more"), CASES, ids=[f"{m}-{o}" for m, o, _ in CASES])
def test_runs_learn_with_sparse_gradients_and_resume_to_the_bit(make, model, objective, more) -> None:
    train = {"sparse": True, "batch_size": 30, "learning_rate": 0.01, **more}
    small = {"heads": 1, "inner": 6} if model in ("sasrec", "bert4rec") else {}
    options = {"model": model, "objective": objective, "parts": {model: {"dim": 6, **small}}}

    def of(name: str, epochs: int):
        return make(**options, train={**train, "epochs": epochs}, name=name)

    whole = of("whole", 4)
    optimiser = whole.loop.optimisers["main"]
    assert isinstance(optimiser, LazyAdam)
    seen = []
    step = optimiser.step
    optimiser.step = lambda *a: seen.append(whole.step.backbone.looked_up().grad.is_sparse) or step(*a)
    whole.loop._fabric_optimisers["main"]._optimizer = optimiser
    whole.loop.run()
    losses = [sum(line["loss"].values()) for line in whole.lines]
    assert losses[-1] < losses[0]
    half = of("half", 2)
    half.loop.run()
    rest = of("rest", 4)
    rest.loop.resume(half.loop.checkpoints.latest())
    rest.loop.run()
    for one, other in zip(rest.step.parameters(), whole.step.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_tables_size_decides_where_nothing_is_said(make, monkeypatch) -> None:
    def sparse(**options) -> bool:
        return make(name=str(next(names)), **options).step.backbone.sparse

    names = iter(range(20))
    small = {"model": "sasrec", "parts": {"sasrec": {"dim": 6, "heads": 1, "inner": 6}}}
    assert not sparse()
    monkeypatch.setattr(build_module, "SPARSE_ROWS", 60)
    assert sparse()
    assert not sparse(train={"sparse": False})
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
