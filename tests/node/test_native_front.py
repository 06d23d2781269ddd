"""How the native front end closes when a thread of C++ does not end: the threads are the test's."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from types import SimpleNamespace

import pytest

from fastkv.server.closing import STOP_STEP_S

native_front = pytest.importorskip(
    "fastkv.server.native_front", reason="fastkv._front was not built: the native front end is missing"
)

DEADLINE_S = 20.0


class SlowThreads:
    """A _front.Front whose threads end when they may."""

    def __init__(self) -> None:
        self._pipe = os.pipe()
        self.may_end = threading.Event()
        self.stops = 0

    def fileno(self) -> int:
        return self._pipe[0]

    def drain(self, timeout_s: float) -> None:
        """There is no call."""

    def stop(self) -> None:
        self.stops += 1
        assert self.may_end.wait(DEADLINE_S)

    def close(self) -> None:
        for end in self._pipe:
            os.close(end)


@pytest.mark.parametrize("stuck", [True, False])
def test_a_thread_that_does_not_end_holds_up_the_close_for_a_moment_only(stuck: bool) -> None:
    hot = SlowThreads()
    node = SimpleNamespace(hot=hot, apply_committed=None, log=None)
    if not stuck:
        hot.may_end.set()

    async def close() -> bool:
        front = native_front.NativeFront(node, [])
        try:
            return await front.close()
        finally:
            asyncio.get_running_loop().remove_reader(hot.fileno())

    began = time.monotonic()
    assert asyncio.run(close()) is not stuck
    assert hot.stops == 1
    took_s = time.monotonic() - began
    assert took_s < STOP_STEP_S + 1.0 if stuck else took_s < STOP_STEP_S
    hot.may_end.set()
    hot.close()
