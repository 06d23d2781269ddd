"""
Questions between members, on the urgent stream: numbered, any number at once up to a bound, answered in any order.

    Peers.ask -> Questions --ASK--> Answers -> events.answer
              <-           <-ANSWER-        <-

Invariants:
* A question belongs to its connection: when that ends it fails, and is never asked again by itself.
* An answer to nothing that is waited for (the asker gave up) is ignored; a number is never used twice on a connection.
"""

from __future__ import annotations

import asyncio
import itertools

from fastkv.server.peers.connection import Connection
from fastkv.server.peers.context import Context
from fastkv.server.peers.tasks import fault
from fastkv.server.peers.types import PeerError
from fastkv.server.peers.wire import Answer, Ask, Frame, control

ANSWER_TIMEOUT_MAX_MS = 60_000
# A frame's length and kind, a list's, numbers', a text's and a byte string's headers.
OVERHEAD_BYTES = 64


class Questions:
    """What this member has asked one other and not been answered."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._numbers = itertools.count(1)

    async def ask(self, connection: Connection, kind: str, body: bytes, timeout_s: float) -> bytes:
        """PeerError."""
        limits = self._context.limits
        if len(self._waiting) >= limits.asks_max:
            raise PeerError(f"{limits.asks_max} questions to this member are not answered yet")
        if len(body) + len(kind.encode()) + OVERHEAD_BYTES > limits.urgent_bytes_max:
            raise PeerError(f"a question of {len(body)} bytes is too large")
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = self._context.loop.create_future()
        self._waiting[number] = answer
        try:
            connection.push(control(Frame.ASK, number, int(timeout_s * 1000), kind, body))
            connection.flush_soon()
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise PeerError(f"no answer to {kind} within {timeout_s:g} s") from None
        finally:
            del self._waiting[number]

    def answered(self, answer: Answer) -> None:
        waiting = self._waiting.get(answer.number)
        if waiting is None or waiting.done():
            return
        if answer.ok:
            waiting.set_result(answer.body)
        else:
            waiting.set_exception(PeerError(answer.body.decode(errors="replace")))

    def fail(self, reason: str) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PeerError(reason))


class Answers:
    """What one connection has asked this member, each in a task until it is answered."""

    def __init__(self, context: Context, member: int, connection: Connection) -> None:
        self._context = context
        self._member = member
        self._connection = connection
        self._tasks: set[asyncio.Task[bytes]] = set()

    def asked(self, ask: Ask) -> None:
        if len(self._tasks) >= self._context.limits.asks_max:
            self._reply(ask.number, False, b"too many questions at once")
            return
        task = self._context.loop.create_task(self._answer(ask))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._answered(ask.number, task))

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _answer(self, ask: Ask) -> bytes:
        async with asyncio.timeout(min(ask.timeout_ms, ANSWER_TIMEOUT_MAX_MS) / 1000):
            return await self._context.events.answer(self._member, ask.kind, ask.body)

    def _answered(self, number: int, task: asyncio.Task[bytes]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            if len(task.result()) + OVERHEAD_BYTES > self._context.limits.urgent_bytes_max:
                self._reply(number, False, b"the answer is too large")
            else:
                self._reply(number, True, task.result())
        elif isinstance(error, PeerError):
            self._reply(number, False, str(error).encode())
        elif isinstance(error, TimeoutError):
            self._reply(number, False, b"no answer in time")
        else:  # a fault of ours: who asked must not wait for it, and it must not be silent
            self._reply(number, False, b"the question failed")
            fault(task, error)

    def _reply(self, number: int, ok: bool, body: bytes) -> None:
        if not self._connection.closing:
            self._connection.push(control(Frame.ANSWER, number, ok, body))
            self._connection.flush_soon()
