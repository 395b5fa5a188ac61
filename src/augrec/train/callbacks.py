"""What somebody may watch while a run goes on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.progress import Progress, TaskID


class Callback:
    """Watches a run; every method does nothing by default. A callback must not draw random numbers or change the
    model."""

    def on_epoch_start(self, epoch: int, batches: int, done: int) -> None:
        """Epoch number `epoch` (from 1) starts at batch `done` of `batches`."""

    def on_step(self, epoch: int, batch: int, loss: float) -> None:
        """A batch is done; `loss` is the sum of its main phase's terms."""

    def on_validation_start(self, epoch: int) -> None:
        """The validation users are about to be ranked."""

    def on_epoch_end(self, line: Mapping[str, Any]) -> None:
        """The epoch's line of metrics.jsonl."""

    def on_end(self) -> None:
        """The run is over, one way or another."""


class ProgressBar(Callback):
    """A live bar on a terminal, one line an epoch elsewhere; both on standard error."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._note = ""

    def on_epoch_start(self, epoch: int, batches: int, done: int) -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=batches, note="")
        assert self._task is not None
        self._bar.reset(
            self._task, total=batches, completed=done, description=f"{self.title} epoch {epoch}", note=self._note
        )

    def on_step(self, epoch: int, batch: int, loss: float) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, note=f"loss {loss:.4f} {self._note}")

    def on_epoch_end(self, line: Mapping[str, Any]) -> None:
        valid = line.get("valid") or {}
        chosen = line.get("selected_on")
        figure = f"{chosen} {valid[chosen]:.4f}" if chosen in valid else "not validated"
        self._note = f"{line['seconds']:.1f} s/epoch  {figure}  best epoch {line['best_epoch']}"
        if self._bar is None:
            loss = sum(line["loss"].values())
            seconds, best = f"{line['seconds']:.1f} s", f"(best epoch {line['best_epoch']})"
            sys.stderr.write(f"{self.title}: epoch {line['epoch']:3d}  loss {loss:.4f}  {seconds}  {figure}  {best}\n")
            sys.stderr.flush()

    def on_end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
