"""
How writes are decided and carried out: the compares, the checks, then the changes of one main revision.

    TxnRequest --plan--> which branches run --check--> nothing forbids them --Write--> records, responses

Compares (nested ones too) and checks see the state before the txn; range ops see what the txn has written before them.
Once `check` has passed nothing can fail, so there is nothing to roll back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastkv import errors
from fastkv.errors import Code
from fastkv.python import wire
from fastkv.python.index import Record
from fastkv.python.wire import (
    NOBODY,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    TxnRequest,
    encode_key_value,
    int_field,
    message_field,
)
from fastkv.types import KeyValue

if TYPE_CHECKING:
    from fastkv.python.store import Store

_ABSENT = KeyValue(b"", b"", 0, 0, 0, 0)


@dataclass
class Plan:
    """A txn whose compares have been made: only the operations that run."""

    succeeded: bool
    operations: list[RangeRequest | PutRequest | DeleteRangeRequest | Plan]


def plan(store: Store, txn: TxnRequest) -> Plan:
    succeeded = all(_holds(store, compare) for compare in txn.compare)
    operations = [
        plan(store, operation) if isinstance(operation, TxnRequest) else operation
        for operation in (txn.success if succeeded else txn.failure)
        if operation is not None
    ]
    return Plan(succeeded, operations)


def _holds(store: Store, compare: wire.Compare) -> bool:
    """Whether every key of the compare's range satisfies it."""
    kvs = list(store.live(compare.key, compare.range_end, store.revision))
    if not kvs and compare.target == wire.VALUE:
        return False  # nothing on the wire stands for a missing value
    return all(_satisfies(kv, compare) for kv in kvs or [_ABSENT])


def _satisfies(kv: KeyValue, compare: wire.Compare) -> bool:
    operand: Any = None  # of another target: as if it were not there
    if compare.operand is not None and compare.operand[0] == compare.target:
        operand = compare.operand[1]
    match compare.target:
        case wire.VALUE:
            order = _order(kv.value, operand or b"")
        case wire.VERSION:
            order = _order(kv.version, operand or 0)
        case wire.CREATE:
            order = _order(kv.create_revision, operand or 0)
        case wire.MOD:
            order = _order(kv.mod_revision, operand or 0)
        case wire.LEASE:
            order = _order(kv.lease, operand or 0)
        case _:
            order = 0  # etcd: an unknown target compares equal, and an unknown result holds
    match compare.result:
        case wire.EQUAL:
            return order == 0
        case wire.GREATER:
            return order > 0
        case wire.LESS:
            return order < 0
        case wire.NOT_EQUAL:
            return order != 0
    return True


def _order(left: Any, right: Any) -> int:
    return int(left > right) - int(left < right)


def check(store: Store, plan: Plan, deleted_from: bytes | None = None) -> bytes | None:
    """
    Raises the first thing that forbids the plan, in the order of execution.

    deleted_from: the lowest start of the from-key deletes so far (returned for what follows). Only they may be followed
    by a put of a key that they delete (validate.check_intervals). With ignore_value or ignore_lease such a put makes
    etcd panic; here the key is not found.
    """
    for operation in plan.operations:
        match operation:
            case RangeRequest():
                if operation.revision > store.revision:
                    raise errors.from_code(Code.FUTURE_REVISION)
                # 0 is the latest. So is -1, while that is the compact revision of a store that was never compacted.
                if operation.revision != 0 and operation.revision < store.compact_revision:
                    raise store.compacted()
            case PutRequest():
                if operation.lease and operation.lease not in store.leases:
                    raise errors.from_code(Code.LEASE_NOT_FOUND)
                if operation.ignore_value or operation.ignore_lease:
                    deleted = deleted_from is not None and operation.key >= deleted_from
                    if deleted or store.get(operation.key, store.revision) is None:
                        raise errors.from_code(Code.KEY_NOT_FOUND)
            case DeleteRangeRequest() if operation.range_end == b"\0":
                deleted_from = operation.key if deleted_from is None else min(deleted_from, operation.key)
            case Plan():
                deleted_from = check(store, operation, deleted_from)
    return deleted_from


def grows(request: wire.Request | RangeRequest | None) -> bool:
    """What the NOSPACE alarm forbids: puts, in whichever branch, and new leases."""
    if isinstance(request, TxnRequest):
        return any(map(grows, (*request.success, *request.failure)))
    return isinstance(request, PutRequest | wire.LeaseGrantRequest)


class Write:
    """The changes of one main revision. Each method returns a response message without its header."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.main = store.revision + 1
        self.sub = 0  # of the next change

    @property
    def revision(self) -> int:
        """What the txn's own ranges read, and its responses report."""
        return self.main if self.sub else self.main - 1

    def commit(self) -> None:
        self.store.revision = self.revision

    def put(self, request: PutRequest) -> bytes:
        previous = self.store.get(request.key, self.main)
        old = previous or _ABSENT
        kv = KeyValue(
            key=request.key,
            value=old.value if request.ignore_value else request.value,
            create_revision=old.create_revision or self.main,
            mod_revision=self.main,
            version=old.version + 1,
            lease=old.lease if request.ignore_lease else request.lease,
        )
        self._add(kv, tombstone=False, lease_before=old.lease)
        return message_field(2, encode_key_value(previous)) if previous and request.prev_kv else b""

    def delete(self, kv: KeyValue) -> None:
        self._add(KeyValue(kv.key, b"", 0, self.main, 0, 0), tombstone=True, lease_before=kv.lease)

    def delete_range(self, request: DeleteRangeRequest) -> bytes:
        deleted = list(self.store.live(request.key, request.range_end, self.main))
        for kv in deleted:
            self.delete(kv)
        body = int_field(2, len(deleted))
        if request.prev_kv:
            body += b"".join(message_field(3, encode_key_value(kv)) for kv in deleted)
        return body

    def txn(self, plan: Plan) -> bytes:
        responses = []
        for operation in plan.operations:
            match operation:
                case RangeRequest():
                    body = self.store.range(operation, self.revision).encode()
                    response = wire.RANGE_OP, NOBODY.header(self.revision) + body
                case PutRequest():
                    body = self.put(operation)
                    response = wire.PUT_OP, NOBODY.header(self.revision) + body
                case DeleteRangeRequest():
                    body = self.delete_range(operation)
                    response = wire.DELETE_OP, NOBODY.header(self.revision) + body
                case Plan():
                    response = wire.TXN_OP, NOBODY.header(0) + self.txn(operation)
            responses.append(message_field(3, message_field(*response)))
        return int_field(2, plan.succeeded) + b"".join(responses)

    def _add(self, kv: KeyValue, tombstone: bool, lease_before: int) -> None:
        self.store.add(Record(self.main, self.sub, tombstone, kv), lease_before)
        self.sub += 1
