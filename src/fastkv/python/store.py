"""
The MVCC store: keys, their histories, leases, alarms, and what each command does to them.

    put a 1      revision 2     chains  a: put@2 put@4         events  2: [put a]
    put b 1      revision 3             b: put@3                       3: [put b]
    put a 2      revision 4                                            4: [put a]

Owns the state that a checkpoint holds, and nothing else: no clock, no disk, no lock. `apply` is deterministic; it
either answers or raises a client's error and has changed nothing. Requests have passed validate.parse.

Invariants:
* revision is 1 in an empty store and rises by one for each command that changes a key; sub numbers its changes from 0.
* events holds every record with main >= the compact revision (and possibly some that wait for compact_step).
* a lease holds exactly the keys whose newest record names it.
Thread safety: none; the engine's lock.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from fastkv import errors
from fastkv.errors import Code
from fastkv.python import txn, wire
from fastkv.python.crc32c import crc32c
from fastkv.python.index import Chain, Index, Record, bounds, live_at, since, visible_at
from fastkv.python.ranges import RangeResult, read_range
from fastkv.python.txn import Write
from fastkv.python.wire import (
    DeleteRangeRequest,
    Identity,
    PutRequest,
    RangeRequest,
    TxnRequest,
    int_field,
    message_field,
)
from fastkv.types import KeyValue

_U64 = (1 << 64) - 1
NOSPACE, CORRUPT = 1, 2  # AlarmType
RECORD_OVERHEAD_BYTES = 400  # a Record, its KeyValue and their small integers in CPython, about


@dataclass
class Lease:
    """ttl as granted; remaining as last checkpointed (0 = never). Both in seconds."""

    ttl: int
    remaining: int = 0
    keys: set[bytes] = field(default_factory=set)


class Store:
    def __init__(self) -> None:
        self.index = Index()
        self.revision = 1
        self.compact_revision = -1
        self.leases: dict[int, Lease] = {}
        self.alarms: set[tuple[int, int]] = set()  # (member, alarm)
        self.events: dict[int, list[Record]] = {}  # by main revision
        self.records = 0
        self.live_keys = 0
        self.memory_bytes = 0
        self.identity = Identity()
        self._compacted = 0  # events below are gone; at or above, compact_step has yet to look at them

    # -- reads ------------------------------------------------------------------------------------------------

    def readable(self, revision: int) -> int:
        """The revision to read at (0 or less = latest). Raises FUTURE_REVISION, COMPACTED."""
        if revision > self.revision:
            raise errors.from_code(Code.FUTURE_REVISION)
        if revision <= 0:
            return self.revision
        if revision < self.compact_revision:
            raise self.compacted()
        return revision

    def compacted(self) -> errors.Error:
        error = errors.from_code(Code.COMPACTED)
        assert isinstance(error, errors.CompactedError)
        error.compact_revision = max(self.compact_revision, 0)
        return error

    def get(self, key: bytes, revision: int) -> KeyValue | None:
        chain = self.index.get(key)
        return live_at(chain, revision) if chain else None

    def live(self, key: bytes, range_end: bytes, revision: int) -> Iterator[KeyValue]:
        """What is there at the revision, ascending by key. The store must not change meanwhile."""
        start, stop = bounds(key, range_end)
        if stop == start + b"\0":
            keys: Iterator[bytes] = iter((start,) if start in self.index.chains else ())
        else:
            keys = self.index.ascending(start, stop)
        for key in keys:
            kv = live_at(self.index.chains[key], revision)
            if kv is not None:
                yield kv

    def range(self, request: RangeRequest, current: int) -> RangeResult:
        """current: the revision that is the latest to the asker; inside a txn that has written, the one being made."""
        revision = request.revision if request.revision > 0 else current
        return read_range(request, self.live(request.key, request.range_end, revision))

    def previous(self, record: Record) -> KeyValue | None:
        """What an event's prev_kv is: the value before its main revision, None if none, or if it is compacted away."""
        if record.main - 1 < self.compact_revision or (not record.tombstone and record.kv.version == 1):
            return None
        return self.get(record.kv.key, record.main - 1)

    def events_at(self, revision: int) -> list[Record]:
        """The changes of one main revision that is not below the compact revision."""
        events = self.events.get(revision, [])
        if revision != self.compact_revision:
            return events
        return [record for record in events if visible_at(self.index.chains[record.kv.key], revision) is record]

    def chains(self) -> Iterator[Chain]:
        """What a checkpoint holds: of each key what is visible at or after the compact revision, ascending by key."""
        for key in self.index.ascending():
            chain = since(self.index.chains[key], self.compact_revision)
            if chain:
                yield chain

    # -- commands ---------------------------------------------------------------------------------------------

    def apply(self, request: wire.Request) -> bytes:
        """Executes one command; returns the response message or raises a client's error."""
        raised = {alarm for _, alarm in self.alarms}
        if CORRUPT in raised and not isinstance(request, wire.AlarmRequest | wire.LeaseCheckpointRequest):
            raise errors.from_code(Code.CLUSTER_CORRUPT)
        if NOSPACE in raised and txn.grows(request):
            raise errors.from_code(Code.NO_SPACE)
        match request:
            case PutRequest():
                return self._put_alone(request)
            case DeleteRangeRequest():
                write = Write(self)
                body = write.delete_range(request)
                write.commit()
                return self.header() + body
            case TxnRequest():
                return self.txn(request)
            case wire.CompactionRequest():
                return self._compact(request)
            case wire.LeaseGrantRequest():
                return self._lease_grant(request)
            case wire.LeaseRevokeRequest():
                return self._lease_revoke(request)
            case wire.AlarmRequest():
                return self._alarm(request)
            case wire.LeaseCheckpointRequest():
                for checkpoint in request.checkpoints:
                    if checkpoint.id in self.leases:
                        self.leases[checkpoint.id].remaining = checkpoint.remaining_ttl
                return b""

    def header(self) -> bytes:
        return self.identity.header(self.revision)

    def _put_alone(self, request: PutRequest) -> bytes:
        if request.lease and request.lease not in self.leases:
            raise errors.from_code(Code.LEASE_NOT_FOUND)
        if (request.ignore_value or request.ignore_lease) and self.get(request.key, self.revision) is None:
            raise errors.from_code(Code.KEY_NOT_FOUND)
        write = Write(self)
        body = write.put(request)
        write.commit()
        return self.header() + body

    def txn(self, request: TxnRequest) -> bytes:
        """Also one that only reads, which no alarm forbids and no log holds."""
        plan = txn.plan(self, request)
        txn.check(self, plan)
        write = Write(self)
        body = write.txn(plan)
        write.commit()
        return self.header() + body

    def _compact(self, request: wire.CompactionRequest) -> bytes:
        if request.revision <= self.compact_revision:
            raise self.compacted()
        if request.revision > self.revision:
            raise errors.from_code(Code.FUTURE_REVISION)
        self.compact_revision = request.revision
        return self.header()

    def _lease_grant(self, request: wire.LeaseGrantRequest) -> bytes:
        if request.id in self.leases:
            raise errors.from_code(Code.LEASE_EXISTS)
        self.leases[request.id] = Lease(request.ttl)
        return self.header() + int_field(2, request.id) + int_field(3, request.ttl)

    def _lease_revoke(self, request: wire.LeaseRevokeRequest) -> bytes:
        lease = self.leases.get(request.id)
        if lease is None:
            raise errors.from_code(Code.LEASE_NOT_FOUND)
        write = Write(self)
        for key in sorted(lease.keys):
            write.delete(self.index.chains[key][-1].kv)
        write.commit()
        del self.leases[request.id]
        return self.header()

    def _alarm(self, request: wire.AlarmRequest) -> bytes:
        alarm = (request.member_id, request.alarm & _U64)
        affected: list[tuple[int, int]] = []
        if request.action == wire.ALARM_GET:
            affected = sorted(known for known in self.alarms if request.alarm in (0, known[1]))
        elif request.action == wire.ALARM_ACTIVATE and request.alarm != 0:
            self.alarms.add(alarm)
            affected = [alarm]
        elif request.action == wire.ALARM_DEACTIVATE and alarm in self.alarms:
            self.alarms.remove(alarm)
            affected = [alarm]
        return self.header() + b"".join(
            message_field(2, int_field(1, member) + int_field(2, number)) for member, number in affected
        )

    # -- changes ----------------------------------------------------------------------------------------------

    def add(self, record: Record, lease_before: int) -> None:
        """The newest record of all. Moves the key from its lease to the new one."""
        if lease_before != record.kv.lease:
            if lease_before in self.leases:
                self.leases[lease_before].keys.discard(record.kv.key)
            if record.kv.lease in self.leases:
                self.leases[record.kv.lease].keys.add(record.kv.key)
        self.index.append(record)
        self.events.setdefault(record.main, []).append(record)
        self._account(record, 1)
        self.live_keys += -1 if record.tombstone else record.kv.version == 1

    def restore(self, chains: list[Chain]) -> None:
        """Fills an empty store from a checkpoint's chains; revision, compact_revision and leases are set already."""
        for chain in chains:
            for record in chain:
                self.index.append(record)
                self._account(record, 1)
            newest = chain[-1].kv
            self.live_keys += not chain[-1].tombstone
            if newest.lease in self.leases:
                self.leases[newest.lease].keys.add(newest.key)
        events = [record for chain in chains for record in chain if record.main >= self.compact_revision]
        for record in sorted(events, key=lambda record: (record.main, record.sub)):
            self.events.setdefault(record.main, []).append(record)
        self._compacted = max(self.compact_revision, 0)

    def compact_step(self, revisions_max: int) -> bool:
        """Forget what up to revisions_max revisions have superseded; True when nothing is left to forget."""
        end = min(self.compact_revision, self._compacted + max(revisions_max, 1))
        for revision in range(self._compacted, end + 1):
            for record in self.events.get(revision, ()):
                self._forget_before(record, itself=record.tombstone and revision < self.compact_revision)
            if revision < self.compact_revision:
                self.events.pop(revision, None)
        if end == self.compact_revision and end in self.events:
            self.events[end] = self.events_at(end)
        self._compacted = max(self._compacted, end)
        return self._compacted >= self.compact_revision

    def _forget_before(self, record: Record, itself: bool) -> None:
        chain = self.index.get(record.kv.key)
        if chain is None or chain[0].main > record.main:
            return  # gone already: this pass begins where the last one ended
        gone = sum((older.main, older.sub) < (record.main, record.sub) for older in chain) + itself
        for older in chain[:gone]:
            self._account(older, -1)
        del chain[:gone]
        if not chain:
            self.index.remove(record.kv.key)

    def _account(self, record: Record, sign: int) -> None:
        self.records += sign
        self.memory_bytes += sign * (RECORD_OVERHEAD_BYTES + len(record.kv.key) + len(record.kv.value))

    # -- hashes -----------------------------------------------------------------------------------------------

    def hash_kv(self, revision: int) -> tuple[int, int, int]:
        """
        (hash, compact_revision, hash_revision) as etcd's HashKV: the CRC-32C of "key" and, by revision, of each
        record's revision key and stored KeyValue, up to `revision`.

        Skipped, as etcd does: at or below the compact revision what is not live at `revision` (unless nothing at all is
        live there), and a tombstone exactly at the compact revision. Left out: etcd answers for a revision that it has
        lately compacted from the hash that it took then, with the compact revision before that.
        """
        revision = self.readable(revision)
        records = [record for chain in self.chains() for record in chain if record.main <= revision]
        live = set()
        for chain in self.index.chains.values():
            newest = visible_at(chain, revision)
            if newest is not None and not newest.tombstone:
                live.add((newest.main, newest.sub))
        crc = crc32c(b"key")
        for record in sorted(records, key=lambda record: (record.main, record.sub)):
            if record.main <= self.compact_revision and live and (record.main, record.sub) not in live:
                continue
            if record.main == self.compact_revision and record.tombstone:
                continue
            kv = record.kv._replace(mod_revision=0) if record.tombstone else record.kv
            crc = crc32c(struct.pack(">QsQ", record.main, b"_", record.sub) + b"t" * record.tombstone, crc)
            crc = crc32c(wire.encode_key_value(kv), crc)
        return crc, self.compact_revision, revision

    # -- checking ---------------------------------------------------------------------------------------------

    def check(self) -> list[str]:
        """What is wrong, [] if nothing."""
        wrong = self.index.check()
        attached: dict[int, set[bytes]] = {lease: set() for lease in self.leases}
        for key, chain in self.index.chains.items():
            newest = chain[-1]
            if newest.main > self.revision:
                wrong.append(f"store: {key!r} was changed at {newest.main}, above the revision {self.revision}")
            if newest.kv.lease in attached:
                attached[newest.kv.lease].add(key)
            for record in since(chain, self.compact_revision):
                if record.main >= self.compact_revision and record not in self.events.get(record.main, ()):
                    wrong.append(f"store: revision {record.main} of {key!r} is missing from the revision index")
        wrong += [
            f"store: lease {id} holds {sorted(lease.keys)!r}, the keys say {sorted(attached[id])!r}"
            for id, lease in self.leases.items()
            if lease.keys != attached[id]
        ]
        if self.records != sum(map(len, self.index.chains.values())):
            wrong.append(f"store: {self.records} records were counted, the index holds others")
        if self.live_keys != sum(not chain[-1].tombstone for chain in self.index.chains.values()):
            wrong.append(f"store: {self.live_keys} keys were counted, the index holds others")
        return wrong
