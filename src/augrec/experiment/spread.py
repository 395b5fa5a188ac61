"""Runs of a grid side by side: in processes of this machine, or as tasks of a Ray cluster. Both do `work`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from augrec.data.catalog import load
from augrec.errors import AugrecError, Interrupted, NumericalError, UsageError
from augrec.experiment.api import prepared_cache
from augrec.experiment.config import RunConfig
from augrec.experiment.run import run
from augrec.train.signals import StopRequest
from augrec.train.threads import cores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Job = dict[str, Any]
"""What a worker is told, plain JSON values; `job_of` makes it."""
_KINDS: tuple[type[AugrecError], ...] = (NumericalError, UsageError, AugrecError)


def job_of(config: RunConfig, out: Path, *, data_dir: Path | None, threads: int) -> Job:
    """A run for a worker, which may have another working directory and environment."""
    known = {name: value for name, value in os.environ.items() if name.startswith("AUGREC_") and name != "AUGREC_RANK"}
    return {
        "config": config.to_json(),
        "out": str(out.absolute()),
        "data_dir": None if data_dir is None else str(data_dir.absolute()),
        "threads": threads,
        "folder": str(Path.cwd()),
        "environment": known,
    }


def work(job: Job) -> dict[str, str]:
    """Makes or resumes one run in this process: {} where it is finished, else kind and text of the error."""
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    config, out = RunConfig.from_json(job["config"]), Path(job["out"])
    try:
        log = load(config.data, folder=None if job["data_dir"] is None else Path(job["data_dir"]))
        resume = (out / "config.json").exists()
        run(config, out, resume=resume, source=log, callbacks=(), cache=prepared_cache(), threads=job["threads"])
    except Interrupted:
        return {"kind": "Interrupted", "text": "stopped"}
    except AugrecError as error:
        kind = next(one for one in _KINDS if isinstance(error, one))
        return {"kind": kind.__name__, "text": str(error)}
    return {}


class Spread(Protocol):
    """Somewhere to make runs, `workers` at a time."""

    workers: int
    threads: int
    """CPU threads of a run whose settings name none."""

    def perform(self, job: Job) -> dict[str, str]:
        """`work` done elsewhere; called from several threads. Raises `AugrecError` where the worker was lost."""

    def stop(self, number: int) -> None:
        """Asks all that is being made to save its state and end, as the signal `number` would."""


class LocalWorkers:
    """Processes of this machine, one a run."""

    def __init__(self, workers: int) -> None:
        """Raises `UsageError` for fewer than one."""
        if workers < 1:
            raise UsageError(f"--workers: must be at least 1 (got {workers})")
        self.workers, self.threads = workers, max(1, cores() // workers)
        self._running: list[subprocess.Popen[str]] = []

    def perform(self, job: Job) -> dict[str, str]:
        # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
        worker = subprocess.Popen(
            [sys.executable, "-m", "augrec.experiment.spread"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._running.append(worker)
        said, _ = worker.communicate(json.dumps(job))
        self._running.remove(worker)
        if worker.returncode:
            raise AugrecError(f"a worker ended with code {worker.returncode} while it made {job['out']}")
        answer: dict[str, str] = json.loads(said.splitlines()[-1])
        return answer

    def stop(self, number: int) -> None:
        for worker in list(self._running):
            worker.send_signal(number)


class RayWorkers:
    """Tasks of a Ray cluster whose machines have augrec installed and see the same folders."""

    def __init__(self, address: str, workers: int | None = None) -> None:
        """`address` is a cluster's, or "local" for one started on this machine for the time of the program. By
        default one run for each of its CPUs. Raises `UsageError` where Ray is missing or cannot be reached."""
        if workers is not None and workers < 1:
            raise UsageError(f"--workers: must be at least 1 (got {workers})")
        try:
            import ray
        except ImportError:
            raise UsageError("--ray needs Ray; install it with: pip install 'augrec[ray]'") from None
        options: dict[str, Any] = {"num_cpus": workers or cores()} if address == "local" else {}
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False if options else None, **options)
        except Exception as error:  # Ray raises bare ones too, as where its own processes come up too slowly
            raise UsageError(f"--ray {address}: cannot be reached ({' '.join(str(error).split())[:200]})") from None
        total = int(ray.cluster_resources().get("CPU", 1))
        self._ray, self.workers = ray, workers or total
        self.threads = max(1, total // self.workers)
        # A run is resumed by the next call, never started again behind our back.
        self._work = ray.remote(num_cpus=self.threads, max_retries=0)(work)
        self._running: list[Any] = []

    def perform(self, job: Job) -> dict[str, str]:
        task = self._work.remote(job)
        self._running.append(task)
        try:
            answer: dict[str, str] = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            raise AugrecError(f"a worker was lost while it made {job['out']} ({reason})") from error
        finally:
            self._running.remove(task)
        return answer

    def stop(self, number: int) -> None:
        for task in list(self._running):
            self._ray.cancel(task)


def make_spread(*, workers: int | None, ray: str | None) -> Spread | None:
    """Where runs are made by `--workers` and `--ray`; None makes them one after another in this process."""
    if ray is not None:
        return RayWorkers(ray, workers)
    return None if workers is None else LocalWorkers(workers)


def perform_all(
    spread: Spread, jobs: Sequence[tuple[str, Callable[[], Job]]], *, spent: Callable[[], bool]
) -> Mapping[str, AugrecError]:
    """Makes runs, begun in their order, until all are done or `spent` says that no more are to begin; the errors of
    those that could not be made, by name.

    Raises `Interrupted` after a signal, and `AugrecError` where a worker was lost, both when what runs has ended.
    """
    failed: dict[str, AugrecError] = {}
    lost: list[AugrecError] = []
    over = threading.Event()

    def one(name: str, job: Callable[[], Job]) -> None:
        if over.is_set() or spent():
            return
        try:
            said = spread.perform(job())
        except AugrecError as error:
            over.set()
            lost.append(error)
            return
        if said and said["kind"] != "Interrupted":
            kind = next(kind for kind in _KINDS if kind.__name__ == said["kind"])
            failed[name] = kind(said["text"])

    with StopRequest() as stop, ThreadPoolExecutor(spread.workers) as pool:
        waiting = {pool.submit(one, name, job) for name, job in jobs}
        while waiting:
            ended, waiting = wait(waiting, timeout=0.2)
            for future in ended:
                future.result()
            if stop.number is not None and not over.is_set():
                over.set()
                spread.stop(stop.number)
    if stop.number is not None:
        raise Interrupted(stop.number)
    if lost:
        raise AugrecError(f"{lost[0]}; give the same command again: finished runs are read, this one goes on")
    return failed


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(work(json.loads(sys.stdin.read()))) + "\n")
