"""The protobuf codecs of the embedded API against those of the pure-Python engine, written apart from them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastkv import messages
from fastkv.python import wire
from fastkv.types import Event, EventType, KeyValue

numbers = st.integers(-(1 << 63), (1 << 63) - 1)
revisions = st.integers(0, (1 << 63) - 1)
key_values = st.builds(KeyValue, st.binary(), st.binary(max_size=300), revisions, revisions, revisions, numbers)


@given(st.binary(), st.binary(max_size=300), numbers, st.booleans(), st.booleans(), st.booleans())
def test_put_request(key: bytes, value: bytes, lease: int, prev_kv: bool, keep_value: bool, keep_lease: bool) -> None:
    encoded = messages.put_request(key, value, lease, prev_kv=prev_kv, ignore_value=keep_value, ignore_lease=keep_lease)
    assert wire.PutRequest.decode(encoded) == wire.PutRequest(key, value, lease, prev_kv, keep_value, keep_lease)


@given(st.binary(), st.binary(), revisions, revisions, st.booleans(), st.booleans(), st.booleans())
def test_range_request(
    key: bytes, end: bytes, limit: int, revision: int, reverse: bool, keys_only: bool, count_only: bool
) -> None:
    encoded = messages.range_request(
        key, end, limit=limit, revision=revision, reverse=reverse, keys_only=keys_only, count_only=count_only
    )
    assert wire.RangeRequest.decode(encoded) == wire.RangeRequest(
        key,
        end,
        limit,
        revision,
        sort_order=wire.DESCEND if reverse else wire.NONE,
        keys_only=keys_only,
        count_only=count_only,
    )


@given(st.integers(0, 3), st.integers(0, 4), st.binary(), st.binary(), numbers, st.binary())
def test_compare_and_txn(result: int, target: int, key: bytes, end: bytes, number: int, value: bytes) -> None:
    operand = value if target == wire.VALUE else number
    one = messages.compare(result, target, key, end, operand)
    decoded = wire.Compare.decode(one)
    assert (decoded.result, decoded.target, decoded.key, decoded.range_end) == (result, target, key, end)
    assert decoded.operand == ((target, operand) if operand or target == wire.VALUE else None)
    put = messages.request_op(messages.PUT_OP, messages.put_request(key, value))
    delete = messages.request_op(messages.DELETE_OP, messages.delete_request(key, end, prev_kv=True))
    nested = messages.request_op(messages.TXN_OP, messages.txn_request([one], [put], [delete]))
    txn = wire.TxnRequest.decode(messages.txn_request([one, one], [put, nested], [delete]))
    inner = wire.TxnRequest([decoded], [wire.PutRequest(key, value)], [wire.DeleteRangeRequest(key, end, True)])
    assert txn == wire.TxnRequest([decoded, decoded], [wire.PutRequest(key, value), inner], inner.failure)


@given(key_values)
def test_key_value(kv: KeyValue) -> None:
    assert messages.key_value(wire.encode_key_value(kv)) == kv


@given(st.lists(st.tuples(key_values, st.booleans(), st.none() | key_values)))
def test_events(changes: list[tuple[KeyValue, bool, KeyValue | None]]) -> None:
    encoded = b"".join(wire.message_field(11, wire.encode_event(*change)) for change in changes)
    assert messages.events(encoded) == [
        Event(EventType.DELETE if deleted else EventType.PUT, kv, prev_kv) for kv, deleted, prev_kv in changes
    ]


@given(numbers)
def test_varints(number: int) -> None:
    encoded = messages.varint(number)
    assert wire.read_varint(encoded, 0) == (number & ((1 << 64) - 1), len(encoded))


def test_leases_and_compaction() -> None:
    assert wire.LeaseGrantRequest.decode(messages.lease_grant_request(60, 7)) == wire.LeaseGrantRequest(60, 7)
    assert wire.LeaseRevokeRequest.decode(messages.lease_revoke_request(-7)) == wire.LeaseRevokeRequest(-7)
    assert wire.CompactionRequest.decode(messages.compaction_request(300)) == wire.CompactionRequest(300)
