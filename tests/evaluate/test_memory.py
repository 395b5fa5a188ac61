"""Peak memory of ranking a catalogue of half a million items stays near the budget."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
import numpy as np, torch
from augrec.data.interactions import Interactions, Vocabulary
from augrec.evaluate.ranking import rank

torch.set_num_threads(1)
n_users, n_items, width, budget, tied = 300, 500_000, 16, int(sys.argv[1]), sys.argv[2] == "tied"
generator = torch.Generator().manual_seed(0)
users, items = (torch.randn(n, width, generator=generator) for n in (n_users, n_items))
rng = np.random.default_rng(0)
history = Interactions.from_columns(
    user=np.repeat(np.arange(n_users), 20), item=rng.integers(0, n_items, 20 * n_users),
    users=Vocabulary.of(np.arange(n_users)), items=Vocabulary.of(np.arange(n_items)),
)

class Product:
    n_items = items.shape[0]
    def score(self, user, history):
        scores = users[user] @ items.T
        return scores.sign_() if tied else scores

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
# What the libraries allocate on first use is not the ranking's: warm up with one user.
rank(Product(), np.arange(1), history, k=20, mask_seen=True, memory_budget_mb=1)
before = peak()
got = rank(Product(), np.arange(n_users), history, k=20, mask_seen=True, memory_budget_mb=budget)
print(peak() - before)
row = Product().score(torch.tensor([123]), history)[0].numpy()
row[history.item[123 * 20 : 124 * 20]] = -np.inf
assert (np.lexsort((np.arange(n_items), -row))[:20] == got.items[123]).all()
"""


@pytest.mark.parametrize("scores", ["distinct", "tied"])
@pytest.mark.parametrize("budget", [64, 512])
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux only")
def test_peak_memory_stays_within_the_budget(budget, scores):
    source = str(Path(__file__).parents[2] / "src")
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(budget), scores],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= budget * 1.1
