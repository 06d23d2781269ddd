"""
The protobuf wire, and the etcd messages that the store itself reads and writes.

    field   := tag:varint (number << 3 | type) value       type 0 varint, 1 eight bytes, 2 length + bytes, 5 four bytes

Decoding takes hostile bytes: errors.Code.MALFORMED, never another exception, unless they are a well-formed message.
Unknown fields, and known fields of another wire type, are skipped; of a field or oneof given twice the last one counts.
Encoding is canonical proto3: fields ascending, zero and empty left out, but a present message is written even if empty.

Left out: groups (no etcd message ever had one: malformed), merging of a oneof message that is given twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

from fastkv import errors
from fastkv.errors import Code
from fastkv.types import KeyValue

_U64 = (1 << 64) - 1
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
TXN_DEPTH_MAX = 128  # nested txns; etcd's --max-txn-ops gives the same bound

# RequestOp and ResponseOp: which member of the oneof.
RANGE_OP, PUT_OP, DELETE_OP, TXN_OP = 1, 2, 3, 4


def malformed() -> errors.Error:
    return errors.from_code(Code.MALFORMED)


# -- primitives -----------------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    """Base-128, little end first; negative numbers as their 64-bit two's complement."""
    number &= _U64
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(number, offset behind it)."""
    number = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number > _U64:
                break
            return number, at
        shift += 7
    raise malformed()


def read_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(tag, value) of each varint and bytes field; those of fixed length are skipped: no message here has any."""
    at, end = 0, len(data)
    while at < end:
        tag, at = read_varint(data, at)
        if not 8 <= tag < 1 << 32:
            raise malformed()
        kind = tag & 7
        if kind == _VARINT:
            number, at = read_varint(data, at)
            yield tag, number
            continue
        if kind == _BYTES:
            length, at = read_varint(data, at)
        elif kind in (_EIGHT, _FOUR):
            length = 8 if kind == _EIGHT else 4
        else:
            raise malformed()
        if length > end - at:
            raise malformed()
        if kind == _BYTES:
            yield tag, data[at : at + length]
        at += length


def int_field(number: int, value: int) -> bytes:
    """A varint field, or nothing for 0."""
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def bytes_field(number: int, data: bytes) -> bytes:
    """A bytes field, or nothing for b""."""
    return message_field(number, data) if data else b""


def message_field(number: int, data: bytes) -> bytes:
    """A nested message, present even if empty."""
    return varint(number << 3 | _BYTES) + varint(len(data)) + data


# -- messages as dataclasses: each field names its number and how it is decoded -----------------------------------


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _truncated(number: int) -> int:
    """An enum: protobuf keeps 32 bits."""
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >> 31 else number


def _blob(number: int) -> Any:
    return field(default=b"", metadata={"tags": {number << 3 | _BYTES: bytes}})


def _int(number: int) -> Any:
    return field(default=0, metadata={"tags": {number << 3: _signed}})


def _unsigned(number: int) -> Any:
    return field(default=0, metadata={"tags": {number << 3: int}})


def _enum(number: int) -> Any:
    return field(default=0, metadata={"tags": {number << 3: _truncated}})


def _bool(number: int) -> Any:
    return field(default=False, metadata={"tags": {number << 3: bool}})


class _Decoder(NamedTuple):
    name: str
    convert: Callable[[Any], Any]
    repeated: bool


_DECODERS: dict[type, dict[int, _Decoder]] = {}  # by message, by tag


def _decoders(message: type[Message]) -> dict[int, _Decoder]:
    decoders = _DECODERS.get(message)
    if decoders is None:
        decoders = _DECODERS[message] = {
            tag: _Decoder(field.name, convert, "repeated" in field.metadata)
            for field in fields(message)
            for tag, convert in field.metadata["tags"].items()
        }
    return decoders


@dataclass
class Message:
    @classmethod
    def decode(cls, data: bytes) -> Self:
        message = cls()
        decoders = _decoders(cls)
        for tag, value in read_fields(data):
            decoder = decoders.get(tag)
            if decoder is None:
                continue
            if decoder.repeated:
                getattr(message, decoder.name).append(decoder.convert(value))
            else:
                setattr(message, decoder.name, decoder.convert(value))
        return message

    def encode(self) -> bytes:
        """For messages of scalars only."""
        values = ((tag >> 3, getattr(self, decoder.name)) for tag, decoder in _decoders(type(self)).items())
        return b"".join(
            bytes_field(number, value) if isinstance(value, bytes) else int_field(number, value)
            for number, value in values
        )


# -- requests -------------------------------------------------------------------------------------------------


@dataclass
class RangeRequest(Message):
    key: bytes = _blob(1)
    range_end: bytes = _blob(2)
    limit: int = _int(3)
    revision: int = _int(4)
    sort_order: int = _enum(5)
    sort_target: int = _enum(6)
    serializable: bool = _bool(7)
    keys_only: bool = _bool(8)
    count_only: bool = _bool(9)
    min_mod_revision: int = _int(10)
    max_mod_revision: int = _int(11)
    min_create_revision: int = _int(12)
    max_create_revision: int = _int(13)
    # Ours: of a RangeStream under way, the keys already handed out, and what its last header will say.
    sent: int = _int(1000)
    header_revision: int = _int(1001)

    @property
    def filtered(self) -> bool:
        return any((self.min_mod_revision, self.max_mod_revision, self.min_create_revision, self.max_create_revision))


# RangeRequest.sort_order and sort_target.
NONE, ASCEND, DESCEND = 0, 1, 2
BY_KEY, BY_VERSION, BY_CREATE, BY_MOD, BY_VALUE = 0, 1, 2, 3, 4


@dataclass
class PutRequest(Message):
    key: bytes = _blob(1)
    value: bytes = _blob(2)
    lease: int = _int(3)
    prev_kv: bool = _bool(4)
    ignore_value: bool = _bool(5)
    ignore_lease: bool = _bool(6)


@dataclass
class DeleteRangeRequest(Message):
    key: bytes = _blob(1)
    range_end: bytes = _blob(2)
    prev_kv: bool = _bool(3)


# Compare.result and target.
EQUAL, GREATER, LESS, NOT_EQUAL = 0, 1, 2, 3
VERSION, CREATE, MOD, VALUE, LEASE = 0, 1, 2, 3, 4
_TARGET_UNION = {
    4 << 3: lambda number: (VERSION, _signed(number)),
    5 << 3: lambda number: (CREATE, _signed(number)),
    6 << 3: lambda number: (MOD, _signed(number)),
    7 << 3 | _BYTES: lambda data: (VALUE, data),
    8 << 3: lambda number: (LEASE, _signed(number)),
}


@dataclass
class Compare(Message):
    """operand: the target_union, as (the target it is for, its value); None if the client left it out."""

    result: int = _enum(1)
    target: int = _enum(2)
    key: bytes = _blob(3)
    range_end: bytes = _blob(64)
    operand: tuple[int, Any] | None = field(default=None, metadata={"tags": _TARGET_UNION})


@dataclass
class TxnRequest:
    """An op that is None had an empty oneof."""

    compare: list[Compare] = field(default_factory=list)
    success: list[Operation | None] = field(default_factory=list)
    failure: list[Operation | None] = field(default_factory=list)

    @classmethod
    def decode(cls, data: bytes, depth: int = 0) -> Self:
        if depth > TXN_DEPTH_MAX:
            raise errors.from_code(Code.TOO_MANY_OPS)
        txn = cls()
        for tag, value in read_fields(data):
            if not isinstance(value, bytes):
                continue
            match tag >> 3:
                case 1:
                    txn.compare.append(Compare.decode(value))
                case 2:
                    txn.success.append(_operation(value, depth))
                case 3:
                    txn.failure.append(_operation(value, depth))
        return txn


Operation = RangeRequest | PutRequest | DeleteRangeRequest | TxnRequest


def _member(data: bytes) -> tuple[int, bytes]:
    """Which member a RequestOp has (0: none), and its message."""
    number, body = 0, b""
    for tag, value in read_fields(data):
        if isinstance(value, bytes) and RANGE_OP <= tag >> 3 <= TXN_OP:
            number, body = tag >> 3, value
    return number, body


def only_reads(txn: bytes) -> bool:
    """Whether every operation of the TxnRequest is a range; what is inside them is not looked at."""
    operations = [value for tag, value in read_fields(txn) if isinstance(value, bytes) and tag >> 3 in (2, 3)]
    return {_member(operation)[0] for operation in operations} <= {RANGE_OP}


def _operation(data: bytes, depth: int) -> Operation | None:
    number, body = _member(data)
    match number:
        case 1:
            return RangeRequest.decode(body)
        case 2:
            return PutRequest.decode(body)
        case 3:
            return DeleteRangeRequest.decode(body)
        case 4:
            return TxnRequest.decode(body, depth + 1)
    return None


@dataclass
class CompactionRequest(Message):
    revision: int = _int(1)
    physical: bool = _bool(2)


@dataclass
class LeaseGrantRequest(Message):
    ttl: int = _int(1)
    id: int = _int(2)


@dataclass
class LeaseRevokeRequest(Message):
    id: int = _int(1)


@dataclass
class LeaseCheckpoint(Message):
    id: int = _int(1)
    remaining_ttl: int = _int(2)


@dataclass
class LeaseCheckpointRequest(Message):
    checkpoints: list[LeaseCheckpoint] = field(
        default_factory=list, metadata={"tags": {1 << 3 | _BYTES: LeaseCheckpoint.decode}, "repeated": True}
    )


# AlarmRequest.action.
ALARM_GET, ALARM_ACTIVATE, ALARM_DEACTIVATE = 0, 1, 2


@dataclass
class AlarmRequest(Message):
    action: int = _enum(1)
    member_id: int = _unsigned(2)
    alarm: int = _enum(3)


Request = (
    PutRequest
    | DeleteRangeRequest
    | TxnRequest
    | CompactionRequest
    | LeaseGrantRequest
    | LeaseRevokeRequest
    | AlarmRequest
    | LeaseCheckpointRequest
)

# -- key values, events, headers ------------------------------------------------------------------------------


@dataclass
class _KeyValueMessage(Message):
    key: bytes = _blob(1)
    create_revision: int = _int(2)
    mod_revision: int = _int(3)
    version: int = _int(4)
    value: bytes = _blob(5)
    lease: int = _int(6)


def encode_key_value(kv: KeyValue) -> bytes:
    return (
        bytes_field(1, kv.key)
        + int_field(2, kv.create_revision)
        + int_field(3, kv.mod_revision)
        + int_field(4, kv.version)
        + bytes_field(5, kv.value)
        + int_field(6, kv.lease)
    )


def decode_key_value(data: bytes) -> KeyValue:
    kv = _KeyValueMessage.decode(data)
    return KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def encode_event(kv: KeyValue, deleted: bool, previous: KeyValue | None) -> bytes:
    """mvccpb.Event."""
    event = int_field(1, 1 if deleted else 0) + message_field(2, encode_key_value(kv))
    return event + message_field(3, encode_key_value(previous)) if previous else event


class Identity(NamedTuple):
    """What every response header carries beside the revision."""

    cluster_id: int = 0
    member_id: int = 0
    raft_term: int = 0

    def header(self, revision: int) -> bytes:
        """ResponseHeader as field 1 of a response."""
        return message_field(
            1,
            int_field(1, self.cluster_id)
            + int_field(2, self.member_id)
            + int_field(3, revision)
            + int_field(4, self.raft_term),
        )


NOBODY = Identity()  # ops inside a txn name no member


# -- the requests that the engine makes itself ----------------------------------------------------------------


def encode_put(key: bytes, value: bytes, lease: int) -> bytes:
    return bytes_field(1, key) + bytes_field(2, value) + int_field(3, lease)


def encode_delete(key: bytes, range_end: bytes) -> bytes:
    return bytes_field(1, key) + bytes_field(2, range_end)


def encode_txn_of_puts(items: Iterable[tuple[bytes, bytes]], lease: int) -> bytes:
    return b"".join(message_field(2, message_field(PUT_OP, encode_put(key, value, lease))) for key, value in items)


# -- the answers that the engine reads itself -------------------------------------------------------------------


def response_revision(response: bytes) -> int:
    """header.revision."""
    header = next(value for tag, value in read_fields(response) if tag == 1 << 3 | _BYTES and isinstance(value, bytes))
    return next((value for tag, value in read_fields(header) if tag == 3 << 3 and isinstance(value, int)), 0)


def response_deleted(response: bytes) -> int:
    return next((value for tag, value in read_fields(response) if tag == 2 << 3 and isinstance(value, int)), 0)
