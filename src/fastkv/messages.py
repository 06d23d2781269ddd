"""
The protobuf messages that the embedded API exchanges with an engine: encoders of requests, decoders of answers.

    PutRequest(key=b"a", value=b"1")   <->   0a 01 61  12 01 31         tag = field number << 3 | wire type

Owns exactly the messages that the typed calls of the Engine protocol do not cover: the operations and compares of a
txn, leases, compaction, and the key-values and events that come back as bytes. Field numbers are etcd's (rpc.proto,
mvcc.proto). Zero values are omitted, as proto3 does. What is decoded was written by our own engine, so a malformed
answer is a broken invariant (ValueError or IndexError), not a client's error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fastkv.types import DeleteResult, Event, EventType, GetResult, KeyValue, PutResult, TxnResult

# RequestOp and ResponseOp: which member of the oneof.
RANGE_OP, PUT_OP, DELETE_OP, TXN_OP = 1, 2, 3, 4

_U64 = (1 << 64) - 1
_VARINT, _LENGTH = 0, 2


# -- primitives -----------------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    """Base-128, little end first; negative numbers as their 64-bit two's complement."""
    number &= _U64
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def int_field(field: int, number: int) -> bytes:
    """A varint field, or nothing for 0."""
    return varint(field << 3 | _VARINT) + varint(number) if number else b""


def bytes_field(field: int, data: bytes) -> bytes:
    """A bytes field, or nothing for b""."""
    return message_field(field, data) if data else b""


def message_field(field: int, data: bytes) -> bytes:
    """A nested message or a member of a oneof: present even if empty."""
    return varint(field << 3 | _LENGTH) + varint(len(data)) + data


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def fields(message: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Every field as (number, integer, bytes); of the last two one is meant, by the field's type."""
    at, end = 0, len(message)
    while at < end:
        tag = message[at]  # every field number in an answer is below 16
        number = message[at + 1]
        at += 2
        if number > 0x7F:
            number, at = _read_varint(message, at - 1)
        if tag & 7 == _LENGTH:
            yield tag >> 3, 0, message[at : at + number]
            at += number
        elif tag & 7 == _VARINT:
            yield tag >> 3, number, b""
        else:
            raise ValueError(f"wire type {tag & 7} in an engine's answer")


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


# -- requests -------------------------------------------------------------------------------------------------


def put_request(
    key: bytes,
    value: bytes,
    lease: int = 0,
    *,
    prev_kv: bool = False,
    ignore_value: bool = False,
    ignore_lease: bool = False,
) -> bytes:
    return (
        bytes_field(1, key)
        + bytes_field(2, value)
        + int_field(3, lease)
        + int_field(4, prev_kv)
        + int_field(5, ignore_value)
        + int_field(6, ignore_lease)
    )


def range_request(
    key: bytes,
    range_end: bytes = b"",
    *,
    limit: int = 0,
    revision: int = 0,
    reverse: bool = False,
    keys_only: bool = False,
    count_only: bool = False,
) -> bytes:
    descend = 2
    return (
        bytes_field(1, key)
        + bytes_field(2, range_end)
        + int_field(3, limit)
        + int_field(4, revision)
        + int_field(5, descend if reverse else 0)
        + int_field(8, keys_only)
        + int_field(9, count_only)
    )


def delete_request(key: bytes, range_end: bytes = b"", *, prev_kv: bool = False) -> bytes:
    return bytes_field(1, key) + bytes_field(2, range_end) + int_field(3, prev_kv)


def request_op(kind: int, request: bytes) -> bytes:
    """A RequestOp: one operation of a txn."""
    return message_field(kind, request)


def compare(result: int, target: int, key: bytes, range_end: bytes, operand: int | bytes) -> bytes:
    """A Compare. result: 0 =, 1 >, 2 <, 3 !=. target: 0 version, 1 create revision, 2 mod revision, 3 value, 4 lease;
    the field of the operand is 4 more."""
    if isinstance(operand, bytes):
        union = message_field(target + 4, operand)
    else:
        union = int_field(target + 4, operand)
    return int_field(1, result) + int_field(2, target) + bytes_field(3, key) + union + bytes_field(64, range_end)


def txn_request(compares: Iterable[bytes], success: Iterable[bytes], failure: Iterable[bytes] = ()) -> bytes:
    """A TxnRequest of encoded Compares and RequestOps."""
    return b"".join(
        [message_field(1, one) for one in compares]
        + [message_field(2, one) for one in success]
        + [message_field(3, one) for one in failure]
    )


def compaction_request(revision: int) -> bytes:
    return int_field(1, revision)


def lease_grant_request(ttl: int, lease: int) -> bytes:
    return int_field(1, ttl) + int_field(2, lease)


def lease_revoke_request(lease: int) -> bytes:
    return int_field(1, lease)


# -- answers --------------------------------------------------------------------------------------------------


def key_value(message: bytes) -> KeyValue:
    """mvccpb.KeyValue."""
    # Written out: a watch or history decodes as many of these as there are events.
    key = value = b""
    numbers = [0] * 7  # by field
    at, end = 0, len(message)
    while at < end:
        tag = message[at]
        number = message[at + 1]
        at += 2
        if number > 0x7F:
            number, at = _read_varint(message, at - 1)
        if tag & 7 == _VARINT:
            numbers[tag >> 3] = number
        elif tag == 1 << 3 | _LENGTH:
            key = message[at : at + number]
            at += number
        else:
            value = message[at : at + number]
            at += number
    return KeyValue(key, value, numbers[2], numbers[3], numbers[4], _signed(numbers[6]))


def event(message: bytes) -> Event:
    """mvccpb.Event."""
    type, kv, prev_kv = EventType.PUT, b"", None
    for field, number, data in fields(message):
        if field == 2:
            kv = data
        elif field == 3:
            prev_kv = key_value(data)
        elif number:
            type = EventType.DELETE
    return Event(type, key_value(kv), prev_kv)


def events(message: bytes) -> list[Event]:
    """The events of a WatchResponse (field 11), in order."""
    return [event(data) for field, _, data in fields(message) if field == 11]


def _header_revision(header: bytes) -> int:
    return next((number for field, number, _ in fields(header) if field == 3), 0)


def put_result(message: bytes) -> PutResult:
    """PutResponse."""
    revision, prev_kv = 0, None
    for field, _, data in fields(message):
        if field == 1:
            revision = _header_revision(data)
        elif field == 2:
            prev_kv = key_value(data)
    return PutResult(revision, prev_kv)


def delete_result(message: bytes) -> DeleteResult:
    """DeleteRangeResponse."""
    revision, deleted, prev_kvs = 0, 0, []
    for field, number, data in fields(message):
        if field == 1:
            revision = _header_revision(data)
        elif field == 2:
            deleted = number
        elif field == 3:
            prev_kvs.append(key_value(data))
    return DeleteResult(revision, deleted, tuple(prev_kvs))


def get_result(message: bytes) -> GetResult:
    """RangeResponse."""
    revision, kvs, more, count = 0, [], False, 0
    for field, number, data in fields(message):
        if field == 1:
            revision = _header_revision(data)
        elif field == 2:
            kvs.append(key_value(data))
        elif field == 3:
            more = bool(number)
        elif field == 4:
            count = number
    return GetResult(revision, tuple(kvs), count, more)


def txn_result(message: bytes) -> TxnResult:
    """TxnResponse. The header of a nested one is empty: its revision is 0."""
    revision, succeeded = 0, False
    responses: list[Any] = []
    for field, number, data in fields(message):
        if field == 1:
            revision = _header_revision(data)
        elif field == 2:
            succeeded = bool(number)
        elif field == 3:
            responses.extend(_RESPONSE[kind](answer) for kind, _, answer in fields(data))
    return TxnResult(succeeded, tuple(responses), revision)


_RESPONSE = {RANGE_OP: get_result, PUT_OP: put_result, DELETE_OP: delete_result, TXN_OP: txn_result}
