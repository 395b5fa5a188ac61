"""What README and docs show is run, what they point at exists, and the options they list are those there are."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from augrec.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)((?: [\w.=/-]+)*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, whether it is marked runnable, the file it is to be saved as."""

    language: str
    runnable: bool
    file: str | None
    code: str


def blocks(page: Path) -> list[Block]:
    found = []
    for language, words, code in FENCE.findall(page.read_text(encoding="utf-8")):
        options = words.split()
        file = next((word.removeprefix("file=") for word in options if word.startswith("file=")), None)
        found.append(Block(language, "runnable" in options, file, code))
    return found


def install(code: str, folder: Path) -> None:
    """Entry points of a pyproject block, as pip would write them beside the installed module."""
    place = folder / "mypackage-0.1.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 0.1\n", encoding="utf-8")
    groups = tomllib.loads(code)["project"]["entry-points"]
    lines = [line for name, one in groups.items() for line in (f"[{name}]", *(f"{k} = {v}" for k, v in one.items()))]
    (place / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def test_every_page_is_there():
    names = {page.name for page in PAGES}
    assert {
        "README.md",
        "data.md",
        "protocols.md",
        "cli.md",
        "run-directory.md",
        "plugins.md",
        "reliability.md",
    } <= names
    assert sum(block.runnable for page in PAGES for block in blocks(page)) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_shown_runs(page, cli, small, own_folder, monkeypatch):
    log = pl.read_csv(small)
    log.write_csv("clicks.csv")
    monkeypatch.syspath_prepend(str(own_folder))
    variables: dict[str, object] = {"__name__": "shown"}
    for block in blocks(page):
        if block.language == "toml" and "entry-points" in block.code:
            install(block.code, own_folder)
        if not block.runnable:
            continue
        if block.file:
            Path(block.file).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.code, str(page), "exec"), variables)
        else:
            assert block.language == "bash"
            for line in block.code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == "augrec":
                    answer = cli(*words[1:])
                    assert answer.code == 0, f"{line}: {answer.err}"
                elif words:
                    subprocess.run(words, check=True, timeout=60)
    sys.modules.pop("mypackage", None)


def options_of(command: tuple[str, ...]) -> set[str]:
    parsed = app
    for name in command:
        parsed = parsed[name]
    names = {one for argument in parsed.assemble_argument_collection() for one in argument.names}
    return {name for name in names if name.startswith("--")}


def commands() -> list[tuple[str, ...]]:
    found = []
    for name in app:
        if not name.startswith("-"):
            found += [(name, one) for one in app[name] if not one.startswith("-")] or [(name,)]
    return found


def test_the_page_of_commands_lists_every_option():
    """Every command is shown; one with a table of its own is shown with exactly the options it has."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    tables = 0
    for command in commands():
        words = "augrec " + " ".join(command)
        rows = [line for line in text.splitlines() if line.startswith(f"| `{words}")]
        section = text.partition(f"\n## {words}\n")[2].partition("\n## ")[0]
        if not rows and not section:
            assert f"`{words} --help`" in text, f"docs/cli.md does not show {words}"
            continue
        cells = [row.split("|")[2] for row in rows[:1]]
        cells = cells or [row.split("|")[1] for row in section.splitlines() if row.startswith("| `--")]
        assert {option for cell in cells for option in re.findall(r"--[\w-]+", cell)} == options_of(command), words
        tables += 1
    assert tables >= 9


def test_every_link_and_test_that_is_named_exists():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
        for target in re.findall(r"`((?:tests|src|docs|examples)/[\w/.-]+)`", text):
            assert (ROOT / target).exists(), f"{page.name}: {target}"


def test_names_in_the_readme_are_those_that_are_registered():
    from augrec.experiment.registry import entries

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, entry in entries().items():
        if entry.target.startswith("augrec.") and entry.family != "augmentation":
            assert f"`{name}`" in text, name


def test_fields_of_the_result_are_described(runs):
    import json

    text = (ROOT / "docs" / "run-directory.md").read_text(encoding="utf-8")
    for run in runs.values():
        for key in json.loads((run / "result.json").read_text(encoding="utf-8")):
            assert f"`{key}`" in text, key
        for path in run.iterdir():
            assert path.name in text, path.name
