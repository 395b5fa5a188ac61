"""docs/results.md says what the committed records say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from augrec.errors import UsageError
from augrec.experiment.results_page import page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_made_from_the_ledger() -> None:
    made = page(ROOT / "results" / "reproduce").encode()
    assert (ROOT / "docs" / "results.md").read_bytes() == made, "run: python scripts/make_results.py"


def test_the_pages_of_benchmarks_are_made_from_the_recorded_runs() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "make_results.py"))
    recorded = {path.parent for path in (ROOT / "results" / "benchmarks").rglob("bench.json")}
    assert {ROOT / folder for folder in script["BENCHMARKS"].values()} == recorded
    for name, folder in script["BENCHMARKS"].items():
        assert (ROOT / "docs" / name).read_bytes() == script["benchmarks"](folder).encode(), (
            "run: python scripts/make_results.py"
        )


def test_a_record_shows_in_the_page(tmp_path: Path) -> None:
    """Ours, published, verdict, seeds, command; what is not run; a mark at a row that cannot be right."""
    row = {
        "row": "adar", "role": "augmentation", "seeds": [0, 1, 2], "weight": {"adar": 0.2},
        "test": {"recall@20": {"mean": 0.1266, "std": 0.0012}},
        "gain": {"base": {"recall@20": 0.05}, "adar-gaussian": {"recall@20": -0.01}},
    }  # fmt: skip
    test = {"a": "adar", "b": "base", "metric": "recall@20", "holm_permutation": 0.0004, "p_seeds": 0.03}
    cell = {
        "primary": "recall@20", "comparable": True, "verdict": "no gain", "detail": "not above noise", "missing": [],
        "standing": "three seeds: a measurement", "published": {"adar": {"recall@20": 0.1288}}, "rows": [row],
        "published_gain": {"adar": {"recall@20": 0.0387}}, "flags": {"adar": ["ratio fails"]}, "tests": [test],
        "command": "augrec reproduce adar/table2/beauty:x --seeds 3",
    }  # fmt: skip
    absent = {**cell, "rows": [], "tests": [], "flags": {}, "verdict": "not run", "detail": "augrec has no 'ngcf'"}
    table = {"title": "main", "place": "Table 2", "metrics": ["recall@20"], "protocol": "full", "notes": ["a note"]}
    record = {
        "paper": "adar", "title": "T", "source": "S", "tables": {"table2": table},
        "cells": {"table2/beauty:x": cell, "table2/beauty:ngcf": absent},
    }  # fmt: skip
    (tmp_path / "adar_cells.json").write_text(json.dumps(record))
    line = {"seconds": {"train": 1800.0}, "versions": {"augrec": "0.1.0", "torch": "2.13.0"}}
    (tmp_path / "adar.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line) + "\n")
    text = page(tmp_path)
    assert "| beauty:x | adar | 3 | 0.1266 ± 0.0012 / 0.1288† | +5.0% / +3.9% | -1.0% | 4.0e-04 / 0.030 | 0.2 |" in text
    for part in (
        "2 runs in", "1.0 hours", "- **beauty:x: no gain** (three seeds: a measurement): not above noise", "- a note",
        "augrec reproduce adar/table2/beauty:x --seeds 3", "- beauty:x, row adar: ratio fails",
        "Not run (1 of 2;", "- augrec has no 'ngcf': beauty:ngcf",
    ):  # fmt: skip
        assert part in text, part
    with pytest.raises(UsageError, match="holds no records"):
        page(tmp_path / "nowhere")
