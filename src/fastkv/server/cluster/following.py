"""
What applied entries mean for what a node keeps beside its store, whoever proposed them (under the grpcio front end; the
native one tells its node itself).

Of commands that others answer, nobody here knows the outcome. A revocation can only take a lease away. A grant fails
where the lease is there already, which the lessor knows, or because of an alarm: then the store is asked.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastkv.engine import ALARM, COMPACTION, LEASE_GRANT, LEASE_REVOKE, Engine
from fastkv.python.wire import read_varint
from fastkv.raft import Entry, EntryKind
from fastkv.rpc.wire import Message

HEADER_BYTES = 16  # origin, sequence


class News(NamedTuple):
    """leases: (id, TTL) granted or (id, None) revoked, in order."""

    leases: list[tuple[int, int | None]]
    alarms: bool
    compaction: bool


def news(engine: Engine, entries: Sequence[Entry], *, alarmed: bool) -> News | None:
    """What these entries, now applied, have changed; None: nothing that counts. alarmed: there was an alarm before."""
    leases: list[tuple[int, int | None]] = []
    alarms = compaction = False
    for entry in entries:
        if entry.kind is not EntryKind.NORMAL:
            continue
        for tag, payload in commands(entry.data):
            if tag == LEASE_GRANT:
                request = Message(payload)
                leases.append((request.number(2), request.number(1)))
            elif tag == LEASE_REVOKE:
                leases.append((Message(payload).number(1), None))
            alarms = alarms or tag == ALARM
            compaction = compaction or tag == COMPACTION
    if not (leases or alarms or compaction):
        return None
    if leases and (alarmed or alarms):
        there = {lease for lease, _, _ in engine.leases()}
        leases = [(lease, ttl) for lease, ttl in leases if ttl is None or lease in there]
    return News(leases, alarms, compaction)


def commands(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, payload) of those in a batch that do more than change keys; the bytes were checked when logged."""
    at = HEADER_BYTES
    while at < len(data):
        tag, at = read_varint(data, at)
        length, at = read_varint(data, at)
        if tag >= COMPACTION:
            yield tag, data[at : at + length]
        at += length
