"""
Random calls of every kind that an etcd and a fastkv node must answer with the same bytes, from one seeded generator.

Locks and elections have a name for each lease, so that no call waits for another one.
"""

from __future__ import annotations

from random import Random

from differential.calls import (
    ELECTION,
    HEALTH,
    STREAM,
    WATCH,
    ask,
    campaign,
    create,
    downgrade,
    keep_alive,
    leader_key,
    lock,
    raw,
    stream,
    unlock,
)
from fastkv.rpc.wire import bytes_field
from support.generate import LEASES, Requests
from support.twins import KEEP_ALIVE, Step

VERSIONS = (b"3.6", b"3.6.0", b"3.7", b"3.5", b"3.5.9", b"", b"x", b"3.6.0-a", b"03.6", b"3.6.", b"3.6.1.1", b"\xff")
KINDS = {
    "put": 20,
    "delete": 6,
    "range": 20,
    "txn": 20,
    "range_stream": 6,
    "history": 8,
    "compaction": 1,
    "hash_kv": 2,
    "lease_grant": 4,
    "lease_revoke": 3,
    "time_to_live": 4,
    "keep_alive": 3,
    "leases": 1,
    "lock": 5,
    "unlock": 4,
    "campaign": 5,
    "leader": 4,
    "proclaim": 4,
    "resign": 4,
    "downgrade": 2,
    "health": 1,
}


class Generated:
    """revision: of both stores, kept up to date by the caller."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._requests = Requests(rng, peer=True, modern=True)

    def next(self, revision: int) -> Step:
        self._requests.revision = revision
        [kind] = self._rng.choices(list(KINDS), list(KINDS.values()))
        made = getattr(self, f"_{kind}")()
        assert isinstance(made, Step)
        return made

    def _put(self) -> Step:
        return ask("Put", self._requests.put())

    def _delete(self) -> Step:
        return ask("DeleteRange", self._requests.delete())

    def _range(self) -> Step:
        return ask("Range", self._requests.range())

    def _txn(self) -> Step:
        return ask("Txn", self._requests.txn())

    def _range_stream(self) -> Step:
        request = self._requests.range()
        if request.sort_order == 0:
            request.sort_target = 0  # etcd sorts each chunk alone and calls that the answer
        return stream(STREAM, 99, request.SerializeToString())

    def _history(self) -> Step:
        """A watch over what has been; whether all comes in one response is told by the next call alone."""
        start = max(1, self._requests.revision - self._rng.randrange(6))
        key, end = self._rng.choice(((b"a", b""), (b"b", b"l"), (b"\0", b"\0")))
        return stream(WATCH, 1, create(key, range_end=end, start_revision=start, prev_kv=True))

    def _compaction(self) -> Step:
        return ask("Compact", self._requests.compaction())

    def _hash_kv(self) -> Step:
        return ask("HashKV", self._requests.hash_kv())

    def _lease_grant(self) -> Step:
        return ask("LeaseGrant", self._requests.lease_grant())

    def _lease_revoke(self) -> Step:
        return ask("LeaseRevoke", self._requests.lease_revoke())

    def _time_to_live(self) -> Step:
        return ask("LeaseTimeToLive", self._requests.time_to_live(), "TTL")

    def _keep_alive(self) -> Step:
        leases = [self._rng.choice(LEASES) for _ in range(self._rng.randint(1, 3))]
        return stream(KEEP_ALIVE, len(leases), *map(keep_alive, leases))

    def _leases(self) -> Step:
        return ask("LeaseLeases")

    def _lock(self) -> Step:
        return lock(*self._own(b"lock"))

    def _unlock(self) -> Step:
        return unlock(*self._own(b"lock"))

    def _campaign(self) -> Step:
        return campaign(*self._own(b"elect"), self._requests.value())

    def _leader(self) -> Step:
        return raw(f"{ELECTION}Leader", bytes_field(1, self._own(b"elect")[0]))

    def _proclaim(self) -> Step:
        return raw(f"{ELECTION}Proclaim", self._leader_key(), bytes_field(2, self._requests.value()))

    def _resign(self) -> Step:
        return raw(f"{ELECTION}Resign", self._leader_key())

    def _leader_key(self) -> bytes:
        return leader_key(*self._own(b"elect"), self._rng.randint(1, self._requests.revision))

    def _downgrade(self) -> Step:
        return downgrade(self._rng.choice((0, 0, 2)), self._rng.choice(VERSIONS))

    def _health(self) -> Step:
        return raw(f"{HEALTH}Check", bytes_field(1, self._rng.choice((b"", b"etcd"))))

    def _own(self, kind: bytes) -> tuple[bytes, int]:
        """A name that only this lease contends for."""
        lease = self._rng.choice(LEASES)
        return b"%s-%x" % (kind, lease), lease
