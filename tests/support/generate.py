"""
Random requests and random calls, from one seeded generator: the same seed gives the same run.

Keys are few and short, so that requests meet each other; revisions lie around the current one. `Requests` makes etcd's
messages; `Calls` makes calls of the Engine protocol, hostile bytes included.
"""

from __future__ import annotations

from random import Random
from typing import Any

from google.protobuf.message import Message

from fastkv import engine as protocol
from support.protos import rpc

LEASES = (1, 2, 3, 77, -5, 1 << 40)
KEYS = [b"a", b"b", b"c", b"ab", b"abc", b"k1", b"k2", b"k3", b"\0", b"\xff", b"\xff\xff", b"z"]
Call = tuple[str, tuple[Any, ...]]


class Requests:
    """
    etcd's messages.

    peer: leave out what a real etcd answers with a panic or from its memory (delete, hash_kv, lease_grant, alarm).
    modern: the peer is an etcd >= 3.7. Older ones know fewer options, and check a txn's puts before its
    ranges, leases last.
    """

    def __init__(self, rng: Random, peer: bool = False, modern: bool = True) -> None:
        self.rng = rng
        self.peer = peer
        self.modern = modern
        self.revision = 1
        self.compacted: set[int] = set()

    def key(self) -> bytes:
        return b"" if self._one_in(60) else self.rng.choice(KEYS)

    def end(self) -> bytes:
        return self.rng.choice((b"", b"", b"", b"\0", self.rng.choice(KEYS), b"b", b"l"))

    def value(self) -> bytes:
        size = self.rng.choice((0, 1, 1, 2, 5, 20, 20, 300))
        return self.rng.randbytes(size) if self._one_in(2) else b"v" * size

    def at(self) -> int:
        """A revision to ask for."""
        if not self._one_in(3):
            return 0
        return self.rng.choice((self.revision, self.revision + 1, self.rng.randint(-3, self.revision + 3)))

    def _one_in(self, chances: int) -> bool:
        return self.rng.randrange(chances) == 0

    def put(self) -> Message:
        ignore_value = self._one_in(12)
        ignore_lease = self._one_in(12)
        return rpc.PutRequest(
            key=self.key(),
            value=b"" if ignore_value and not self._one_in(4) else self.value(),
            lease=self._lease(ignore_value, ignore_lease),
            prev_kv=self._one_in(3),
            ignore_value=ignore_value,
            ignore_lease=ignore_lease,
        )

    def _lease(self, ignore_value: bool, ignore_lease: bool) -> int:
        if not self._one_in(4) or (ignore_lease and not self._one_in(4)) or (ignore_value and not self.modern):
            return 0
        return self.rng.choice(LEASES)

    def delete(self, in_txn: bool = False) -> Message:
        end = self.end()
        if in_txn and self.peer and end == b"\0":
            # etcd panics on {delete from key on, put of such a key with ignore_value}, and loses the pair when it
            # compacts at such a revision (tests/scripts/compaction/of_a_key_deleted_and_put_in_one_revision.txt).
            end = b""
        return rpc.DeleteRangeRequest(key=self.key(), range_end=end, prev_kv=self._one_in(2))

    def range(self, in_txn: bool = False) -> Message:
        revision = self.at() if self.modern or not in_txn else 0
        request = rpc.RangeRequest(key=self.key(), range_end=self.end(), revision=revision)
        if self._one_in(3):
            request.limit = self.rng.randint(-1, 5)
        if self._one_in(3):
            request.sort_order = self.rng.randrange(3)
            request.sort_target = self.rng.randrange(5)
        if self.modern and self._one_in(50):
            request.sort_target = self.rng.randint(5, 9)
        if self.modern and self._one_in(5):
            request.keys_only = True
        if self._one_in(6):
            request.count_only = True
        request.serializable = self._one_in(6)
        for name in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
            if self._one_in(12):
                setattr(request, name, self.rng.randint(0, self.revision + 1))
        return request

    def compare(self) -> Message:
        compare = rpc.Compare(
            result=self.rng.randrange(4),
            target=self.rng.randrange(5),
            key=self.key(),
            range_end=self.end() if self._one_in(4) else b"",
        )
        if not self._one_in(8):
            near = self.rng.choice((0, 1, 2, self.revision, self.rng.randint(0, self.revision)))
            field = ("version", "create_revision", "mod_revision", "value", "lease")[compare.target]
            setattr(compare, field, self.value() if field == "value" else near)
        return compare

    def operation(self, depth: int) -> Message:
        kind = self.rng.randrange(20)
        if kind < 8:
            return rpc.RequestOp(request_put=self.put())
        if kind < 14:
            return rpc.RequestOp(request_range=self.range(in_txn=True))
        if kind < 17:
            return rpc.RequestOp(request_delete_range=self.delete(in_txn=True))
        if kind == 19 and self._one_in(10):
            return rpc.RequestOp()
        return rpc.RequestOp(request_txn=self.txn(depth + 1)) if depth < 3 else rpc.RequestOp(request_put=self.put())

    def txn(self, depth: int = 0) -> Message:
        most = 3 if depth else 4
        message = rpc.TxnRequest(
            compare=[self.compare() for _ in range(self.rng.choice((0, 0, 1, 1, 2)))],
            success=[self.operation(depth) for _ in range(self.rng.randint(0, most))],
            failure=[self.operation(depth) for _ in range(self.rng.randint(0, most))],
        )
        if depth == 0 and self._one_in(100):
            count = self.rng.choice((127, 128, 129))
            del message.success[:]
            # Deletes of nothing: many keys with one revision would leave the order of sorted answers open.
            absent = (rpc.DeleteRangeRequest(key=b"n%d" % i) for i in range(count))
            message.success.extend(rpc.RequestOp(request_delete_range=request) for request in absent)
        return message

    def compaction(self) -> Message:
        least = -1 if not self.peer else 1
        revision = self.rng.choice((self.revision, self.revision + 1, self.rng.randint(least, self.revision + 1)))
        if revision <= self.revision:
            self.compacted.add(revision)
        return rpc.CompactionRequest(revision=revision, physical=self.peer or self._one_in(2))

    def lease_grant(self) -> Message:
        # Too long a TTL is refused before or after the NOSPACE alarm speaks: etcd does the latter.
        ttl = self.rng.choice((1000, 5000, 9_000_000_000, 5000 if self.peer else 9_000_000_001))
        return rpc.LeaseGrantRequest(ID=self.rng.choice(LEASES), TTL=ttl)

    def lease_revoke(self) -> Message:
        return rpc.LeaseRevokeRequest(ID=self.rng.choice(LEASES))

    def time_to_live(self) -> Message:
        return rpc.LeaseTimeToLiveRequest(ID=self.rng.choice(LEASES), keys=self._one_in(2))

    def alarm(self) -> Message:
        # Mostly off again at once: most of a run should be able to write.
        action = self.rng.choice((0, 1, 2, 2, 2, 2))
        kinds = (1, 1, 2) if self.peer else (1, 1, 2, 0)
        return rpc.AlarmRequest(action=action, memberID=self.rng.choice((0, 1, 2)), alarm=self.rng.choice(kinds))

    def hash_kv(self) -> Message:
        revision = self.at()
        if self.peer and (revision < 0 or revision in self.compacted):
            # A real etcd remembers the hash from before a compaction and answers with it.
            revision = 0
        return rpc.HashKVRequest(revision=revision)

    def watch(self) -> Message:
        """A create request that succeeds."""
        key = self.rng.choice(KEYS)
        end = self.end()
        return rpc.WatchCreateRequest(
            key=key,
            range_end=end if end == b"\0" or end > key else b"",
            start_revision=self.rng.choice((0, 0, self.rng.randint(1, self.revision + 3))),
            prev_kv=self._one_in(2),
            filters=self.rng.choice(((), (), (0,), (1,))),
        )


class Calls:
    """Calls of the Engine protocol. Watchers are meant by ordinal: the runner maps them to the ids that are alive."""

    WEIGHTS = {
        "put": 10,
        "delete": 3,
        "put_many": 3,
        "commit": 40,
        "range": 20,
        "range_chunk": 3,
        "read_txn": 3,
        "get": 4,
        "scan": 5,
        "count": 2,
        "history": 2,
        "hash_kv": 1,
        "hash": 0.5,
        "leases": 1,
        "alarms": 1,
        "lease_keys": 1,
        "watch": 2,
        "watch_take": 6,
        "watch_progress": 3,
        "watch_ready": 2,
        "watch_cancel": 1,
        "compact_step": 3,
        "stats": 1,
        "hostile": 6,
        "write_meta": 0.1,
        "read_meta": 0.2,
        "check": 0.2,
        "checkpoint": 0.2,
        "reopen": 0.1,
        "crash": 0.1,
        "swap": 0.05,
    }
    COMMANDS = (
        *((protocol.PUT, "put"),) * 8,
        *((protocol.DELETE_RANGE, "delete"),) * 3,
        *((protocol.TXN, "txn"),) * 8,
        (protocol.COMPACTION, "compaction"),
        *((protocol.LEASE_GRANT, "lease_grant"),) * 2,
        (protocol.LEASE_REVOKE, "lease_revoke"),
        (protocol.ALARM, "alarm"),
    )

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.requests = Requests(self.rng)
        self._names = list(self.WEIGHTS)
        self._weights = list(self.WEIGHTS.values())

    def next(self, revision: int) -> Call:
        self.requests.revision = revision
        [name] = self.rng.choices(self._names, self._weights)
        make = getattr(self, f"_{name}", None)
        return make() if make else (name, ())

    def _put(self) -> Call:
        return "put", (self.requests.key(), self.requests.value(), self.rng.choice((0, 0, 0, *LEASES)))

    def _delete(self) -> Call:
        return "delete", (self.requests.key(), self.requests.end())

    def _put_many(self) -> Call:
        items = [(self.requests.key(), self.requests.value()) for _ in range(self.rng.randint(0, 4))]
        return "put_many", (items if self.rng.randrange(5) == 0 else list(dict(items).items()),)

    def _command(self) -> tuple[int, bytes]:
        tag, name = self.rng.choice(self.COMMANDS)
        return tag, getattr(self.requests, name)().SerializeToString()

    def _commit(self) -> Call:
        return "commit", ([self._command() for _ in range(self.rng.choice((1, 1, 1, 2, 3)))],)

    def _range(self) -> Call:
        return "range", (self.requests.range().SerializeToString(),)

    def _range_chunk(self) -> Call:
        return "range_chunk", (self.requests.range().SerializeToString(), self.rng.choice((1, 64, 1000)))

    def _read_txn(self) -> Call:
        txn = self.requests.txn()
        if self.rng.randrange(4):  # else what the generator likes: mostly one that writes
            for branch in (txn.success, txn.failure):
                del branch[:]
                for _ in range(self.rng.randint(0, 3)):
                    branch.add().request_range.CopyFrom(self.requests.range())
        return "read_txn", (txn.SerializeToString(),)

    def _get(self) -> Call:
        return "get", (self.rng.choice(KEYS), self.rng.choice((None, b"default")), self.requests.at())

    def _scan(self) -> Call:
        rng = self.rng
        limit, what = rng.choice((0, 0, 1, 3)), rng.randrange(4)
        return "scan", (rng.choice(KEYS), self.requests.end(), self.requests.at(), limit, rng.randrange(2) == 0, what)

    def _count(self) -> Call:
        return "count", (self.rng.choice(KEYS), self.requests.end(), self.requests.at())

    def _history(self) -> Call:
        return "history", (self.rng.choice(KEYS),)

    def _hash_kv(self) -> Call:
        return "hash_kv", (self.requests.at(),)

    def _lease_keys(self) -> Call:
        return "lease_keys", (self.rng.choice(LEASES),)

    def _watch(self) -> Call:
        create = self.requests.watch()
        filters = self.rng.choice((0, 0, protocol.NOPUT, protocol.NODELETE))
        return "watch", (create.key, create.range_end, create.start_revision, create.prev_kv, filters)

    def _watch_take(self) -> Call:
        return "watch_take", (self.rng.randrange(100), self.rng.choice((1, 100, 1 << 20)))

    def _watch_progress(self) -> Call:
        return "watch_progress", (self.rng.randrange(100),)

    def _watch_cancel(self) -> Call:
        return "watch_cancel", (self.rng.randrange(100),)

    def _compact_step(self) -> Call:
        return "compact_step", (self.rng.choice((1, 2, 10, 1000)),)

    def _write_meta(self) -> Call:
        return "write_meta", (self.rng.randbytes(self.rng.randrange(20)),)

    def _hostile(self) -> Call:
        tag, payload = self._command()
        if self.rng.randrange(3):
            return "commit", ([(tag, self.mutate(payload))],)
        return "range", (self.mutate(self.requests.range().SerializeToString()),)

    def mutate(self, data: bytes) -> bytes:
        """Bytes that were a message."""
        rng = self.rng
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(out) + 1)
            kind = rng.randrange(6)
            if kind == 0 and at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del out[at:]
            elif kind == 2:
                out[at:at] = rng.randbytes(rng.randint(1, 3))
            elif kind == 3:
                out[at:at] = out[: rng.randrange(len(out) + 1)]
            elif kind == 4:
                del out[at : at + rng.randint(1, 3)]
            else:
                out += rng.choice(
                    (
                        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                        b"\x0a\x00",
                        b"\x98\x06\x01",
                        b"\xff\xff\xff\xff\xff",
                    )
                )
        return bytes(out)
