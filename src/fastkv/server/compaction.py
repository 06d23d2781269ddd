"""
What a compaction has released is removed in slices, beside everything else.

Thread safety: the event loop's thread; a slice runs in a worker thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastkv.server.node import Node


class Compaction:
    def __init__(self, node: Node, spawn: Callable[[object], asyncio.Task[None]]) -> None:
        self._node = node
        self._spawn = spawn
        self._running: asyncio.Task[None] | None = None
        self._wanted = False

    def begin(self) -> None:
        """A compaction was applied."""
        self._wanted = True
        if self._running is None or self._running.done():
            self._running = self._spawn(self._run())

    async def _run(self) -> None:
        node, config = self._node, self._node.config
        while self._wanted and not node.stopping.is_set():
            self._wanted = False
            began, revision = node.now(), node.engine.compact_revision
            while not await node.work(node.engine.compact_step, config.compaction_batch_limit):
                await asyncio.sleep(config.compaction_sleep_s)
                if node.stopping.is_set():
                    return
            node.wake_watchers()
            node.log.info(
                "finished scheduled compaction", compact_revision=revision, took=f"{(node.now() - began) * 1000:.3f}ms"
            )

    async def wait(self) -> None:
        """Until everything that was released is removed."""
        if self._running is not None:
            await asyncio.shield(self._running)
