"""
Who watches what, and what each has not had yet.

    watch -> unsynced: next_revision is not above the store's; take() reads from there on in the store's revision index
             synced:   sweep() adds each new revision that matches to `pending`; take() hands them out, a batch each

When compaction passes what a watcher has not taken, take() says so once, and the watcher is forgotten.

Invariants:
* a watcher gets every matching event with main >= its start revision exactly once, in order, whole revisions at a time.
* next_revision: everything below it was taken, is pending, or does not match.
* a watcher is in `ready` if take() has something for it or must look, and at most once until it was taken empty.
Thread safety: none; the engine's lock, on which its condition also wakes those who wait.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from fastkv.engine import NODELETE, NOPUT, WatchBatch
from fastkv.python.index import Record, bounds
from fastkv.python.store import Store
from fastkv.python.wire import encode_event, message_field

SCAN_RECORDS_MAX = 10_000  # read by one take, whether they match or not; one revision is read whole
PENDING_MAX = 1024  # revisions; beyond, the watcher falls back to reading the revision index
_EVENTS = 11  # WatchResponse.events


@dataclass
class Watcher:
    start: bytes
    stop: bytes | None
    start_revision: int
    prev_kv: bool
    filters: int
    next_revision: int
    synced: bool = False
    pending: deque[int] = field(default_factory=deque)
    announced: bool = False

    @property
    def has_something(self) -> bool:
        return not self.synced or bool(self.pending)

    def matches(self, record: Record) -> bool:
        if self.filters & (NODELETE if record.tombstone else NOPUT):
            return False
        return record.kv.key >= self.start and (self.stop is None or record.kv.key < self.stop)


class Hub:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._watchers: dict[int, Watcher] = {}
        self._ready: dict[int, None] = {}  # in order
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._watchers)

    def __contains__(self, id: int) -> bool:
        return id in self._watchers

    def add(self, key: bytes, range_end: bytes, start_revision: int, prev_kv: bool, filters: int) -> int:
        if start_revision < 0:
            raise self._store.compacted()
        start, stop = bounds(key, range_end)
        next_revision = start_revision or self._store.revision + 1
        synced = next_revision > self._store.revision
        watcher = Watcher(start, stop, start_revision, prev_kv, filters, next_revision, synced)
        self._last_id += 1
        self._watchers[self._last_id] = watcher
        self._announce(self._last_id, watcher)
        return self._last_id

    def cancel(self, id: int) -> None:
        self._watchers.pop(id, None)

    def cancel_all(self) -> None:
        self._watchers.clear()

    def sweep(self, after: int) -> None:
        """Tells every watcher of the revisions above `after` that a batch has made."""
        for revision in range(after + 1, self._store.revision + 1):
            records = self._store.events.get(revision, ())
            for watcher in self._watchers.values():
                if watcher.synced and revision >= watcher.next_revision:
                    self._offer(watcher, revision, records)
        for id, watcher in self._watchers.items():
            self._announce(id, watcher)

    def resync(self, store: Store) -> None:
        """A later state has taken the store's place: who was synced reads on in it from what was not taken yet."""
        self._store = store
        for id, watcher in self._watchers.items():
            if watcher.pending:
                watcher.next_revision = watcher.pending[0]
                watcher.pending.clear()
            watcher.synced = watcher.next_revision > store.revision
            self._announce(id, watcher)

    def _offer(self, watcher: Watcher, revision: int, records: list[Record] | tuple[()]) -> None:
        if any(watcher.matches(record) for record in records):
            if len(watcher.pending) == PENDING_MAX:
                watcher.next_revision = watcher.pending[0]
                watcher.pending.clear()
                watcher.synced = False
                return
            watcher.pending.append(revision)
        watcher.next_revision = revision + 1

    def has_something(self, id: int) -> bool:
        """Whether take() has; true also when the watcher is gone, so that nobody waits for it."""
        watcher = self._watchers.get(id)
        return watcher is None or watcher.has_something

    def _announce(self, id: int, watcher: Watcher) -> None:
        if not watcher.announced and watcher.has_something:
            watcher.announced = True
            self._ready[id] = None

    def ready(self) -> list[int]:
        ready = [id for id in self._ready if id in self._watchers]
        self._ready.clear()
        return ready

    def progress(self, id: int) -> int:
        watcher = self._watchers.get(id)
        revision = self._store.revision
        if watcher is None or not watcher.synced or watcher.pending or revision < watcher.start_revision:
            return -1
        return revision

    def take(self, id: int, bytes_max: int) -> list[WatchBatch]:
        watcher = self._watchers.get(id)
        if watcher is None or not watcher.has_something:
            return []
        needed = watcher.pending[0] if watcher.synced else watcher.next_revision
        if needed < self._store.compact_revision:
            del self._watchers[id]
            return [WatchBatch(0, b"", self._store.compact_revision)]
        if watcher.synced:
            batches = self._take_pending(watcher, bytes_max)
        else:
            batches = self._take_unsynced(watcher, bytes_max)
        if not watcher.has_something:
            watcher.announced = False
            self._ready.pop(id, None)
        return batches

    def _take_pending(self, watcher: Watcher, bytes_max: int) -> list[WatchBatch]:
        batches: list[WatchBatch] = []
        size_bytes = 0
        while watcher.pending and (not batches or size_bytes < bytes_max):
            revision = watcher.pending.popleft()
            events = self._encode(watcher, revision)
            size_bytes += len(events)
            if events:  # compaction may have taken what a txn wrote and deleted again
                batches.append(WatchBatch(revision, events, 0))
        return batches

    def _take_unsynced(self, watcher: Watcher, bytes_max: int) -> list[WatchBatch]:
        """One batch of several revisions, as of now; [] if none of those that were read matches."""
        events = bytearray()
        records_read = 0
        while not watcher.synced and len(events) < max(bytes_max, 1) and records_read < SCAN_RECORDS_MAX:
            events += self._encode(watcher, watcher.next_revision)
            records_read += len(self._store.events_at(watcher.next_revision))
            watcher.next_revision += 1
            watcher.synced = watcher.next_revision > self._store.revision
        return [WatchBatch(self._store.revision, bytes(events), 0)] if events else []

    def _encode(self, watcher: Watcher, revision: int) -> bytes:
        return b"".join(
            message_field(_EVENTS, encode_event(record.kv, record.tombstone, previous))
            for record in self._store.events_at(revision)
            if watcher.matches(record)
            for previous in (self._store.previous(record) if watcher.prev_kv else None,)
        )
