"""
A service of the node itself that waits for events: one watcher of the store, taken from on the event loop.

    async with Watching(node, key, range_end, revision, NOPUT) as watching:
        for event in await watching.events(): ...

Invariants:
* The watcher is gone when the block ends, however it ends.
* Nobody waits on a node that stops: `events` raises what a stopped server answers.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Self

from fastkv.rpc.status import stopped
from fastkv.rpc.wire import Message
from fastkv.server.node import Node

TAKE_BYTES_MAX = 64 << 10


class Seen(NamedTuple):
    """An event. kv: the KeyValue message. revision: what the header of a watch response would say."""

    is_delete: bool
    kv: bytes
    revision: int


class Watching:
    """Events of a range from `revision` on."""

    def __init__(self, node: Node, key: bytes, range_end: bytes, revision: int, filters: int = 0) -> None:
        self._node = node
        self._engine = node.engine
        self._range = (key, range_end, revision, False, filters)
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._number = self._engine.watch(*self._range)
        self._node.add_watcher(self._number, self)
        self._stop = asyncio.create_task(self._node.stopping.wait())
        self._stop.add_done_callback(lambda _: self._news.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.cancel()
        self._node.remove_watcher(self._number)

    def wake(self, watcher: int) -> None:
        """The node: there is something to take."""
        self._news.set()

    async def events(self) -> list[Seen]:
        """At least one event, in order; none if compaction has passed the watch, which then has ended."""
        while True:
            self._news.clear()
            batches = self._engine.watch_take(self._number, TAKE_BYTES_MAX)
            if any(batch.compact_revision for batch in batches):
                return []
            if seen := [seen for batch in batches for seen in _seen(batch.events, batch.revision)]:
                return seen
            if self._node.stopping.is_set():
                raise stopped()
            if self._engine.watch_wait(self._number, 0.0):
                await asyncio.sleep(0)  # it catches up over much that it does not want
            else:
                await self._news.wait()


def _seen(events: bytes, revision: int) -> list[Seen]:
    messages = [Message(event) for event in Message(events).all(11)]
    return [Seen(message.number(1) == 1, message.data(2), revision) for message in messages]
