"""The command line. Every command is a thin call of the Python entrance and a table; `--json` prints for machines."""

from __future__ import annotations

import errno
import os
import sys
import time

from cyclopts import CycloptsError

from augrec.cli import bench, compare, data, diagnose, info, reproduce, runs, tune
from augrec.cli.app import app
from augrec.errors import AugrecError

__all__ = ["app", "bench", "compare", "data", "diagnose", "info", "main", "reproduce", "runs", "tune"]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and leaves with its exit code: 0 done, 1 failed, 2 wrong usage or bad input, 130/143
    stopped."""
    code = 0
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        code = _say(f"{str(error).rstrip('.')}; see augrec --help", 2)
    except AugrecError as error:
        code = _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _say("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        reason = (
            "the disk is full; free space and go on with --resume" if error.errno == errno.ENOSPC else error.strerror
        )
        code = _say(f"{error.filename or 'reading or writing'}: {reason or error}", 1)
    except Exception as error:
        if os.environ.get("AUGREC_TRACEBACK"):
            raise
        words = " ".join(str(error).split())
        code = _say(
            f"a defect of augrec: {type(error).__name__}: {words}; report it with the traceback that "
            f"AUGREC_TRACEBACK=1 shows",
            1,
        )
    sys.exit(code)


def _say(message: str, code: int) -> int:
    rank = 0
    if os.environ.keys() & {"RANK", "AUGREC_RANK"}:
        from augrec.experiment.processes import rank_in

        rank = rank_in(os.environ)
    if rank and code >= 128:
        return code
    if rank:
        # Where process 0 has met the same, it says so and ends this one meanwhile.
        time.sleep(2)
        message = f"process {rank}: {message}"
    sys.stderr.write(f"augrec: {message}\n")
    return code
