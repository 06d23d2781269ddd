"""
Linearizable reads: one ReadIndex for all that wait (thesis §6.4).

    confirm, confirm, ... --+
    front: take_reads() ----+--> one raft.read_index --> index --> applied that far: all of them may read

While a question is under way the next group gathers, so groups grow with the load; a question that takes longer than a
heartbeat does not hold up the next one.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Protocol

from fastkv.errors import Error
from fastkv.raft import Node, ReadState, TooManyReads
from fastkv.rpc.status import timed_out, too_many_requests


class ReadSource(Protocol):
    """A front end that gathers reads by itself."""

    def take_reads(self) -> int | None: ...
    def release_reads(self, group: int, error: Error | None) -> None: ...


class _Question:
    __slots__ = ("asked_at", "group", "waiter")

    def __init__(self, asked_at: float, waiter: asyncio.Future[None] | None, group: int | None) -> None:
        self.asked_at = asked_at
        self.waiter = waiter
        self.group = group


class Reads:
    def __init__(self, raft: Node, kick: Callable[[], None], now: Callable[[], float], patience_s: float) -> None:
        """patience_s: how long a question holds up the next one."""
        self._raft = raft
        self._kick = kick
        self._now = now
        self._patience_s = patience_s
        self._waiter: asyncio.Future[None] | None = None  # of those who have not been asked for yet
        self._asked: dict[_Question, None] = {}
        self._confirmed: list[tuple[int, int, _Question]] = []  # heap: (index, tie, question)
        self._ties = 0
        self._applied = raft.log.applied
        self._ended: Error | None = None
        self.source: ReadSource | None = None

    async def confirm(self, timeout_s: float) -> None:
        """Until a read of the store sees all that was acknowledged before this call, by whomever."""
        if self._ended is not None:
            raise self._ended
        if self._waiter is None:
            self._waiter = asyncio.get_running_loop().create_future()
            self._kick()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._waiter)
        except TimeoutError:
            raise timed_out() from None

    def pull(self) -> None:
        """Ask for those who wait, unless a question is under way that may be answered soon."""
        if self._asked:
            newest = next(reversed(self._asked))
            if self._now() - newest.asked_at < self._patience_s:
                return
        group = self.source.take_reads() if self.source is not None else None
        if self._waiter is None and group is None:
            return
        question = _Question(self._now(), self._waiter, group)
        self._waiter = None
        try:
            self._raft.read_index(question)
        except TooManyReads:
            self._release(question, too_many_requests())
            return
        self._asked[question] = None

    def states(self, states: list[ReadState]) -> None:
        for state in states:
            question = state.context
            assert isinstance(question, _Question)
            self._asked.pop(question, None)
            if state.index <= self._applied:
                self._release(question, None)
            else:
                self._ties += 1
                heapq.heappush(self._confirmed, (state.index, self._ties, question))

    def applied(self, index: int) -> None:
        self._applied = index
        while self._confirmed and self._confirmed[0][0] <= index:
            self._release(heapq.heappop(self._confirmed)[2], None)

    def _release(self, question: _Question, error: Error | None) -> None:
        if question.waiter is not None and not question.waiter.done():
            if error is None:
                question.waiter.set_result(None)
            else:
                question.waiter.set_exception(error)
                question.waiter.exception()  # whoever waited may have gone
        if question.group is not None and self.source is not None:
            self.source.release_reads(question.group, error)

    def close(self, error: Error) -> None:
        """Everybody who waits gets the error."""
        self._ended = error
        waiting = [*self._asked, *(question for _, _, question in self._confirmed)]
        if self._waiter is not None:
            waiting.append(_Question(0.0, self._waiter, None))
        self._asked.clear()
        self._confirmed.clear()
        self._waiter = None
        for question in waiting:
            self._release(question, error)
