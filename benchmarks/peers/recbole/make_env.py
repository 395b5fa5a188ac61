"""Build the RecBole peer's own virtual environment: ``python make_env.py DIR [--index URL] [--torch-index URL]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path


def main() -> int:
    """Create DIR with the pinned packages; return 0, or pip's exit code where it fails."""
    parser = argparse.ArgumentParser(description="Build the RecBole peer's virtual environment.")
    parser.add_argument("directory", type=Path, help="where the environment goes, for example .venv-recbole")
    parser.add_argument("--index", help="package index; without it pip's own configuration decides")
    parser.add_argument("--torch-index", help="index for torch alone, for example download.pytorch.org/whl/cpu")
    args = parser.parse_args()
    if sys.version_info[:2] != (3, 11):
        running = f"{sys.version_info[0]}.{sys.version_info[1]}"
        print(f"make_env.py runs on Python {running}; ray 2.6.3 needs 3.11: start it with python3.11", file=sys.stderr)
        return 2
    requirements = Path(__file__).with_name("requirements.txt")
    venv.create(args.directory, with_pip=True)
    pip = [str(args.directory / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    index = ["--index-url", args.index] if args.index else []
    torch_pin = next(line for line in requirements.read_text().split("\n") if line.startswith("torch=="))
    commands = [[*pip, *index, "-r", str(requirements)]]
    if args.torch_index:
        commands.insert(0, [*pip, "--index-url", args.torch_index, torch_pin])
    for command in commands:
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
    print(f"{args.directory}/bin/python is ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
