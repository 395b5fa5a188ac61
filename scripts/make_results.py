"""Write docs/results.md from the records in results/reproduce.

python scripts/make_results.py
"""

from __future__ import annotations

from pathlib import Path

from augrec.experiment.results_page import page
from augrec.storage import write_file

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write the page."""
    write_file(ROOT / "docs" / "results.md", page(ROOT / "results" / "reproduce").encode())


if __name__ == "__main__":
    main()
