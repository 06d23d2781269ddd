"""
System calls that fail, for real and in one thread only: a full disk or a broken one, without mounting or preloading.

`failing({"fallocate": errno.ENOSPC}, action)` runs `action` in a thread of its own under a seccomp filter (Linux) that
answers the named calls with that errno; every other thread, and whoever comes after, has a healthy system. Works on any
engine, because an engine writes in the thread of its caller.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

NUMBERS = {
    "x86_64": {"pwrite64": 18, "fsync": 74, "fdatasync": 75, "fallocate": 285, "pwritev": 296},
    "aarch64": {"fallocate": 47, "pwrite64": 68, "pwritev": 70, "fsync": 82, "fdatasync": 83},
}
WRITES = ("pwrite64", "pwritev", "fallocate")
SYNCS = ("fsync", "fdatasync")

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # classic BPF
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def failing(calls: dict[str, int], action: Callable[[], Any]) -> Any:
    """What action() returns or raises, in a thread where these calls fail with that errno."""
    numbers = NUMBERS.get(platform.machine()) if sys.platform == "linux" else None
    if numbers is None:
        pytest.skip(f"needs Linux's seccomp on x86_64 or aarch64, this is {sys.platform} on {platform.machine()}")

    def run() -> Any:
        reason = _install([(numbers[name], number) for name, number in calls.items()])
        if reason:
            pytest.skip(f"needs seccomp filters, and this system allows none: {os.strerror(reason)}")
        return action()

    with ThreadPoolExecutor(max_workers=1) as pool:  # its thread ends with it, and the filter with the thread
        return pool.submit(run).result()


def _install(failures: list[tuple[int, int]]) -> int:
    """The errno of what went wrong, or 0."""
    program = [_Instruction(_LOAD, 0, 0, 0)]  # the call's number
    for call, number in failures:
        program += [_Instruction(_JUMP_IF_EQUAL, 0, 1, call), _Instruction(_RETURN, 0, 0, _FAIL | number)]
    program.append(_Instruction(_RETURN, 0, 0, _ALLOW))
    array = (_Instruction * len(program))(*program)
    filter = _Program(len(program), array)
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) != 0:
        return ctypes.get_errno() or errno.EPERM
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(filter), zero, zero) != 0:
        return ctypes.get_errno() or errno.EPERM
    return 0
