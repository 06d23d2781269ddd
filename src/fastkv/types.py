"""
What the store hands out: frozen, slotted, comparable, pattern-matchable records (tuples with names).

Owns the record types that the engines, the embedded API and the client share; nothing in here knows a store. Revisions
are integers from 1 (the empty store); lease ids and ttls are integers, ttls in seconds.

    match event:
        case Event(EventType.PUT, KeyValue(key=key, value=value)): ...
        case Event(EventType.DELETE, KeyValue(key=key)): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple


class KeyValue(NamedTuple):
    """One key as of one revision (etcd's mvccpb.KeyValue).

    create_revision: revision of the put that (last) created the key. mod_revision: revision of this put. version: puts
    since creation, from 1. lease: id of the lease the key hangs on, 0 for none.
    """

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class EventType(StrEnum):
    """What happened to a key. Compares equal to the plain strings "PUT" and "DELETE"."""

    PUT = "PUT"
    DELETE = "DELETE"


class Event(NamedTuple):
    """One change of one key.

    type: EventType.PUT or EventType.DELETE. kv: the key after the change; of a delete it has key and mod_revision only
    (the value is b"", the rest 0). prev_kv: the key before the change; None if it was not asked for, not there, or
    compacted away.
    """

    type: EventType
    kv: KeyValue
    prev_kv: KeyValue | None = None


class WatchBatch:
    """Everything that one revision changed among the watched keys: all of it, never a part.

    revision: the one main revision of the events. events: in the order in which they happened. Iterating over a batch
    and `len` are those of its events.
    """

    __slots__ = ("_events", "_revision")
    __match_args__ = ("revision", "events")

    def __init__(self, revision: int, events: tuple[Event, ...]) -> None:
        self._revision = revision
        self._events = events

    @property
    def revision(self) -> int:
        return self._revision

    @property
    def events(self) -> tuple[Event, ...]:
        return self._events

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WatchBatch):
            return NotImplemented
        return self._revision == other._revision and self._events == other._events

    def __hash__(self) -> int:
        return hash((self._revision, self._events))

    def __repr__(self) -> str:
        return f"WatchBatch(revision={self._revision}, events={self._events!r})"

    def __reduce__(self) -> tuple[type[WatchBatch], tuple[int, tuple[Event, ...]]]:
        return WatchBatch, (self._revision, self._events)


class PutResult(NamedTuple):
    """Answer to a put. revision: at which it was written. prev_kv: what the key held before, if asked for and there."""

    revision: int
    prev_kv: KeyValue | None = None


class DeleteResult(NamedTuple):
    """Answer to a delete. deleted: how many keys. prev_kvs: what they held, if asked for; ascending by key."""

    revision: int
    deleted: int
    prev_kvs: tuple[KeyValue, ...] = ()


class GetResult(NamedTuple):
    """Answer to a get in a txn. kvs: what was found. count: how many there are, whatever the limit. more: the limit cut
    some off."""

    revision: int
    kvs: tuple[KeyValue, ...]
    count: int  # type: ignore[assignment]  # hides tuple.count
    more: bool = False


class TxnResult(NamedTuple):
    """Answer to a txn; true when it succeeded.

    succeeded: every compare held, so `then` was carried out (else `otherwise`). responses: one for each operation
    carried out, in order. revision: the store's after the txn; all writes of the txn have this one.
    """

    succeeded: bool
    responses: tuple[PutResult | DeleteResult | GetResult | TxnResult, ...]
    revision: int

    def __bool__(self) -> bool:
        return self.succeeded


class Stats(NamedTuple):
    """Counters and sizes of a store.

    keys: live keys. records: puts and deletes held, old revisions included. memory_bytes: records and index. log_bytes:
    log since the last checkpoint. checkpoint_bytes, checkpoint_index: the newest checkpoint, 0 if none. syncs, batches,
    commands: since it was opened.
    """

    engine: str
    keys: int
    records: int
    revision: int
    compact_revision: int
    applied_index: int
    term: int
    leases: int
    watchers: int
    memory_bytes: int
    log_bytes: int
    checkpoint_bytes: int
    checkpoint_index: int
    syncs: int
    batches: int
    commands: int
