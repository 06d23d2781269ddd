"""
Virtual time: a heap of calls, carried out in the order of their time and, at the same time, of their making.

Units: TICK units of virtual time are one tick of a member whose clock is right. All times are integers.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

TICK = 100


class Storm(Exception):
    """More happens in a span of time than can be right."""


class Scheduler:
    def __init__(self) -> None:
        self.now = 0
        self.calls = 0  # carried out so far
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._made = 0

    def after(self, delay: int, call: Callable[..., None], *args: Any) -> None:
        """Call it `delay` units from now; 0 means after everything that is due now already."""
        self._made += 1
        heapq.heappush(self._heap, (self.now + delay, self._made, call, args))

    def run_until(self, time: int, calls_max: int) -> None:
        """Carry out what is due up to and including `time`; Storm if that takes more than calls_max calls."""
        heap = self._heap
        end = self.calls + calls_max
        while heap and heap[0][0] <= time:
            self.now, _, call, args = heapq.heappop(heap)
            self.calls += 1
            if self.calls > end:
                raise Storm(f"more than {calls_max} calls before {time}")
            call(*args)
        self.now = time
