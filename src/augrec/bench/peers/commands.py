"""Whole programs as units: an import, a command's help. Standard library only."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any


class Command:
    """A program started and waited for. Settings: `arguments` of this Python, `tried` where it is known to run,
    `before`: arguments of programs that have to be run first, not timed."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.command = [sys.executable, *settings["arguments"]]
        self.info: dict[str, Any] = {"python": platform.python_version(), "scale": 1.0}
        for one in settings.get("before", []):
            self._try(one)
        if not settings.get("tried"):
            # Once before anything is timed: it compiles what it imports, and fails here where it cannot run.
            self._try(settings["arguments"])

    @staticmethod
    def _try(arguments: list[str]) -> None:
        command = [sys.executable, *arguments]
        found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a row's command
        if found.returncode:
            lines = found.stderr.strip().splitlines() or ["no message"]
            raise RuntimeError(f"{' '.join(arguments)} failed: {lines[-1]}")

    def ready(self) -> None:
        """Nothing."""

    def unit(self) -> None:
        """One run of it."""
        subprocess.run(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)  # noqa: S603


def open_work(task: str, settings: dict[str, Any]) -> Command:
    """The task is always "command"."""
    if task != "command":
        raise ValueError(f"commands has no task '{task}'")
    return Command(settings)
