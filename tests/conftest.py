"""Settings and fixtures for every test."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch or polars is imported: one thread, so that results do not depend on the number of cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(_name, "1")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]

# The same examples every time; a slow machine is no failure.
hypothesis.settings.register_profile("augrec", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("augrec")


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of data sets that may not be redistributed (AUGREC_TEST_DATA); skips where there is none."""
    folder = os.environ.get("AUGREC_TEST_DATA")
    if not folder:
        pytest.skip("AUGREC_TEST_DATA is not set: data sets that may not be redistributed are absent")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"AUGREC_TEST_DATA={folder} is not a folder; unset it or correct it")
    return path
