"""
A command's bytes -> a request that the store can execute: everything that can be refused without looking at the store.

The order of the checks is etcd's (api/v3rpc/key.go): a txn's size first, then each compare, then each op of both
branches, then duplicate keys. What is refused here never gets into the log (PythonEngine.commit): a limit may change
between two runs, so replay goes without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


_Interval = tuple[bytes, bytes]


def check_intervals(operations: Sequence[Operation | None]) -> tuple[set[bytes], list[_Interval]]:
    """
    The keys put and the intervals deleted by one branch; DUPLICATE_KEY if a key is put twice or put and deleted.

    etcd's rule to the letter: intervals are compared by their raw range_end, so that one that ends at "\\0" (everything
    from a key on) overlaps nothing; a nested txn's deletes do not count against the puts of an earlier sibling.
    """
    puts: set[bytes] = set()
    deletes = [
        (operation.key, operation.range_end or operation.key + b"\0")
        for operation in operations
        if isinstance(operation, DeleteRangeRequest)
    ]
    for operation in operations:
        if isinstance(operation, TxnRequest):
            then_puts, then_deletes = check_intervals(operation.success)
            else_puts, else_deletes = check_intervals(operation.failure)
            _add_puts(puts, then_puts, deletes)
            _add_puts(puts, else_puts - then_puts, deletes)  # only one of the two branches runs
            deletes += then_deletes + else_deletes
    for operation in operations:
        if isinstance(operation, PutRequest):
            _add_puts(puts, {operation.key}, deletes)
    return puts, deletes


def _add_puts(puts: set[bytes], keys: set[bytes], deletes: list[_Interval]) -> None:
    for key in keys:
        if key in puts or any(start <= key < end for start, end in deletes):
            raise errors.from_code(Code.DUPLICATE_KEY)
    puts |= keys
