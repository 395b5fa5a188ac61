"""Write docs/results.md from the records in results/reproduce, docs/benchmark_results.md from results/benchmarks.

python scripts/make_results.py
"""

from __future__ import annotations

from pathlib import Path

from augrec.bench.markdown import markdown
from augrec.bench.record import Record
from augrec.experiment.results_page import page
from augrec.storage import write_file

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# A run of the benchmarks

Made by `python scripts/make_results.py` from `results/benchmarks/bench.json` alone; edit nothing here. What rows, arms
and floors are: [benchmarks](benchmarks.md). As a plot: [bench.png](../results/benchmarks/bench.png). Made again by
`augrec bench --large --curves results --out runs/bench` (hours).

"""


def benchmarks(path: Path) -> str:
    """The page of the run recorded at `path`."""
    return HEAD + markdown(Record.model_validate_json(path.read_bytes()))


def main() -> None:
    """Write the pages."""
    write_file(ROOT / "docs" / "results.md", page(ROOT / "results" / "reproduce").encode())
    run = ROOT / "results" / "benchmarks" / "bench.json"
    write_file(ROOT / "docs" / "benchmark_results.md", benchmarks(run).encode())


if __name__ == "__main__":
    main()
