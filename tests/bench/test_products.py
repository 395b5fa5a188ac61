"""Counted products against products counted by hand."""

from __future__ import annotations

import torch

from augrec.bench.ours import Train
from augrec.bench.products import products
from augrec.linear import Linear


def test_every_product_counts_forward_and_backward():
    first, second = Linear(8, 16), torch.nn.Linear(16, 4)
    x = torch.randn(64, 8)

    def work():
        second(torch.relu(first(x))).sum().backward()

    # Forward, weights' gradients, and the second layer's input's; the first one's input asks for none.
    assert products(work) == 2 * 64 * (2 * 8 * 16 + 3 * 16 * 4)
    assert products(lambda: x + x) == 0


def test_a_transformers_step_makes_six_operations_a_weight_and_token_at_least():
    work = Train({"model": "sasrec", "objective": "bpr", "split": "leave-one-out", "unit": "step"})
    backbone = work.parts.step.backbone
    weights = sum(
        one.numel() for name, one in backbone.layers.named_parameters() if "weight" in name and "norm" not in name
    )
    least = 6 * weights * work.info["batch_targets"]
    assert least <= work.info["products"] <= 1.6 * least
    assert work.info["augment"] == []
