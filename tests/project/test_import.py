"""`import augrec` is quick, lazy, quiet on the network, and offers what it says."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import augrec

ROOT = Path(__file__).resolve().parents[2]

# Any attempt to reach the network while this is in force ends the process with a traceback.
NO_NETWORK = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("network used at import")
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""


def run(code: str) -> str:
    """Output of a fresh interpreter that finds the package where this one found it."""
    source = str(Path(augrec.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_lazy_and_quick() -> None:
    code = (
        "import sys, time, json; start = time.perf_counter(); import augrec; took = time.perf_counter() - start;"
        "print(json.dumps([took, sorted(sys.modules)]))"
    )
    results = [json.loads(run(code)) for _ in range(3)]
    heavy = {
        "torch",
        "numpy",
        "scipy",
        "polars",
        "pydantic",
        "recbole",
        "ray",
        "pandas",
        "matplotlib",
        "lightning_fabric",
    }
    assert heavy.isdisjoint(results[0][1])
    assert min(took for took, _ in results) < 0.3


def modules() -> list[str]:
    """Dotted names of all modules in the package that stand in a folder or file today, less the program entry."""
    package = Path(augrec.__file__).parent
    relative = [path.relative_to(package.parent).with_suffix("") for path in sorted(package.rglob("*.py"))]
    return [".".join(p.parts).removesuffix(".__init__") for p in relative if p.name != "__main__"]


def test_every_folder_with_code_is_a_package() -> None:
    # mypy, import-linter and the wheel overlook a folder without __init__.py.
    folders = {path.parent for path in Path(augrec.__file__).parent.rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_no_module_uses_the_network_or_heavy_extras_at_import() -> None:
    # Adapters and reports may import what they are for.
    names = [name for name in modules() if name.split(".")[1:2] not in (["adapters"], ["report"])]
    code = (
        f"{NO_NETWORK}\nimport sys, json, importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"
        "print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    )
    loaded = set(json.loads(run(code)))
    assert "augrec" in loaded
    assert loaded.isdisjoint({"recbole", "ray", "pandas", "matplotlib", "lightning", "sklearn", "fastapi", "optuna"})


def test_network_block_works() -> None:
    code = (
        f"{NO_NETWORK}\ntry:\n    socket.create_connection(('127.0.0.1', 9))\nexcept AssertionError as e:\n    print(e)"
    )
    assert run(code).strip() == "network used at import"


def test_public_names_agree_and_resolve() -> None:
    assert set(augrec.__all__) == {"__version__", *augrec._PUBLIC}
    tree = ast.parse(Path(augrec.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    for_checkers = {
        alias.asname: f"{node.module}.{alias.name}" if node.module == "augrec" else f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert for_checkers == dict(augrec._PUBLIC)
    assert set(augrec.__all__) <= set(dir(augrec))
    for name, place in augrec._PUBLIC.items():
        module, _, attribute = place.partition(":")
        expected = getattr(import_module(module), attribute) if attribute else import_module(module)
        assert getattr(augrec, name) is expected


@pytest.mark.parametrize("first", ["import augrec.train.loop;", "augrec.train;"])
def test_public_name_wins_over_the_folder_of_that_name(first: str) -> None:
    code = f"import augrec; {first} from augrec.train import loop; assert loop.__name__ == 'augrec.train.loop';"
    assert run(f"{code} print(type(augrec.train).__name__, augrec.train.__name__)").split() == ["function", "train"]


def test_unknown_name_is_an_attribute_error_that_helps() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'trian'; public names: .*read_interactions"):
        augrec.trian  # noqa: B018
    assert not hasattr(augrec, "trian")
