"""
Committed entries on their way into the engine: in order, one run at a time.

    Ready.committed -> queue -> [run of batches | one change of membership] -> engine.apply -> raft.applied

A short run is applied on the spot, because handing it to a thread would cost more than applying it. A long one is
applied in a thread, so that heartbeats and the next sync go on.

Invariants:
* raft hears of a change of membership before it hears that its entry is applied, and both before the next entry.
* While a snapshot is being installed nothing is applied; what waited before it is in it.

Thread safety: the event loop's thread, but for the one run in the thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fastkv.engine import ReplicatedEngine
from fastkv.errors import Error
from fastkv.raft import Entry, EntryKind, Node

if TYPE_CHECKING:
    import asyncio

RUN_BYTES_MAX = 4 << 20
ON_THE_SPOT_BYTES = 64 << 10

Answers = list[tuple[int, list[tuple[int, bytes]]]]


class Applier:
    """
    on_applied(entries, answers) follows every run. change(entry) carries out a change of membership and returns the new
    membership's bytes, None if it was refused.
    """

    def __init__(
        self,
        engine: ReplicatedEngine,
        raft: Node,
        loop: asyncio.AbstractEventLoop,
        on_applied: Callable[[list[Entry], Answers], None],
        change: Callable[[Entry], bytes | None],
        fail: Callable[[Exception], None],
    ) -> None:
        self._engine = engine
        self._raft = raft
        self._loop = loop
        self._on_applied = on_applied
        self._change = change
        self._fail = fail
        self._queue: deque[Entry] = deque()
        self._held = False
        self._idle: list[Callable[[], None]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="applier")
        self.busy = False  # the thread applies
        self.index = engine.applied_index

    def add(self, entries: list[Entry]) -> None:
        self._queue += entries

    def work(self) -> bool:
        """Apply what may be applied now; whether anything was, on the spot."""
        progress = False
        while self._queue and not self.busy and not self._held:
            run, size = self._take_run()
            if size > ON_THE_SPOT_BYTES:
                self.busy = True
                self._thread.submit(self._apply_in_thread, run)
                break
            membership = self._change(run[0]) if run[0].kind is EntryKind.CONF_CHANGE else None
            self._done(run, self._engine.apply(run, membership))
            progress = True
        return progress

    def _take_run(self) -> tuple[list[Entry], int]:
        """Consecutive batches, or one change of membership by itself; how many bytes."""
        queue = self._queue
        run, size = [queue.popleft()], 0
        if run[0].kind is EntryKind.CONF_CHANGE:
            return run, 0
        size = len(run[0].data)
        while queue and queue[0].kind is not EntryKind.CONF_CHANGE and size < RUN_BYTES_MAX:
            size += len(queue[0].data)
            run.append(queue.popleft())
        return run, size

    def _apply_in_thread(self, run: list[Entry]) -> None:
        try:
            answers = self._engine.apply(run)
        except Error as failure:
            self._loop.call_soon_threadsafe(self._fail, failure)
            return
        self._loop.call_soon_threadsafe(self._applied_in_thread, run, answers)

    def _applied_in_thread(self, run: list[Entry], answers: Answers) -> None:
        self.busy = False
        self._done(run, answers)
        idle, self._idle = self._idle, []
        for callback in idle:
            callback()

    def _done(self, run: list[Entry], answers: Answers) -> None:
        self.index = run[-1].index
        self._raft.applied(self.index)
        self._on_applied(run, answers)

    # -- snapshots --------------------------------------------------------------------------------------------
    def hold(self, then: Callable[[], None]) -> None:
        """Apply nothing more; call `then` when nothing is being applied. What waits is forgotten."""
        self._held = True
        self._queue.clear()
        if self.busy:
            self._idle.append(then)
        else:
            then()

    def go_on(self, index: int) -> None:
        """The engine holds the snapshot of this index."""
        self._held = False
        self.index = index

    def close(self) -> None:
        self._queue.clear()
        self._thread.shutdown(wait=True)
