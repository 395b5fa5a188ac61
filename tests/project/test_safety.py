"""What the source may never do, checked on its syntax trees; the checker itself is tested on code that does it."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))

BANNED_MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "lightning",
    "pytorch_lightning",
}
BANNED_CALLS = {
    *(f"{prefix}{name}" for name in ("eval", "exec", "compile", "__import__") for prefix in ("", "builtins.")),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("torch.load", "torch.save", "torch.jit.load", "pandas.read_pickle"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
    *("torch.manual_seed", "torch.random.manual_seed", "torch.seed", "torch.random.seed"),
    *("torch.cuda.manual_seed", "torch.cuda.manual_seed_all", "lightning_fabric.seed_everything"),
    *("numpy.random.seed", "numpy.random.set_state", "random.seed", "random.setstate"),
}
# Keyword arguments that are refused in whatever call they stand, when they are not the literal False.
BANNED_KEYWORDS = {"shell", "allow_pickle"}


def aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> full dotted name, for every import in the file."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    """`np.random.seed` -> "numpy.random.seed"; None for what is not a plain chain of names."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


def violations(code: str) -> list[str]:
    """Every banned import, reference and keyword in a piece of code, as "line: what"."""
    tree = ast.parse(code)
    names = aliases(tree)
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [
                f"{node.lineno}: import {a.name}" for a in node.names if a.name.partition(".")[0] in BANNED_MODULES
            ]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in BANNED_MODULES:
            found.append(f"{node.lineno}: import {node.module}")
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            # A reference is enough: `load = torch.load` must not slip through.
            name = dotted(node, names)
            if name in BANNED_CALLS:
                found.append(f"{node.lineno}: {name}")
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                harmless = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in BANNED_KEYWORDS and not harmless:
                    found.append(f"{node.lineno}: {keyword.arg}=")
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import pickle as p",
        "from cloudpickle import loads",
        "import joblib.numpy_pickle",
        "from lightning import Fabric",
        "eval('1')",
        "exec('x = 1')",
        "import builtins\nbuiltins.eval('1')",
        "run = eval",
        "import torch\ntorch.load('f')",
        "import torch as t\nt.load('f')",
        "from torch import load\nload('f')",
        "from torch import load as fetch\nfetch('f')",
        "import torch\nload = torch.load",
        "import torch\ntorch.save({}, 'f')",
        "import yaml\nyaml.load('a')",
        "import os\nos.system('ls')",
        "from os import system\nsystem('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess\nsubprocess.run('ls', shell=flag)",
        "import numpy as np\nnp.load('f', allow_pickle=True)",
        "import torch\ntorch.manual_seed(0)",
        "import torch.cuda\ntorch.cuda.manual_seed_all(0)",
        "import numpy as np\nnp.random.seed(0)",
        "import numpy.random as npr\nnpr.seed(0)",
        "from numpy import random\nrandom.seed(0)",
        "import random\nrandom.seed(0)",
        "from lightning_fabric import seed_everything\nseed_everything(0)",
    ],
)
def test_checker_finds(code: str) -> None:
    assert violations(code)


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "import torch\ntorch.Generator().manual_seed(0)",
        "generator.manual_seed(0)",
        "import numpy as np\nnp.load('f', allow_pickle=False)",
        "import numpy as np\nnp.random.default_rng(0)",
        "import json\njson.load(f)",
        "import re\nre.compile('a')",
        "from safetensors.torch import load\nload(b'')",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "text = 'eval(1); import pickle'",
    ],
)
def test_checker_lets_pass(code: str) -> None:
    assert violations(code) == []


def test_there_is_source_to_check() -> None:
    assert {"__init__.py", "errors.py"} <= {path.name for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_source_is_safe_and_short(path: Path) -> None:
    code = path.read_text(encoding="utf-8")
    # A peer's runner stands in the peer's own environment, pinned there; RecTools trains through this package.
    peer = "bench/peers/rectools_peer.py" in path.as_posix()
    assert [one for one in violations(code) if not (peer and one.endswith(" pytorch_lightning"))] == []
    assert len(code.splitlines()) <= 300, "split the file: one thing per module, at most 300 lines"


# Machine paths, spelled so that this file does not contain them itself.
MACHINE_PATHS = re.compile(r"(?<![\w.-])/(?:work|tmp/dev|root|farm|home/\w+|opt/(?:wheels|pypi))" + r"(?=/|\b)")
SKIPPED_FOLDERS = {"build", "dist", "runs", "node_modules", "demo-output", "__pycache__"}
TEXT = {
    ".py",
    ".md",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
    ".json",
    ".jsonl",
    ".cff",
    ".sh",
    ".csv",
    ".tsv",
    ".html",
    ".cfg",
    "",
}


def texts() -> list[Path]:
    """Every text file of the repository, whether or not there is a git folder."""
    found: list[Path] = []
    for folder, folders, files in os.walk(ROOT):
        # Of the hidden folders only the continuous integration's is the project's own; the rest are caches.
        folders[:] = [f for f in folders if f not in SKIPPED_FOLDERS and (f[0] != "." or f in {".ci", ".github"})]
        found += [Path(folder, f) for f in files if Path(f).suffix in TEXT]
    return found


def test_no_machine_paths() -> None:
    slash = "/"
    assert MACHINE_PATHS.search(f"see {slash}work{slash}main")
    assert MACHINE_PATHS.search(f"'{slash}tmp{slash}dev{slash}venv'")
    assert not MACHINE_PATHS.search(f"src{slash}work{slash}flow, {slash}worker, frame{slash}work")
    bad = []
    for path in texts():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if MACHINE_PATHS.search(line):
                bad.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert bad == []
