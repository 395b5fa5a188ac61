"""The demo on a small log: what it prints and writes, twice, after an interruption and after a change of settings."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def demo(root, small, monkeypatch):
    spec = importlib.util.spec_from_file_location("demo", root / "examples" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "demo", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DATA", str(small))
    return module


def test_demo_prints_one_table_and_keeps_what_is_finished(demo, capsys):
    demo.main(["--epochs", "2"])
    first = capsys.readouterr()
    rows = {line.split("  ")[0]: line for line in first.out.splitlines()}
    for arm in demo.ARMS:
        assert arm.title in rows
        assert ("2 epochs" if arm.trained else "closed form") in first.err
    result = json.loads(Path("demo-output/lightgcn-adar-2-epochs/result.json").read_text(encoding="utf-8"))
    for part in ("valid", "test"):
        for name in ("recall@20", "ndcg@20"):
            assert f"{result[part][name]:.4f}" in rows["LightGCN + ADAR"]
    assert f"{result['epochs']['best']} of 2" in rows["LightGCN + ADAR"]
    for words in ("Early stopping did not fire", "one seed", "weight (lambda) 0.5;", "recommendations.csv", "Next:"):
        assert words in first.out
    lists = Path("demo-output/recommendations.csv").read_text(encoding="utf-8").splitlines()
    assert lists[0] == "user,item,rank,score"
    assert len(lists) == 1 + 5 * 5
    assert all(line.split(",")[0] in first.out and line.split(",")[1] in first.out for line in lists[1:])

    # Again: nothing is trained, the same is printed. One arm unfinished, one of other settings: these two alone.
    demo.main(["--epochs", "2"])
    again = capsys.readouterr()
    table = [line for line in first.out.splitlines() if "LightGCN" in line]
    assert [line for line in again.out.splitlines() if "LightGCN" in line] == table
    assert again.err.count("kept from an earlier run") == len(demo.ARMS)
    Path("demo-output/lightgcn-2-epochs/result.json").unlink()
    config = Path("demo-output/ease/config.json")
    config.write_text(config.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 9'), encoding="utf-8")
    demo.main(["--epochs", "2"])
    third = capsys.readouterr()
    plain = next(line for line in third.out.splitlines() if line.startswith("LightGCN  "))
    assert plain.split()[:5] == table[0].split()[:5]
    assert third.err.count("kept from an earlier run") == len(demo.ARMS) - 2
    assert "LightGCN: goes on where it stopped" in third.err
    assert "EASE: demo-output/ease was made with other settings and is made anew" in third.err


def test_demo_chooses_epochs_by_the_speed_of_the_machine(demo, monkeypatch, capsys):
    assert demo.choose_epochs(Path("fast")) == 25
    shutil.rmtree("fast")
    monkeypatch.setattr(demo, "MINUTES", 0)
    assert demo.choose_epochs(Path("slow")) == 5
    assert "s an epoch" in capsys.readouterr().err
