"""The project's own files agree with each other: versions, pins, licence, make and continuous integration."""

from __future__ import annotations

import hashlib
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import augrec

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins() -> dict[str, Version]:
    found: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line), f"not an exact public version: {line}"
            assert canonicalize_name(name) not in found, f"pinned twice: {name}"
            found[canonicalize_name(name)] = Version(version)
    return found


@pytest.mark.parametrize(
    "text",
    [*PROJECT["dependencies"], *(r for extra in ("dev", "report") for r in PROJECT["optional-dependencies"][extra])],
)
def test_requirement_has_a_lower_bound_and_a_pin_that_satisfies_it(text: str) -> None:
    requirement = Requirement(text)
    assert [spec.operator for spec in requirement.specifier] == [">="], "the library asks for lower bounds only"
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_torch_is_pinned_once_and_lightning_never() -> None:
    assert str(pins()["torch"]) == "2.13.0"
    every = [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]
    names = {canonicalize_name(Requirement(text).name) for text in every} | set(pins())
    assert names.isdisjoint({"lightning", "pytorch-lightning"})


def test_all_has_every_extra_that_can_live_together() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = (Requirement(text) for text in extras["all"])
    assert everything.name == "augrec"
    assert everything.extras == set(extras) - {"all", "dev", "recbole"}


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_an_extra_leaves_room_for_what_the_library_needs(extra: str) -> None:
    """By the oldest release that the library allows: an upper bound below it could never be installed."""
    own = {canonicalize_name(one.name): one for one in map(Requirement, PROJECT["dependencies"])}
    for asked in map(Requirement, PROJECT["optional-dependencies"][extra]):
        needed = own.get(canonicalize_name(asked.name))
        if needed is not None:
            (lowest,) = needed.specifier
            assert asked.specifier.contains(lowest.version), f"{needed} and {asked} cannot both be had"


def test_one_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert PROJECT["dynamic"] == ["version"]
    assert re.search(r"^version: (.+)$", citation, re.M).group(1) == augrec.__version__
    assert re.search(r"^## (\S+)", changelog, re.M).group(1) == augrec.__version__


def test_licence_is_the_official_text() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_typed_marker_is_there() -> None:
    assert (Path(augrec.__file__).parent / "py.typed").is_file()


def dry_run(*arguments: str) -> str:
    # Without the variables of an outer make, which would change what the inner one prints.
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
    make = shutil.which("make") or pytest.skip("make is not installed")
    done = subprocess.run([make, "-n", "-B", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_takes_torch_from_the_index_given() -> None:
    plain, given = dry_run("venv"), dry_run("venv", "TORCH_INDEX=https://example.org/cpu")
    assert "--index-url" not in plain
    assert '--constraint constraints.txt "torch==2.13.0"' in plain
    assert '--no-deps --index-url "https://example.org/cpu" "torch==2.13.0"' in given
    for text in (plain, given):
        assert "--editable '.[dev,report]'" in text


def test_make_targets_run_what_they_promise() -> None:
    test = dry_run("test")
    for command in (
        "ruff check .",
        "ruff format --check .",
        "mypy --strict",
        "lint-imports",
        '-m "not soak"',
        "OMP_NUM_THREADS=1",
    ):
        assert command in test
    assert "pytest -m soak" in dry_run("soak")
    oldest = dry_run("oldest")
    assert "--constraint .venv-oldest/constraints.txt" in oldest
    assert '"torch==2.13.0"' in oldest
    assert f"'.[dev,{','.join(runpy.run_path(str(ROOT / 'scripts' / 'oldest.py'))['EXTRAS'])}]'" in oldest
    assert '-m "not soak"' in oldest
    assert ".venv/bin" not in oldest
    assert "examples/demo.py" in dry_run("demo")


def test_oldest_pins_every_lower_bound_of_the_library() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "oldest.py"], capture_output=True, text=True, timeout=60, check=True
    )
    pinned = {one.name: one.specifier for one in map(Requirement, done.stdout.splitlines())}
    for asked in map(Requirement, PROJECT["dependencies"]):
        if asked.name != "torch":
            (pin,) = pinned[asked.name]
            assert (pin.operator, pin.version) == ("==", next(iter(asked.specifier)).version)


def test_make_says_clearly_that_python_is_too_old_or_missing(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    make = shutil.which("make") or pytest.skip("make is not installed")
    done = subprocess.run(
        [make, "venv", "PYTHON=no-such-python"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "augrec needs Python 3.11 or later" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_scripts_are_sound_shell_and_executable() -> None:
    scripts = [ROOT / ".ci" / "run", *sorted((ROOT / "scripts").glob("*.sh"))]
    for script in scripts:
        assert script.stat().st_mode & 0o111, f"not executable: {script.name}"
        assert "set -euo pipefail" in script.read_text(encoding="utf-8")
        subprocess.run(["bash", "-n", str(script)], check=True, timeout=30)


def test_make_bench_runs_the_command_with_the_recorded_curves() -> None:
    text = dry_run("bench", "BENCH_ARGS=--rows sampling --quick")
    assert "augrec bench --out bench-output --peers-dir .venv-peers --curves results --rows sampling --quick" in text
    assert (ROOT / "results" / "curves").is_dir()
