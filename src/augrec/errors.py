"""Every error augrec raises on purpose. Each carries one message that says what, where and how to mend it."""

from __future__ import annotations

import signal


class AugrecError(Exception):
    """Base of all errors raised on purpose; the command line prints the message and leaves with `exit_code`."""

    exit_code: int = 1


class UsageError(AugrecError):
    """Wrong usage: an unknown name, an option that does not fit, a folder in use."""

    exit_code = 2


class DataError(UsageError):
    """Input data that cannot be used. The message names file, line or row, column, value and a way to mend it."""


class ConfigError(UsageError):
    """A configuration value that is unknown or of the wrong type. The message names its path and the nearest name."""


class UnsupportedCombinationError(UsageError):
    """Two parts that cannot work together, named both, raised when the run is built and never later."""


class CheckpointError(AugrecError):
    """A checkpoint or bundle that is damaged, incomplete or of another run."""


class NumericalError(AugrecError):
    """NaN or infinity met in training; raised before the update, naming the term, the step and the batch."""


class ProcessError(AugrecError):
    """Another process of the same run has ended, or cannot be reached."""


class Interrupted(AugrecError):
    """A run was asked to stop by a signal and stopped after its state was saved."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; the state is saved, go on with --resume")
        self.exit_code = 128 + number
