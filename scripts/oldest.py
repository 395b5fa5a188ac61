"""Print, as constraints for pip, the oldest releases that pyproject.toml allows of all that the library itself and its
extras need. torch is left out: the Makefile names its build.

python scripts/oldest.py
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("report", "tune", "serve", "ann")
"""Those whose tests run without gigabytes."""


def main() -> None:
    """Print the constraints."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = project["dependencies"] + [one for extra in EXTRAS for one in project["optional-dependencies"][extra]]
    for name, version in (one.split(">=") for one in asked):
        if name != "torch":
            sys.stdout.write(f"{name}=={version}\n")


if __name__ == "__main__":
    main()
