"""Freed memory stays with the process, however much of it there is."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes
from augrec.train.memory import keep_freed_memory

if not keep_freed_memory():
    print("absent")
    raise SystemExit
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes, libc.sbrk.argtypes = [ctypes.c_size_t], [ctypes.c_void_p], [ctypes.c_ssize_t]
begin = libc.sbrk(0)
blocks = [libc.malloc(900 << 20) for _ in range(3)]  # never written: they take addresses, not memory
assert all(blocks)
full = libc.sbrk(0)
for block in reversed(blocks):
    libc.free(block)
print(full - begin, full - libc.sbrk(0))
"""


def test_more_than_two_gigabytes_are_not_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    if done.stdout.strip() == "absent":
        pytest.skip("there is no glibc")
    taken, returned = map(int, done.stdout.split())
    assert taken > 2**31
    assert returned == 0
