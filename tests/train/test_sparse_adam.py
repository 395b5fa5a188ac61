"""Sparse Adam against torch's own on sparse gradients, against Adam where every row has one, and through a run."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from augrec.cli import main
from augrec.train.sparse_adam import TABLE, SparseAdam

ROWS = TABLE + 77


def table(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(ROWS, 5, generator=generator, dtype=torch.float64))


def gradients(steps, share, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = (torch.rand(ROWS, 1, generator=generator) < share).double()
        yield rows * torch.randn(ROWS, 5, generator=generator, dtype=torch.float64)


def test_it_is_torchs_rule_on_the_rows_that_have_a_gradient():
    ours, theirs = table(), table()
    # Torch divides by sqrt(v) + eps before the bias correction, Adam after it: with a small eps there is no difference.
    own = SparseAdam([ours], lr=0.01, eps=1e-30)
    other = torch.optim.SparseAdam([theirs], lr=0.01, eps=1e-30)
    for gradient in gradients(30, 0.1):
        ours.grad = gradient
        rows = gradient.abs().amax(1).nonzero().view(-1)
        theirs.grad = torch.sparse_coo_tensor(rows[None], gradient[rows], gradient.shape, check_invariants=True)
        own.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)
    assert ours.grad is not None, "the gradient is the caller's to drop"


def test_with_a_gradient_in_every_row_it_is_adam():
    ours, theirs = table(), table()
    own, other = SparseAdam([ours], lr=0.01), torch.optim.Adam([theirs], lr=0.01)
    for gradient in gradients(20, 1.0):
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        own.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_row_without_a_gradient_stays_and_small_parameters_do_not_notice():
    ours, small = table(), nn.Parameter(torch.ones(4, 5, dtype=torch.float64))
    twin = nn.Parameter(small.detach().clone())
    own, other = SparseAdam([ours, small], lr=0.01), torch.optim.Adam([twin], lr=0.01)
    before = ours.detach().clone()
    gradient = torch.zeros_like(ours)
    gradient[3] = 1.0
    for turn in range(5):
        # A table's row that had a gradient once; the small parameter's momentum moves it further without one.
        ours.grad = gradient.clone() if not turn else torch.zeros_like(ours)
        small.grad = torch.full_like(small, float(not turn))
        twin.grad = small.grad.clone()
        own.step()
        other.step()
    moved = (ours != before).any(1).nonzero().view(-1).tolist()
    assert moved == [3]
    assert ours[3, 0].item() == pytest.approx(before[3, 0].item() - 0.01)
    assert torch.equal(small, twin)


def call(capfd, *arguments):
    with pytest.raises(SystemExit) as done:
        main([*map(str, arguments)])
    out, err = capfd.readouterr()
    return done.value.code, out, err


def test_a_run_with_it_learns_otherwise_than_with_adam(capfd, tmp_path):
    common = ("train", "--data", "beauty", "--model", "mf", "--seed", "3", "--epochs", "3", "--set", "train.threads=1",
              "--set", "evaluate.max_users=200", "--set", "train.batch_size=16384")  # fmt: skip
    losses = {}
    for name in ("sparse-adam", "adam"):
        out = tmp_path / name
        code, _, err = call(capfd, *common, "--set", f"train.optimiser={name}", "--out", out)
        assert code == 0, err
        lines = [json.loads(one) for one in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        losses[name] = [line["loss"]["bpr"] for line in lines if "loss" in line]
        assert losses[name][0] > losses[name][1] > losses[name][2]
    assert losses["adam"] != losses["sparse-adam"]


def test_a_resumed_run_is_the_uninterrupted_one(make, monkeypatch):
    monkeypatch.setattr(sys.modules[SparseAdam.__module__], "TABLE", 4)
    whole = make(train={"epochs": 3, "optimiser": "sparse-adam"}, name="whole")
    whole.loop.run()
    assert isinstance(whole.loop.optimisers["main"], SparseAdam)
    half = make(train={"epochs": 1, "optimiser": "sparse-adam"}, name="half")
    half.loop.run()
    rest = make(train={"epochs": 3, "optimiser": "sparse-adam"}, name="rest")
    rest.loop.resume(half.loop.checkpoints.latest())
    rest.loop.run()
    for name, tensor in whole.loop.snapshot().tensors.items():
        assert torch.equal(rest.loop.snapshot().tensors[name], tensor), name


def test_a_decay_would_be_adams_and_is_refused(capfd, tmp_path):
    code, _, err = call(
        capfd, "train", "--data", "beauty", "--model", "mf", "--set", "train.optimiser=sparse-adam", "--set",
        "train.weight_decay=0.1", "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 2
    assert "sparse-adam" in err
    assert not (tmp_path / "run").exists()
