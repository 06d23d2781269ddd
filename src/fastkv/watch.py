"""
Watching an embedded store: an iterator of what changes, one whole revision at a time.

    with db.watch(prefix="cfg/", start_revision=7, prev_kv=True) as watch:
        for batch in watch:                       # WatchBatch(revision, events)
            for event in batch: ...

The engine matches and queues (or, for a watch that has fallen behind, re-reads the store); a Watch asks for what is
pending, decodes it and cuts it at revisions. It has no thread: the consumer's own one waits.

Invariants:
* every matching event from start_revision on is handed out exactly once, in order, all of one revision together.
* `close` may be called from any thread, any number of times, and wakes a consumer that is waiting.
* what a consumer does, raises or does not do concerns no other watch and no writer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from itertools import groupby
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fastkv import messages
from fastkv.errors import ClosedError, CompactedError
from fastkv.types import Event, WatchBatch

if TYPE_CHECKING:
    from fastkv.store import DB

TAKE_BYTES = 1 << 20
WAIT_S = 0.25  # a wait inside the native engine cannot be interrupted by Ctrl-C: look up this often


class Watch:
    """A watch on a key or a range: an iterator of WatchBatch, and a context manager that closes it.

    Iteration ends when the watch is closed or, if it was made with a `timeout`, when nothing has happened for so many
    seconds. It raises CompactedError if the next revision to hand out has been compacted away, and ClosedError if the
    store was closed. Several threads may share one watch: each batch goes to one of them.
    """

    def __init__(
        self,
        store: DB,
        key: bytes,
        range_end: bytes,
        start_revision: int,
        prev_kv: bool,
        filters: int,
        timeout: float | None,
    ) -> None:
        self._store = store
        self._timeout = timeout
        self._closed = False
        self._batches: deque[WatchBatch] = deque()
        self._compacted: CompactedError | None = None
        self._consumer = threading.Lock()
        self._id = store._engine.watch(key, range_end, start_revision, prev_kv, filters)

    # -- consuming --------------------------------------------------------------------------------------------

    def poll(self, timeout: float | None = 0.0) -> WatchBatch | None:
        """The next batch, waiting for at most `timeout` seconds (None: for as long as it takes). None if there is none,
        or the watch is closed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._consumer.acquire(timeout=-1 if timeout is None else min(max(timeout, 0.0), threading.TIMEOUT_MAX)):
            return None
        try:
            return self._next(deadline)
        finally:
            self._consumer.release()

    def _next(self, deadline: float | None) -> WatchBatch | None:
        while not self._closed:
            if self._batches:
                return self._batches.popleft()
            if self._compacted is not None:
                raise self._compacted
            if self._take():
                continue
            left = WAIT_S if deadline is None else min(WAIT_S, deadline - time.monotonic())
            if left <= 0:
                return None
            self._store._engine.watch_wait(self._id, left)
        return None

    def _take(self) -> bool:
        """Fetch what is pending; False if nothing is."""
        taken = self._store._engine.watch_take(self._id, TAKE_BYTES)
        for batch in taken:
            if batch.compact_revision:
                self._compacted = CompactedError(
                    f"revisions below {batch.compact_revision} have been compacted away: this watch cannot go on"
                )
                self._compacted.compact_revision = batch.compact_revision
            else:
                self._batches.extend(
                    WatchBatch(revision, tuple(events))
                    for revision, events in groupby(messages.events(batch.events), _mod_revision)
                )
        return bool(taken)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> WatchBatch:
        batch = self.poll(self._timeout)
        if batch is None:
            raise StopIteration
        return batch

    # -- life -------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """End the watch, also from another thread: whoever waits in it stops waiting."""
        self._closed = True
        with suppress(ClosedError):
            self._store._engine.watch_cancel(self._id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The garbage collector may run this inside any call into the engine, which must not be entered twice: leave it
        # to the DB.
        if not self._closed and hasattr(self, "_id"):
            self._store._abandoned_watches.append(self._id)

    def __repr__(self) -> str:
        return f"<fastkv.Watch id={self._id} {'closed' if self._closed else 'open'}>"


def _mod_revision(event: Event) -> int:
    return event.kv.mod_revision
