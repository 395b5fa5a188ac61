"""Write docs/results.md from the records in results/reproduce, docs/benchmark_results*.md from results/benchmarks.

python scripts/make_results.py
"""

from __future__ import annotations

from pathlib import Path

from augrec.bench.markdown import markdown
from augrec.bench.record import Record
from augrec.experiment.results_page import page
from augrec.storage import write_file

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = {"benchmark_results.md": "results/benchmarks", "benchmark_results_xeon.md": "results/benchmarks/xeon"}
"""Pages of runs of the benchmarks, and the folders of their records: one machine each."""
HEAD = """# A run of the benchmarks

Made by `python scripts/make_results.py` from `{folder}/bench.json` alone; edit nothing here. What rows, arms
and floors are: [benchmarks](benchmarks.md). As a plot: [bench.png](../{folder}/bench.png). Made again by
`{command}` (hours).

"""


def benchmarks(folder: str) -> str:
    """The page of the run recorded in `folder`."""
    record = Record.model_validate_json((ROOT / folder / "bench.json").read_bytes())
    threads = sorted({row.threads for row in record.rows})
    large = any(row.name.startswith("million/") for row in record.rows)
    options = (" --large" if large else "") + (f" --threads {threads[0]}" if len(threads) == 1 else "")
    command = f"augrec bench{options} --curves results --out runs/bench"
    return HEAD.format(folder=folder, command=command) + markdown(record)


def main() -> None:
    """Write the pages."""
    write_file(ROOT / "docs" / "results.md", page(ROOT / "results" / "reproduce").encode())
    for name, folder in BENCHMARKS.items():
        write_file(ROOT / "docs" / name, benchmarks(folder).encode())


if __name__ == "__main__":
    main()
