"""Help explains every command and every option; commands called as a program leave with the exit codes promised."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import augrec
from augrec.cli import app

SOURCE = str(Path(augrec.__file__).parents[1])

# Commands and options of the published contract; they stay.
OPTIONS = {
    ("train",): ["--data", "--model", "--augment", "--preset", "--objective", "--split", "--seed", "--epochs",
                 "--refit", "--out", "--resume", "--set", "--json"],
    ("evaluate",): ["RUN", "--protocol", "--split-part", "--seen-items", "--data", "--json"],
    ("recommend",): ["RUN", "--users", "--histories", "--k", "--out", "--seen", "--unknown", "--allow", "--deny",
                     "--json"],
    ("models",): ["--json"],
    ("doctor",): ["--json"],
    ("data", "list"): ["--json"],
    ("data", "show"): ["SOURCE", "--json"],
    ("data", "import"): ["SOURCE", "--out", "--json"],
    ("data", "fetch"): ["NAME", "--json"],
}  # fmt: skip


def commands() -> list[tuple[str, ...]]:
    """Every command there is, read off the application itself."""
    found = []
    for name in app:
        if name.startswith("-"):
            continue
        inner = [one for one in app[name] if not one.startswith("-")]
        found += [(name, one) for one in inner] or [(name,)]
    return found


def test_every_promised_command_is_there():
    assert set(OPTIONS) <= set(commands())


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_names_every_option_and_says_what_it_is(cli, command):
    answer = cli(*command, "--help")
    assert answer.code == 0
    words = answer.out.split()
    for option in OPTIONS.get(command, []):
        assert option in words
    handler = app[command[0]] if len(command) == 1 else app[command[0]][command[1]]
    for name in inspect.signature(handler.default_command).parameters:
        shown = name.upper().replace("_", "-"), "--" + name.replace("_", "-")
        assert any(word.strip("│[]*,") in shown or word.split("=")[0] in shown for word in words), (name, answer.out)
    assert len(answer.out.splitlines()) > 5


def test_help_lists_every_command(cli):
    answer = cli("--help")
    assert answer.code == 0
    for command in commands():
        assert command[0] in answer.out.split()
    assert cli("--version").out.strip() == augrec.__version__


def program(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "augrec", *arguments], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": path, **env}, check=False,
    )  # fmt: skip


def test_as_a_program_done_and_wrong(small):
    done = program("data", "show", str(small), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["interactions"] > 0
    assert done.stderr == ""
    wrong = program("train", "--data", str(small), "--model", "nosuch")
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    assert wrong.stderr.startswith("augrec: --model: unknown name 'nosuch'")
    assert wrong.stderr.count("\n") == 1
    assert not list(Path().iterdir())


def test_as_a_program_trains_and_shows_progress(small):
    done = program("train", "--data", str(small), "--model", "mf", "--epochs", "2", "--out", "run",
                   "--set", "train.threads=1", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"]["run"] == 2
    assert [line.split()[:3] for line in done.stderr.splitlines()] == [["mf:", "epoch", "1"], ["mf:", "epoch", "2"]]


def test_help_is_quick_because_torch_is_not_loaded():
    code = (
        "import sys, augrec.cli\n"
        "try: augrec.cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'polars', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    path = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_early_is_no_error(runs):
    reader = f"{sys.executable} -m augrec recommend {runs['mf']} --k 3 | head -n 1"
    path = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(["bash", "-o", "pipefail", "-c", reader], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
