"""The peers' own environments, made once by the command and kept: pinned packages, nothing of ours in them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from augrec.bench.timing import ArmFailed
from augrec.storage import write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MARK = "augrec-bench-ready"
"""The file that says that an environment is whole; it holds the hash of its pins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pins:
    """What a peer needs."""

    packages: tuple[str, ...]
    python: tuple[int, int] | None = None
    """The only Python it runs on; None takes ours."""
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Changes when the pins do."""
        return hashlib.sha256("\n".join(self.packages).encode()).hexdigest()[:16]


PEERS: Mapping[str, Pins] = MappingProxyType(
    {
        # Later numpy, pandas, scipy or setuptools make this RecBole fail at import or in its graph models; ray 2.6.3
        # has no wheels after 3.11; torch refuses by default to read the configuration it pickles into checkpoints.
        "recbole": Pins(
            python=(3, 11), variables={"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
            packages=(
                "torch==2.13.0", "numpy==1.26.4", "pandas==2.3.3", "scipy==1.12.0", "setuptools==80.10.2",
                "ray==2.6.3", "recbole==1.2.1", "pyarrow==17.0.0", "safetensors==0.8.0",
            ),
        ),
        "rectools": Pins(python=(3, 11), packages=("torch==2.13.0", "rectools[torch]==0.19.0", "setuptools==80.10.2")),
        "implicit": Pins(packages=("implicit==0.7.3", "numpy==2.4.6", "scipy==1.17.1")),
    }
)  # fmt: skip


def interpreter(wanted: tuple[int, int] | None) -> str:
    """A Python of the wanted version. Raises `ArmFailed` where there is none."""
    if wanted is None or sys.version_info[:2] == wanted:
        return sys.executable
    found = shutil.which(f"python{wanted[0]}.{wanted[1]}")
    if found is None:
        raise ArmFailed(
            f"it needs Python {wanted[0]}.{wanted[1]}; this is {sys.version_info[0]}.{sys.version_info[1]}, and there "
            f"is no python{wanted[0]}.{wanted[1]}"
        )
    return found


class Environments:
    """Pythons by peer: given ones as they are, others made in `folder` on first use."""

    def __init__(
        self,
        folder: Path,
        given: Mapping[str, str] = MappingProxyType({}),
        *,
        peers: Mapping[str, Pins] = PEERS,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.given, self.peers, self.say = folder, given, peers, say
        self._found: dict[str, str | ArmFailed] = {}

    def python(self, name: str) -> str:
        """The Python of a peer. Raises `ArmFailed` with the reason where there is none; that is tried once."""
        if name not in self._found:
            try:
                self._found[name] = self._python(name)
            except ArmFailed as error:
                self._found[name] = error
        found = self._found[name]
        if isinstance(found, ArmFailed):
            raise found
        return found

    def variables(self, name: str) -> dict[str, str]:
        """What is set for a peer; our own modules are out of its sight."""
        return {"PYTHONPATH": "", **self.peers[name].variables}

    def _python(self, name: str) -> str:
        if name in self.given:
            if shutil.which(self.given[name]) is None:
                raise ArmFailed(f"--peer-python {name}={self.given[name]}: no such program")
            return self.given[name]
        pins, home = self.peers[name], self.folder / name
        python, mark = home / "bin" / "python", home / MARK
        if mark.is_file() and mark.read_text(encoding="utf-8") == pins.key and python.exists():
            return str(python)
        base = interpreter(pins.python)
        self.say(f"making {name}'s environment in {home} (once; some minutes)")
        shutil.rmtree(home, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        _call([base, "-m", "venv", str(home)], f"the environment of {name} could not be made")
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        _call([*install, *pins.packages], f"pip could not install {name}")
        write_file(mark, pins.key.encode())
        return str(python)


def _call(command: list[str], failure: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - pins of ours
    except OSError as error:
        raise ArmFailed(f"{failure}: {command[0]}: {error.strerror}") from None
    if done.returncode:
        lines = [one for one in done.stderr.splitlines() if "error" in one.lower()] or done.stderr.splitlines()
        raise ArmFailed(f"{failure}: {lines[-1].strip()[:300] if lines else f'exit code {done.returncode}'}")
