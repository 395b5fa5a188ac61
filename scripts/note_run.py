"""One ledger line for each finished run: what it was, what it reached, and the command that makes it again.

python scripts/note_run.py RUN... [--busy] >> results/runs.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from augrec.experiment.config import RunConfig
from augrec.experiment.directory import RunDirectory
from augrec.experiment.grid import command_of, versions


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--busy", action="store_true", help="other work ran on the machine: seconds mean little")
    chosen = parser.parse_args()
    for path in chosen.runs:
        place = RunDirectory(path)
        saved, result = place.read_json(place.config), place.read_json(place.result)
        line = {
            "command": command_of(RunConfig.from_json(saved), threads=saved["choices"].get("threads")),
            "versions": versions(),
            "busy": chosen.busy,
            **result,
        }
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
