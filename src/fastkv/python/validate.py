"""
A command's bytes -> a request that the store can execute: everything that can be refused without looking at the store.

The order of the checks is etcd's (api/v3rpc/key.go): a txn's size first, then each compare, then each op of both
branches, then duplicate keys. What is refused here never gets into the log (PythonEngine.commit): a limit may change
between two runs, so replay goes without one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import pairwise

from fastkv import engine, errors
from fastkv.errors import Code
from fastkv.python import wire
from fastkv.python.wire import DeleteRangeRequest, Operation, PutRequest, RangeRequest, TxnRequest

LEASE_TTL_MAX_S = 9_000_000_000


def parse(tag: int, payload: bytes, ops_max: int = 0) -> wire.Request:
    """The request in a command; raises a client's error. ops_max: etcd's --max-txn-ops, 0 = none."""
    request = _DECODERS[tag](payload)
    match request:
        case PutRequest():
            check_put(request)
        case DeleteRangeRequest():
            check_delete(request)
        case TxnRequest():
            check_txn(request, ops_max or None)
            check_intervals(request.success)
            check_intervals(request.failure)
        case wire.LeaseGrantRequest() if request.id == 0:
            raise wire.malformed()  # whoever wrote the command had to choose
        case wire.LeaseGrantRequest() if request.ttl > LEASE_TTL_MAX_S:
            raise errors.from_code(Code.LEASE_TTL_TOO_LARGE)
    return request


_DECODERS: dict[int, Callable[[bytes], wire.Request]] = {
    engine.PUT: PutRequest.decode,
    engine.DELETE_RANGE: DeleteRangeRequest.decode,
    engine.TXN: TxnRequest.decode,
    engine.COMPACTION: wire.CompactionRequest.decode,
    engine.LEASE_GRANT: wire.LeaseGrantRequest.decode,
    engine.LEASE_REVOKE: wire.LeaseRevokeRequest.decode,
    engine.ALARM: wire.AlarmRequest.decode,
    engine.LEASE_CHECKPOINT: wire.LeaseCheckpointRequest.decode,
}
TAGS = frozenset(_DECODERS)


def check_range(request: RangeRequest) -> None:
    if not request.key:
        raise errors.from_code(Code.EMPTY_KEY)
    if not (wire.NONE <= request.sort_order <= wire.DESCEND and wire.BY_KEY <= request.sort_target <= wire.BY_VALUE):
        raise errors.from_code(Code.INVALID_SORT)


def check_put(request: PutRequest) -> None:
    if not request.key:
        raise errors.from_code(Code.EMPTY_KEY)
    if request.ignore_value and request.value:
        raise errors.from_code(Code.VALUE_PROVIDED)
    if request.ignore_lease and request.lease:
        raise errors.from_code(Code.LEASE_PROVIDED)


def check_delete(request: DeleteRangeRequest) -> None:
    if not request.key:
        raise errors.from_code(Code.EMPTY_KEY)


def check_txn(txn: TxnRequest, ops_max: int | None) -> None:
    """ops_max: what is left of the limit, None = no limit; a nested txn gets what its parent's longest list leaves."""
    ops = max(len(txn.compare), len(txn.success), len(txn.failure))
    if ops_max is not None:
        if ops > ops_max:
            raise errors.from_code(Code.TOO_MANY_OPS)
        ops_max -= ops
    if not all(compare.key for compare in txn.compare):
        raise errors.from_code(Code.EMPTY_KEY)
    for operation in (*txn.success, *txn.failure):
        match operation:
            case RangeRequest():
                check_range(operation)
            case PutRequest():
                check_put(operation)
            case DeleteRangeRequest():
                check_delete(operation)
            case TxnRequest():
                check_txn(operation, ops_max)
            case None:
                raise errors.from_code(Code.KEY_NOT_FOUND)


class Intervals:
    """Intervals [start, end) of keys, kept as their union: ascending and apart."""

    def __init__(self) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return zip(self._starts, self._ends, strict=True)

    def __contains__(self, key: bytes) -> bool:
        at = bisect_right(self._starts, key)
        return at > 0 and key < self._ends[at - 1]

    def add(self, start: bytes, end: bytes) -> None:
        if start >= end:
            return  # no key lies in it
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def overlap(self, keys: list[bytes]) -> bool:
        """Whether one of the ascending keys lies in one of them."""
        if len(keys) <= len(self):
            return any(key in self for key in keys)
        return any((at := bisect_left(keys, start)) < len(keys) and keys[at] < end for start, end in self)


class Touched:
    """
    The keys put (ascending) and the intervals deleted by one branch.

    `take` moves the smaller side into the larger one, and `overlaps` looks the smaller one up: whatever is nested in
    what, a key is moved a few times only.
    """

    def __init__(self) -> None:
        self.puts: list[bytes] = []
        self.deletes = Intervals()

    def overlaps(self, puts: list[bytes]) -> bool:
        """Whether one of the ascending keys is put or deleted here."""
        few, many = sorted((puts, self.puts), key=len)
        return self.deletes.overlap(puts) or any(
            (at := bisect_left(many, key)) < len(many) and many[at] == key for key in few
        )

    def take(self, other: Touched) -> None:
        few, self.puts = sorted((other.puts, self.puts), key=len)
        if _is_much_smaller(few, self.puts):
            for key in few:
                insort(self.puts, key)
        else:
            self.puts = sorted(few + self.puts)
        fewer, self.deletes = sorted((other.deletes, self.deletes), key=len)
        added: Iterable[tuple[bytes, bytes]] = fewer
        if not _is_much_smaller(fewer, self.deletes):
            added, self.deletes = sorted([*fewer, *self.deletes]), Intervals()
        for interval in added:
            self.deletes.add(*interval)


def _is_much_smaller(few: Sized, many: Sized) -> bool:
    """Whether it is cheaper to insert one by one, each time moving what is behind, than to sort anew."""
    return len(few) * 16 < len(many)


def check_intervals(operations: Sequence[Operation | None]) -> Touched:
    """
    What one branch puts and deletes; DUPLICATE_KEY if a key is put twice or put and deleted.

    etcd's rule to the letter: intervals are compared by their raw range_end, so that one that ends at "\\0" (everything
    from a key on) overlaps nothing; a nested txn's deletes do not count against the puts of an earlier sibling.
    """
    touched = Touched()
    for start, end in sorted(
        (operation.key, operation.range_end or operation.key + b"\0")
        for operation in operations
        if isinstance(operation, DeleteRangeRequest)
    ):
        touched.deletes.add(start, end)
    for operation in operations:
        if isinstance(operation, TxnRequest):
            branches = check_intervals(operation.success)
            branches.take(check_intervals(operation.failure))  # only one runs: both may put the same key
            _add(touched, branches)
    own = Touched()
    own.puts = sorted(operation.key for operation in operations if isinstance(operation, PutRequest))
    if any(key == following for key, following in pairwise(own.puts)):
        raise errors.from_code(Code.DUPLICATE_KEY)
    _add(touched, own)
    return touched


def _add(touched: Touched, following: Touched) -> None:
    if touched.overlaps(following.puts):
        raise errors.from_code(Code.DUPLICATE_KEY)
    touched.take(following)
