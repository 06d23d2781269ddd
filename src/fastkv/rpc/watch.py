"""
etcdserverpb.Watch: many watchers on one stream, one writer.

    requests --reader--> outbox: created, canceled, progress ---+
    node --wake(watcher)--> ready: watchers with events --------+--writer--> responses

Owns the watchers of one stream: their ids (from 0), which of them have something, what is to be said about them.

Invariants:
* The outbox goes first, so `created` precedes every event of a watcher and creations are answered in order.
* Events are taken from the engine only when the response before them has been handed to the transport: a slow client
  holds back its own stream and no memory of ours.
* A progress response with revision r follows, on the stream, every event up to r of the watchers that it speaks for.
* Whole revisions in one response, unless the watcher asked for fragments.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass

from fastkv.engine import NODELETE, NOPUT, WatchBatch
from fastkv.errors import TABLE, Code
from fastkv.rpc.calls import Context, read
from fastkv.rpc.status import stopped
from fastkv.rpc.wire import Message, bytes_field, element_ends, int_field, message_field
from fastkv.server.node import Node

INVALID_ID = -1
TAKE_BYTES_MAX = 1 << 20
OUTBOX_MAX = 1024
PROGRESS_TAKES_MAX = 8
PROGRESS_JITTER = 0.1

EMPTY_RANGE = "mvcc: watcher range is empty"
DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"
COMPACTED = TABLE[Code.COMPACTED][1]


@dataclass(slots=True, eq=False)
class Watcher:
    """number: the engine's. start_revision: as asked for, 0 = now. quiet: no event since the last progress tick."""

    id: int
    number: int
    start_revision: int
    progress_notify: bool
    fragment: bool
    quiet: bool = True


class Progress:
    """In the outbox: say how far the watcher is, or all of them if it is None, provided that they are synced."""

    __slots__ = ("watcher",)

    def __init__(self, watcher: Watcher | None = None) -> None:
        self.watcher = watcher


class Stream:
    """One call of Watch."""

    def __init__(self, node: Node, context: Context) -> None:
        self._node = node
        self._engine = node.engine
        self._context = context
        self._watchers: dict[int, Watcher] = {}
        self._by_number: dict[int, Watcher] = {}
        self._next_id = 0
        self._outbox: deque[bytes | Progress] = deque()
        self._ready: dict[int, None] = {}  # a set in order of arrival
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._ticker: asyncio.TimerHandle | None = None

    def wake(self, watcher: int) -> None:
        self._ready[watcher] = None
        self._wake.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        reader = loop.create_task(self._read())
        stop = loop.create_task(self._node.stopping.wait())
        for task in (reader, stop):
            task.add_done_callback(lambda _: self._wake.set())
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._write_pending()
                if self._node.stopping.is_set():
                    raise stopped()
                if reader.done():
                    reader.result()  # raises what the client did wrong; after a half-close the stream goes on
        finally:
            reader.cancel()
            stop.cancel()
            if self._ticker:
                self._ticker.cancel()
            for number in list(self._by_number):
                self._node.remove_watcher(number)

    # -- requests ---------------------------------------------------------------------------------------------
    async def _read(self) -> None:
        while (request := await read(self._node, self._context)) is not None:
            message = Message(request)
            if 1 in message:
                self._create(Message(message.data(1)))
            elif 2 in message:
                self._cancel(Message(message.data(2)).number(1))
            elif 3 in message and self._watchers:
                self._post(Progress())
            while len(self._outbox) >= OUTBOX_MAX:
                self._room.clear()
                await self._room.wait()

    def _post(self, item: bytes | Progress) -> None:
        self._outbox.append(item)
        self._wake.set()

    def _create(self, request: Message) -> None:
        key, range_end = request.data(1) or b"\0", request.data(2)
        start_revision, id = request.number(3), request.number(7)
        revision = self._engine.revision
        reason = ""
        if start_revision < 0:
            reason = COMPACTED
        elif range_end not in (b"", b"\0") and key >= range_end:
            reason = EMPTY_RANGE
        elif id in self._watchers and id != 0:
            reason = DUPLICATE_ID
        if reason:
            refused = int_field(3, 1) + int_field(4, 1) + bytes_field(6, reason.encode())
            self._post(self._head(revision, INVALID_ID) + refused)
            return
        if id == 0:
            while self._next_id in self._watchers:
                self._next_id += 1
            id, self._next_id = self._next_id, self._next_id + 1
        unwanted = request.enums(5)
        filters = (NOPUT if 0 in unwanted else 0) | (NODELETE if 1 in unwanted else 0)
        prev_kv = bool(request.unsigned(6))
        number = self._engine.watch(key, range_end, start_revision, prev_kv, filters)
        if start_revision == 0 and self._engine.revision != revision:
            # A batch was committed meanwhile: "from now" is from the revision that the answer names.
            self._engine.watch_cancel(number)
            number = self._engine.watch(key, range_end, revision + 1, prev_kv, filters)
        watcher = Watcher(id, number, start_revision, bool(request.unsigned(4)), bool(request.unsigned(8)))
        self._watchers[id] = self._by_number[number] = watcher
        self._node.add_watcher(number, self)
        self._post(self._head(revision, id) + int_field(3, 1))
        self.wake(number)
        if watcher.progress_notify and self._ticker is None:
            self._schedule_tick()

    def _cancel(self, id: int) -> None:
        if watcher := self._watchers.get(id):
            self._forget(watcher)
            self._post(self._head(self._engine.revision, id) + int_field(4, 1))

    def _forget(self, watcher: Watcher) -> None:
        if self._by_number.pop(watcher.number, None):
            del self._watchers[watcher.id]
            self._ready.pop(watcher.number, None)
            self._node.remove_watcher(watcher.number)

    # -- progress ---------------------------------------------------------------------------------------------
    def _schedule_tick(self) -> None:
        delay_s = self._node.config.progress_interval_s * (1 + PROGRESS_JITTER * random.random())
        self._ticker = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        for watcher in self._watchers.values():
            if watcher.progress_notify and watcher.quiet:
                self._post(Progress(watcher))
            watcher.quiet = True
        self._schedule_tick()

    async def _write_progress(self, watchers: list[Watcher], id: int) -> None:
        """Bring the watchers up to one revision and say so; nothing is said if one of them is still catching up."""
        lowest: int | None = None
        for watcher in watchers:
            reached = self._engine.watch_progress(watcher.number)
            for _ in range(PROGRESS_TAKES_MAX):
                if reached >= 0:
                    break
                for batch in self._engine.watch_take(watcher.number, TAKE_BYTES_MAX):
                    await self._write_batch(watcher, batch)
                reached = self._engine.watch_progress(watcher.number)
            if reached < max(watcher.start_revision, 0):
                return
            lowest = reached if lowest is None else min(lowest, reached)
        if lowest is not None:
            await self._context.write(self._head(lowest, id))

    # -- responses --------------------------------------------------------------------------------------------
    async def _write_pending(self) -> None:
        while not self._node.stopping.is_set():
            if self._outbox:
                item = self._outbox.popleft()
                self._room.set()
                await self._write_item(item)
            elif self._ready:
                number = next(iter(self._ready))
                del self._ready[number]
                await self._write_events(self._by_number.get(number))
            else:
                return

    async def _write_item(self, item: bytes | Progress) -> None:
        if isinstance(item, bytes):
            await self._context.write(item)
        elif item.watcher is None:
            await self._write_progress(list(self._watchers.values()), INVALID_ID)
        elif self._watchers.get(item.watcher.id) is item.watcher:
            await self._write_progress([item.watcher], item.watcher.id)

    async def _write_events(self, watcher: Watcher | None) -> None:
        if watcher is None:
            return
        batches = self._engine.watch_take(watcher.number, TAKE_BYTES_MAX)
        # Until nothing is left; behind the others. One that catches up over much that it does not want takes nothing at
        # times, and nobody wakes it for the rest.
        if batches or self._engine.watch_wait(watcher.number, 0.0):
            self._ready[watcher.number] = None
        if not batches:
            await asyncio.sleep(0)
        for batch in batches:
            await self._write_batch(watcher, batch)

    async def _write_batch(self, watcher: Watcher, batch: WatchBatch) -> None:
        if batch.compact_revision:
            self._forget(watcher)
            ended = int_field(4, 1) + int_field(5, batch.compact_revision)
            await self._context.write(self._head(0, watcher.id) + ended)
            return
        watcher.quiet = False
        head = self._head(batch.revision, watcher.id)
        limit_bytes = self._node.config.receive_bytes_max
        if not watcher.fragment or len(head) + len(batch.events) < limit_bytes:
            await self._context.write(head + batch.events)
            return
        for piece, is_last in fragments(batch.events, limit_bytes - len(head) - 2):
            await self._context.write(head + (b"" if is_last else int_field(7, 1)) + piece)

    def _head(self, revision: int, id: int) -> bytes:
        return message_field(1, self._node.header(revision)) + int_field(2, id)


def fragments(events: bytes, limit_bytes: int) -> list[tuple[bytes, bool]]:
    """The events in pieces shorter than limit_bytes, of at least one event each: (piece, whether it is the last)."""
    pieces: list[tuple[bytes, bool]] = []
    start = end = 0
    for next_end in element_ends(events):
        if end > start and next_end - start >= limit_bytes:
            pieces.append((events[start:end], False))
            start = end
        end = next_end
    pieces.append((events[start:end], True))
    return pieces


async def watch(node: Node, context: Context) -> None:
    await Stream(node, context).run()


BIDIRECTIONAL = {"Watch": watch}
