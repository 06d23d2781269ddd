"""The pure-Python engine by itself: what commands do, what survives, what is refused. No other engine, no server."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastkv import engine, errors
from fastkv.engine import ITEMS, KEY_VALUES, KEYS, NODELETE, NOPUT, VALUES, Options, WatchBatch
from fastkv.errors import Code
from fastkv.python import checkpoint, log, recovery, wire
from fastkv.python.crc32c import crc32c
from fastkv.python.engine import PythonEngine
from fastkv.python.storage import encode_batch
from fastkv.python.wire import bytes_field, int_field, message_field
from fastkv.types import KeyValue

FROM_KEY = b"\0"
ALL = (b"\0", b"\0")
SMALL = Options(segment_bytes_first=1024, segment_bytes_max=4096)


@pytest.fixture
def db() -> Iterator[PythonEngine]:
    with PythonEngine() as opened:
        yield opened
        assert opened.check() == []


# -- small builders: requests as a client would send them -----------------------------------------------------


def get(key: bytes, end: bytes = b"", **fields: int) -> bytes:
    return wire.RangeRequest(key=key, range_end=end, **fields).encode()


def put(key: bytes, value: bytes = b"", **fields: int) -> bytes:
    return wire.PutRequest(key=key, value=value, **fields).encode()


def delete(key: bytes, end: bytes = b"", prev_kv: bool = False) -> bytes:
    return wire.DeleteRangeRequest(key=key, range_end=end, prev_kv=prev_kv).encode()


def op(kind: int, request: bytes) -> bytes:
    return message_field(kind, request)


def put_op(*arguments: bytes, **fields: int) -> bytes:
    return op(wire.PUT_OP, put(*arguments, **fields))


def range_op(*arguments: bytes, **fields: int) -> bytes:
    return op(wire.RANGE_OP, get(*arguments, **fields))


def delete_op(*arguments: bytes) -> bytes:
    return op(wire.DELETE_OP, delete(*arguments))


def txn(then: list[bytes] = [], orelse: list[bytes] = [], compare: list[bytes] = []) -> bytes:  # noqa: B006 (only read)
    return b"".join(
        message_field(number, item) for number, items in ((1, compare), (2, then), (3, orelse)) for item in items
    )


def compare(key: bytes, target: int, operand: bytes = b"", result: int = wire.EQUAL, end: bytes = b"") -> bytes:
    """operand: the encoded target_union field."""
    return int_field(1, result) + int_field(2, target) + bytes_field(3, key) + operand + bytes_field(64, end)


def one(db: PythonEngine, tag: int, payload: bytes) -> tuple[int, bytes]:
    ((code, response),) = db.commit([(tag, payload)])
    return code, response


def ok(db: PythonEngine, tag: int, payload: bytes) -> bytes:
    code, response = one(db, tag, payload)
    assert code == 0, Code(code)
    return response


def decode_fields(message: bytes) -> list[tuple[int, int | bytes]]:
    return [(tag >> 3, value) for tag, value in wire.read_fields(message)]


def decode_range(response: bytes) -> tuple[list[KeyValue], bool, int]:
    fields = decode_fields(response)
    kvs = [wire.decode_key_value(value) for number, value in fields if number == 2 and isinstance(value, bytes)]
    return kvs, (3, 1) in fields, next((value for number, value in fields if number == 4), 0)  # type: ignore[return-value]


def keys_of(response: bytes) -> list[bytes]:
    return [kv.key for kv in decode_range(response)[0]]


def header(revision: int) -> bytes:
    return message_field(1, int_field(3, revision))


def compact(db: PythonEngine, revision: int) -> None:
    ok(db, engine.COMPACTION, int_field(1, revision))


def grant(db: PythonEngine, id: int, ttl: int = 60) -> bytes:
    return ok(db, engine.LEASE_GRANT, int_field(1, ttl) + int_field(2, id))


def decode_events(batches: list[WatchBatch]) -> list[tuple[int, bytes, int]]:
    """(type, key, mod_revision) of each event."""
    events = []
    for batch in batches:
        for number, event in decode_fields(batch.events):
            assert number == 11 and isinstance(event, bytes)
            fields = dict(decode_fields(event))
            kv = fields[2]
            assert isinstance(kv, bytes)
            decoded = wire.decode_key_value(kv)
            events.append((int(fields.get(1, 0)), decoded.key, decoded.mod_revision))  # type: ignore[arg-type]
    return events


# -- revisions, puts, deletes, ranges (numbers: etcd.md section 10) -----------------------------------------------


def test_an_empty_store_has_revision_1(db: PythonEngine) -> None:
    assert (db.revision, db.compact_revision, db.applied_index) == (1, -1, 0)
    assert db.range(get(b"a")) == header(1)


def test_a_put_counts_versions_and_shows_the_previous_value(db: PythonEngine) -> None:
    assert ok(db, engine.PUT, put(b"a", b"1")) == header(2)
    before = wire.encode_key_value(KeyValue(b"a", b"1", 2, 2, 1, 0))
    assert ok(db, engine.PUT, put(b"a", b"2", prev_kv=1)) == header(3) + message_field(2, before)
    assert decode_range(db.range(get(b"a"))) == ([KeyValue(b"a", b"2", 2, 3, 2, 0)], False, 1)


def test_a_header_carries_the_identity_that_was_set(db: PythonEngine) -> None:
    db.set_identity(7, 8, 9)
    assert ok(db, engine.PUT, put(b"a")) == message_field(1, b"\x08\x07\x10\x08\x18\x02\x20\x09")


def test_deleting_nothing_does_not_bump_the_revision(db: PythonEngine) -> None:
    assert db.delete(b"zz") == (0, 1)
    assert db.delete(b"x", b"a") == (0, 1)
    assert db.put(b"a", b"1") == 2


def test_a_deleted_key_starts_again_at_version_1(db: PythonEngine) -> None:
    db.put(b"a", b"1")
    assert ok(db, engine.DELETE_RANGE, delete(b"a", prev_kv=True))[len(header(3)) :] == int_field(2, 1) + message_field(
        3, wire.encode_key_value(KeyValue(b"a", b"1", 2, 2, 1, 0))
    )
    assert db.get(b"a") is None and db.get(b"a", b"?") == b"?"
    db.put(b"a", b"2")
    assert db.scan(b"a", b"", 0, 0, False, KEY_VALUES) == [KeyValue(b"a", b"2", 4, 4, 1, 0)]
    assert [flag for flag, _ in db.history(b"a")] == [0, 1, 0]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (put(b""), Code.EMPTY_KEY),
        (put(b"a", b"1", ignore_value=1), Code.VALUE_PROVIDED),
        (put(b"a", b"1", ignore_lease=1, lease=5), Code.LEASE_PROVIDED),
        (put(b"a", ignore_value=1), Code.KEY_NOT_FOUND),
        (put(b"a", b"1", lease=12345), Code.LEASE_NOT_FOUND),
        (put(b"a", ignore_value=1, lease=12345), Code.LEASE_NOT_FOUND),  # the lease is looked at first
        (b"\x0a\x05a", Code.MALFORMED),
        (b"\x0a", Code.MALFORMED),
        (b"\x18" + b"\xff" * 10 + b"\x01", Code.MALFORMED),
        (put(b"a") + b"\x18" + b"\xff" * 9 + b"\x02", Code.MALFORMED),  # 65 bits
        (put(b"a") + b"\x80\x80\x80\x80\x10\x00", Code.MALFORMED),  # a tag of 33 bits
        (b"\x0b\x0c", Code.MALFORMED),  # a group
        (b"\x00\x00", Code.MALFORMED),  # field number 0
    ],
)
def test_a_put_that_fails_changes_nothing(db: PythonEngine, payload: bytes, code: Code) -> None:
    assert one(db, engine.PUT, payload) == (code, b"")
    assert db.revision == 1


def test_unknown_fields_and_other_wire_types_are_skipped(db: PythonEngine) -> None:
    ok(
        db,
        engine.PUT,
        put(b"a", b"1") + b"\x50\x01" + b"\x59" + bytes(8) + b"\x5d" + bytes(4) + b"\x18\x00" + b"\x08\x09",
    )
    assert db.get(b"a") == b"1"


def test_ignore_value_and_ignore_lease_keep_what_was_there(db: PythonEngine) -> None:
    grant(db, 77)
    db.put(b"a", b"1", 77)
    ok(db, engine.PUT, put(b"a", b"2", ignore_lease=1))
    ok(db, engine.PUT, put(b"a", ignore_value=1))
    assert db.scan(b"a", b"", 0, 0, False, KEY_VALUES) == [KeyValue(b"a", b"2", 2, 4, 3, 0)]
    assert db.scan(b"a", b"", 3, 0, False, KEY_VALUES)[0].lease == 77


def test_reads_at_a_revision(db: PythonEngine) -> None:
    for value in (b"1", b"2", b"3"):
        db.put(b"a", value)
    assert [db.get(b"a", None, revision) for revision in (0, 1, 2, 3, 4, -5)] == [b"3", None, b"1", b"2", b"3", b"3"]
    assert db.range(get(b"a", revision=2)).startswith(header(4))
    with pytest.raises(errors.FutureRevisionError):
        db.get(b"a", None, 5)
    with pytest.raises(errors.FutureRevisionError):
        db.range(get(b"a", revision=1000))


def test_scan_orders_limits_and_shapes(db: PythonEngine) -> None:
    db.put_many([(b"c", b"3"), (b"a", b"1"), (b"b", b"2")])
    assert db.scan(*ALL, 0, 0, False, ITEMS) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    assert db.scan(*ALL, 0, 2, True, KEYS) == [b"c", b"b"]
    assert db.scan(b"a", b"c", 0, 0, False, VALUES) == [b"1", b"2"]
    assert db.scan(b"b", b"", 0, 0, False, KEYS) == [b"b"]
    assert db.scan(b"b", FROM_KEY, 0, 0, False, KEYS) == [b"b", b"c"]
    assert db.scan(b"c", b"a", 0, 0, False, KEYS) == []
    assert (db.count(*ALL), db.count(b"a", b"c"), db.count(b"a", b"c", 1)) == (3, 2, 0)


def test_a_scan_crosses_the_blocks_of_the_index(db: PythonEngine) -> None:
    keys = [b"%06d" % (number * 7919 % 5000) for number in range(5000)]
    db.put_many([(key, b"") for key in keys])
    assert db.scan(*ALL, 0, 0, False, KEYS) == sorted(keys)
    assert db.scan(b"001020", b"001030", 0, 0, False, KEYS) == [b"%06d" % number for number in range(1020, 1030)]
    assert db.check() == []


def test_range_sorts_filters_and_counts_as_etcd(db: PythonEngine) -> None:
    for key, value in zip((b"c0", b"c1", b"c2", b"c3", b"c4"), (b"9", b"8", b"7", b"6", b"5"), strict=True):
        db.put(key, value)
    among = (b"c", b"d")
    quirk = decode_range(db.range(get(*among, limit=2, sort_target=wire.BY_VALUE)))
    assert ([kv.key for kv in quirk[0]], *quirk[1:]) == ([b"c2", b"c1"], True, 5)
    explicit = db.range(get(*among, limit=2, sort_target=wire.BY_VALUE, sort_order=wire.ASCEND))
    assert keys_of(explicit) == [b"c4", b"c3"]
    assert keys_of(db.range(get(*among, sort_order=wire.DESCEND, limit=1))) == [b"c4"]
    assert keys_of(db.range(get(*among, sort_order=wire.DESCEND, sort_target=wire.BY_VERSION)))[0] == b"c0"  # ties
    assert decode_range(db.range(get(*among, min_mod_revision=1000))) == ([], False, 5)
    assert keys_of(db.range(get(*among, max_mod_revision=3))) == [b"c0", b"c1"]
    assert keys_of(db.range(get(*among, min_create_revision=5, max_create_revision=5))) == [b"c3"]
    assert decode_range(db.range(get(*among, count_only=1, limit=2))) == ([], False, 5)
    assert len(keys_of(db.range(get(*among, limit=-1)))) == 5
    assert decode_range(db.range(get(b"d", b"c"))) == ([], False, 0)


def test_keys_only_has_no_value_and_no_lease(db: PythonEngine) -> None:
    grant(db, 77)
    db.put(b"a", b"1", 77)
    assert decode_range(db.range(get(b"a", keys_only=1)))[0] == [KeyValue(b"a", b"", 2, 2, 1, 0)]
    by_value = db.range(get(b"a", keys_only=1, sort_target=wire.BY_VALUE))
    assert decode_range(by_value)[0] == [KeyValue(b"a", b"", 2, 2, 1, 77)]


@pytest.mark.parametrize("fields", [{"sort_order": 3}, {"sort_order": -1}, {"sort_target": 5}])
def test_an_unknown_sort_is_refused(db: PythonEngine, fields: dict[str, int]) -> None:
    with pytest.raises(errors.InvalidRequestError, match="invalid sort option"):
        db.range(get(b"a", **fields))


def test_a_range_in_chunks_is_the_range(db: PythonEngine) -> None:
    for number in range(50):
        db.put(b"k%02d" % number, b"v" * 100)
    for fields in ({}, {"limit": 20}, {"revision": 30}, {"limit": 50}, {"keys_only": 1}, {"count_only": 1, "limit": 3}):
        request = get(*ALL, **fields)
        whole = db.range(request)
        chunks = []
        following = request
        while following:
            chunk, following = db.range_chunk(following, 1000)
            chunks.append(chunk)
            if "revision" not in fields:  # else the last header says what is current then, as Range does
                db.put(b"k00", b"changed meanwhile")
        assert all(number == 2 for chunk in chunks[:-1] for number, _ in decode_fields(chunk))
        assert sorted(wire.read_fields(b"".join(chunks)), key=lambda field: field[0]) == list(wire.read_fields(whole))


@pytest.mark.parametrize(
    "fields", [{"sort_order": wire.DESCEND}, {"sort_target": wire.BY_VALUE}, {"min_mod_revision": 1}]
)
def test_a_range_in_chunks_refuses_sorting_and_filters(db: PythonEngine, fields: dict[str, int]) -> None:
    with pytest.raises(errors.UnsupportedError):
        db.range_chunk(get(*ALL, **fields), 1000)


# -- txn ------------------------------------------------------------------------------------------------------


def test_an_empty_txn_succeeds_and_changes_nothing(db: PythonEngine) -> None:
    assert ok(db, engine.TXN, b"") == header(1) + b"\x10\x01"


def test_the_responses_in_a_txn_carry_its_revision_only(db: PythonEngine) -> None:
    db.set_identity(7, 8, 9)
    response = ok(db, engine.TXN, txn([range_op(b"a"), put_op(b"a", b"1"), range_op(b"a"), op(wire.TXN_OP, b"")]))
    assert response == message_field(1, b"\x08\x07\x10\x08\x18\x02\x20\x09") + b"\x10\x01" + b"".join(
        message_field(3, message_field(*item))
        for item in (
            (1, header(1)),
            (2, header(2)),
            (1, header(2) + message_field(2, wire.encode_key_value(KeyValue(b"a", b"1", 2, 2, 1, 0))) + b"\x20\x01"),
            (4, b"\x0a\x00\x10\x01"),
        )
    )


def test_compares_see_the_state_before_the_txn_even_in_nested_ones(db: PythonEngine) -> None:
    inner = txn([range_op(b"nc")], compare=[compare(b"nc", wire.VERSION)])
    response = ok(db, engine.TXN, txn([put_op(b"nc", b"1"), op(wire.TXN_OP, inner)]))
    assert b"\x0a\x00\x10\x01" in response and b"nc" in response


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (compare(b"nope", wire.VALUE, message_field(7, b"x"), wire.NOT_EQUAL), False),
        (compare(b"nope", wire.VERSION), True),
        (compare(b"nope", wire.MOD), True),
        (compare(b"a", wire.VALUE, message_field(7, b"1")), True),
        (compare(b"a", wire.VALUE, message_field(7, b"0"), wire.GREATER), True),
        (compare(b"a", wire.VERSION, b"\x20\x01"), True),
        (compare(b"a", wire.CREATE, b"\x28\x02"), True),
        (compare(b"a", wire.MOD, b"\x30\x03", wire.LESS), True),
        (compare(b"a", wire.LEASE, b"\x40\x00"), True),
        (compare(b"a", wire.MOD, b"\x20\x02", wire.GREATER), True),  # the operand is for another target: 0
        (compare(b"a", wire.VALUE, message_field(7, b"1"), end=b"c"), False),  # b is 2: all keys must satisfy
        (compare(b"a", wire.VERSION, b"\x20\x01", end=b"c"), True),
        (compare(b"x", wire.VERSION, b"\x20\x01", end=b"z"), False),
        (compare(b"a", 9, result=wire.EQUAL), True),
        (compare(b"a", wire.VERSION, result=9), True),
    ],
)
def test_compare(db: PythonEngine, held: bytes, expected: bool) -> None:
    db.put(b"a", b"1")
    db.put(b"b", b"2")
    assert (ok(db, engine.TXN, txn(compare=[held]))[len(header(3)) :] == b"\x10\x01") is expected


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (txn([put_op(b"x"), put_op(b"x")]), Code.DUPLICATE_KEY),
        (txn([delete_op(b"x", b"z"), put_op(b"y")]), Code.DUPLICATE_KEY),
        (txn([put_op(b"y"), delete_op(b"x", b"z")]), Code.DUPLICATE_KEY),
        (txn([], [delete_op(b"y"), put_op(b"y")]), Code.DUPLICATE_KEY),
        (txn([put_op(b"s"), op(wire.TXN_OP, txn([put_op(b"s")]))]), Code.DUPLICATE_KEY),
        (txn([op(wire.TXN_OP, txn([put_op(b"s")], [put_op(b"s")]))]), Code.OK),
        (txn([op(wire.TXN_OP, txn([put_op(b"s")])), op(wire.TXN_OP, txn([delete_op(b"s")]))]), Code.OK),
        (txn([op(wire.TXN_OP, txn([delete_op(b"s")])), op(wire.TXN_OP, txn([put_op(b"s")]))]), Code.DUPLICATE_KEY),
        (txn([delete_op(b"x", b"z"), delete_op(b"y")]), Code.OK),
        (txn([b""]), Code.KEY_NOT_FOUND),
        (txn([], [b""]), Code.KEY_NOT_FOUND),
        (txn(compare=[compare(b"", wire.VERSION)]), Code.EMPTY_KEY),
        (txn([], [range_op(b"")]), Code.EMPTY_KEY),
        (txn([range_op(b"a", revision=1000)]), Code.FUTURE_REVISION),
        (txn([range_op(b"a", revision=-2)]), Code.COMPACTED),
        (txn([range_op(b"a", revision=-1)]), Code.OK),
        (txn([], [put_op(b"a", lease=999)]), Code.OK),  # the branch that is not taken
        (txn([put_op(b"a", lease=999)]), Code.LEASE_NOT_FOUND),
        (txn([put_op(b"a", lease=999, ignore_value=1)]), Code.LEASE_NOT_FOUND),
        (txn([put_op(b"a", lease=999), range_op(b"a", revision=1000)]), Code.LEASE_NOT_FOUND),  # in order
        (txn([range_op(b"a", revision=1000), put_op(b"a", lease=999)]), Code.FUTURE_REVISION),
        (txn([delete_op(b"a", FROM_KEY), put_op(b"b", ignore_value=1)]), Code.KEY_NOT_FOUND),
        (txn([put_op(b"b", ignore_value=1), delete_op(b"c", FROM_KEY)]), Code.OK),
    ],
)
def test_what_a_txn_is_refused_for(db: PythonEngine, payload: bytes, code: Code) -> None:
    db.put(b"b", b"1")
    before = db.hash()
    assert one(db, engine.TXN, payload)[0] == code
    assert code == Code.OK or db.hash() == before


def test_a_from_key_delete_runs_in_order_with_the_puts(db: PythonEngine) -> None:
    first = ok(db, engine.TXN, txn([delete_op(b"x", FROM_KEY), put_op(b"y", b"1")]))
    assert message_field(3, message_field(3, header(1))) in first and db.get(b"y") == b"1"
    second = ok(db, engine.TXN, txn([put_op(b"y2"), delete_op(b"y", FROM_KEY)]))
    assert message_field(3, message_field(3, header(3) + int_field(2, 2))) in second
    assert db.count(*ALL) == 0
    assert [(flag, wire.decode_key_value(kv).mod_revision) for flag, kv in db.history(b"y2")] == [(0, 3), (1, 3)]


def test_the_limit_of_ops_counts_nested_txns_and_is_not_logged() -> None:
    with PythonEngine(None, Options(max_txn_ops=128, max_request_bytes=10_000)) as db:
        puts = [put_op(b"k%03d" % number) for number in range(129)]
        assert one(db, engine.TXN, txn(puts)) == (Code.TOO_MANY_OPS, b"")
        nested = [put_op(b"n%03d" % number) for number in range(65)]
        assert one(db, engine.TXN, txn([*puts[:63], op(wire.TXN_OP, txn(nested))]))[0] == Code.TOO_MANY_OPS
        assert one(db, engine.PUT, put(b"a", bytes(10_000))) == (Code.REQUEST_TOO_LARGE, b"")
        assert one(db, 99, b"") == (Code.MALFORMED, b"")
        assert db.applied_index == 0
        assert one(db, engine.TXN, txn([*puts[:63], op(wire.TXN_OP, txn(nested[:64]))]))[0] == Code.OK
        answers = db.commit([(99, b""), (engine.PUT, put(b"a")), (engine.PUT, put(b"")), (engine.PUT, put(b"b"))])
        assert [code for code, _ in answers] == [Code.MALFORMED, 0, Code.EMPTY_KEY, 0]


def test_deep_nesting_is_refused_and_nothing_worse(db: PythonEngine) -> None:
    payload = b""
    for _ in range(2000):
        payload = txn([op(wire.TXN_OP, payload)])
    assert one(db, engine.TXN, payload)[0] == Code.TOO_MANY_OPS


# -- leases, alarms -------------------------------------------------------------------------------------------


def test_leases_are_granted_once_and_never_bump_the_revision(db: PythonEngine) -> None:
    assert grant(db, 77, 5) == header(1) + int_field(2, 77) + int_field(3, 5)
    assert one(db, engine.LEASE_GRANT, int_field(1, 5) + int_field(2, 77))[0] == Code.LEASE_EXISTS
    assert one(db, engine.LEASE_GRANT, int_field(1, 5))[0] == Code.MALFORMED
    assert one(db, engine.LEASE_GRANT, int_field(1, 9_000_000_001) + int_field(2, 77))[0] == Code.LEASE_TTL_TOO_LARGE
    grant(db, -3)
    assert db.leases() == [(-3, 60, 0), (77, 5, 0)]
    checkpoints = message_field(1, int_field(1, 77) + int_field(2, 3)) + message_field(1, int_field(1, 5))
    assert ok(db, engine.LEASE_CHECKPOINT, checkpoints) == b""
    assert db.leases() == [(-3, 60, 0), (77, 5, 3)] and db.revision == 1


def test_a_put_moves_its_key_between_leases(db: PythonEngine) -> None:
    grant(db, 77)
    grant(db, 78)
    db.put(b"a", b"1", 77)
    db.put(b"b", b"1", 77)
    assert db.lease_keys(77) == [b"a", b"b"]
    db.put(b"a", b"2", 78)
    db.put(b"b", b"2")
    assert (db.lease_keys(77), db.lease_keys(78), db.lease_keys(5)) == ([], [b"a"], [])
    db.delete(b"a")
    assert db.lease_keys(78) == []


def test_revoking_deletes_the_keys_in_order_in_one_revision(db: PythonEngine) -> None:
    grant(db, 77)
    for key in (b"z", b"y", b"x"):
        db.put(key, b"1", 77)
    watcher = db.watch(*ALL, 0, False, 0)
    assert ok(db, engine.LEASE_REVOKE, int_field(1, 77)) == header(5)
    (batch,) = db.watch_take(watcher, 1 << 20)
    assert batch.revision == 5 and decode_events([batch]) == [(1, b"x", 5), (1, b"y", 5), (1, b"z", 5)]
    assert one(db, engine.LEASE_REVOKE, int_field(1, 77))[0] == Code.LEASE_NOT_FOUND
    grant(db, 78)
    assert ok(db, engine.LEASE_REVOKE, int_field(1, 78)) == header(5)


def test_alarms_are_kept_until_they_are_deactivated(db: PythonEngine) -> None:
    nospace, corrupt = int_field(2, 5) + int_field(3, 1), int_field(2, 5) + int_field(3, 2)
    one_of = {number: message_field(2, int_field(1, 5) + int_field(2, number)) for number in (1, 2)}
    assert ok(db, engine.ALARM, int_field(1, 1) + nospace) == header(1) + one_of[1]
    assert ok(db, engine.ALARM, int_field(1, 1) + corrupt) == header(1) + one_of[2]
    assert ok(db, engine.ALARM, int_field(1, 1) + int_field(2, 5)) == header(1)  # NONE is no alarm
    assert ok(db, engine.ALARM, b"") == header(1) + one_of[1] + one_of[2]
    assert ok(db, engine.ALARM, int_field(3, 2)) == header(1) + one_of[2]
    assert ok(db, engine.ALARM, int_field(1, 2) + nospace) == header(1) + one_of[1]
    assert ok(db, engine.ALARM, int_field(1, 2) + nospace) == header(1)
    assert ok(db, engine.ALARM, b"") == header(1) + one_of[2]


def test_the_nospace_alarm_forbids_what_grows(db: PythonEngine) -> None:
    db.put(b"a", b"1")
    grant(db, 77)
    ok(db, engine.ALARM, int_field(1, 1) + int_field(2, 5) + int_field(3, 1))
    nested = op(wire.TXN_OP, txn([], [put_op(b"a")]))
    for tag, payload in (
        (engine.PUT, put(b"a", lease=999)),
        (engine.TXN, txn([range_op(b"a")], [put_op(b"a")])),
        (engine.TXN, txn([nested])),
        (engine.LEASE_GRANT, int_field(1, 5) + int_field(2, 78)),
    ):
        assert one(db, tag, payload) == (Code.NO_SPACE, b"")
    ok(db, engine.TXN, txn([range_op(b"a"), delete_op(b"a")]))
    ok(db, engine.LEASE_REVOKE, int_field(1, 77))
    compact(db, 3)
    ok(db, engine.ALARM, int_field(1, 2) + int_field(2, 5) + int_field(3, 1))
    assert db.put(b"a", b"2") == 4


# -- compaction, hashes ---------------------------------------------------------------------------------------


def test_compaction_refuses_what_is_below_and_what_is_not_yet(db: PythonEngine) -> None:
    for value in (b"1", b"2", b"3"):
        db.put(b"a", value)
    assert one(db, engine.COMPACTION, int_field(1, 9999))[0] == Code.FUTURE_REVISION
    compact(db, 3)
    assert one(db, engine.COMPACTION, int_field(1, 3))[0] == Code.COMPACTED
    assert db.get(b"a", None, 3) == b"2"
    with pytest.raises(errors.CompactedError) as caught:
        db.get(b"a", None, 2)
    assert caught.value.compact_revision == 3
    assert db.get(b"a", None, -1) == b"3"
    assert one(db, engine.TXN, txn([range_op(b"a", revision=-1)]))[0] == Code.COMPACTED


def test_compacting_at_0_works_once(db: PythonEngine) -> None:
    compact(db, 0)
    assert db.compact_revision == 0 and db.compact_step(1000)
    assert one(db, engine.COMPACTION, b"")[0] == Code.COMPACTED


def test_compaction_in_steps_forgets_what_nobody_can_read(db: PythonEngine) -> None:
    """A random-looking history, compacted at every revision: answers stay, and end where a fresh compaction ends."""
    keys = [b"a", b"b", b"c"]
    for number in range(40):
        key = keys[number * 7 % 3]
        if number % 4 == 3:
            db.delete(key)
        else:
            db.put(key, b"%d" % number)
    for revision in range(2, db.revision + 1, 3):
        readable = {at: db.scan(*ALL, at, 0, False, KEY_VALUES) for at in range(revision, db.revision + 1)}
        compact(db, revision)
        hashes = db.hash(), db.hash_kv(0)
        histories = [db.history(key) for key in keys]
        while not db.compact_step(2):
            assert db.check() == []
        assert {at: db.scan(*ALL, at, 0, False, KEY_VALUES) for at in readable} == readable
        assert (db.hash(), db.hash_kv(0)) == hashes and [db.history(key) for key in keys] == histories
        assert db.stats()["records"] == sum(map(len, histories))
        assert db.check() == []


def test_a_tombstone_exactly_at_the_compact_revision_stays(db: PythonEngine) -> None:
    db.put(b"a", b"1")
    db.delete(b"a")
    db.put(b"b", b"1")
    compact(db, 3)
    assert db.compact_step(1000)
    assert [flag for flag, _ in db.history(b"a")] == [1]
    assert decode_events(db.watch_take(db.watch(*ALL, 3, True, 0), 1 << 20)) == [(1, b"a", 3), (0, b"b", 4)]
    compact(db, 4)
    assert db.compact_step(1000)
    assert db.history(b"a") == [] and db.stats()["keys"] == db.stats()["records"] == 1


def test_hash_kv_is_etcds(db: PythonEngine) -> None:
    """The numbers are what a real etcd 3.7.3 answered for the same commands."""
    grant(db, 77)
    db.put(b"a", b"1")
    db.put(b"b", b"2", 77)
    db.delete(b"a")
    ok(db, engine.TXN, txn([put_op(b"c", b"3"), put_op(b"d", b"4")]))
    assert [db.hash_kv(revision) for revision in (0, 3)] == [(543556690, -1, 5), (1151892986, -1, 3)]
    compact(db, 4)
    assert db.hash_kv(0) == (3118865488, 4, 5)
    with pytest.raises(errors.FutureRevisionError):
        db.hash_kv(99999)
    with pytest.raises(errors.CompactedError):
        db.hash_kv(3)


def test_crc32c_is_castagnolis() -> None:
    """The check value of the CRC catalogue, and a checksum made in two pieces at every place."""
    assert crc32c(b"123456789") == 0xE3069283
    assert all(crc32c(b"123456789"[at:], crc32c(b"123456789"[:at])) == 0xE3069283 for at in range(10))


# -- watch ----------------------------------------------------------------------------------------------------


def test_a_watch_from_the_past_catches_up_then_follows_revision_by_revision(db: PythonEngine) -> None:
    db.put(b"a", b"1")
    db.put(b"x", b"1")
    db.delete(b"a")
    watcher = db.watch(b"a", b"c", 2, False, 0)
    assert db.watch_ready() == [watcher] and db.watch_ready() == []
    assert db.watch_progress(watcher) == -1
    (caught_up,) = db.watch_take(watcher, 1 << 20)
    assert caught_up.revision == 4 and decode_events([caught_up]) == [(0, b"a", 2), (1, b"a", 4)]
    assert db.watch_progress(watcher) == 4 and db.watch_take(watcher, 1 << 20) == []
    db.put(b"x", b"2")
    assert db.watch_ready() == [] and db.watch_progress(watcher) == 5
    db.put_many([(b"a", b"2"), (b"b", b"2")])
    db.put(b"a", b"3")
    assert db.watch_ready() == [watcher]
    batches = db.watch_take(watcher, 1 << 20)
    assert [batch.revision for batch in batches] == [6, 7]
    assert decode_events(batches) == [(0, b"a", 6), (0, b"b", 6), (0, b"a", 7)]


def test_a_watch_takes_whole_revisions_and_about_bytes_max(db: PythonEngine) -> None:
    for _ in range(3):
        db.put_many([(b"a", b"1" * 50), (b"b", b"1" * 50)])
    behind, live = db.watch(*ALL, 1, False, 0), db.watch(*ALL, 5, False, 0)
    taken = [db.watch_take(behind, 1) for _ in range(4)]
    assert [decode_events(batches) for batches in taken] == [[(0, b"a", at), (0, b"b", at)] for at in (2, 3, 4)] + [[]]
    assert [batch.revision for batches in taken for batch in batches] == [4, 4, 4]
    db.put(b"a", b"2")
    db.put(b"a", b"3")
    assert [[batch.revision for batch in db.watch_take(live, 1)] for _ in range(3)] == [[5], [6], []]


def test_prev_kv_is_the_value_before_the_revision(db: PythonEngine) -> None:
    db.put(b"a", b"1")
    db.put(b"a", b"2")
    db.delete(b"a")
    compact(db, 3)
    (batch,) = db.watch_take(db.watch(b"a", b"", 3, True, 0), 1 << 20)
    previous = [dict(decode_fields(event)).get(3) for _, event in decode_fields(batch.events)]  # type: ignore[arg-type]
    assert previous == [None, wire.encode_key_value(KeyValue(b"a", b"2", 2, 3, 2, 0))]  # of 3: compacted away
    created = db.watch(b"a", b"", 0, True, 0)
    db.put(b"a", b"3")
    (batch,) = db.watch_take(created, 1 << 20)
    assert dict(decode_fields(batch.events))[11] == wire.encode_event(KeyValue(b"a", b"3", 5, 5, 1, 0), False, None)


def test_filters_drop_puts_or_deletes(db: PythonEngine) -> None:
    puts, deletes = db.watch(*ALL, 0, False, NODELETE), db.watch(*ALL, 0, False, NOPUT)
    db.put(b"a", b"1")
    db.delete(b"a")
    assert decode_events(db.watch_take(puts, 1 << 20)) == [(0, b"a", 2)]
    assert decode_events(db.watch_take(deletes, 1 << 20)) == [(1, b"a", 3)]


def test_a_watch_in_the_future_waits_for_its_revision(db: PythonEngine) -> None:
    watcher = db.watch(*ALL, 4, False, 0)
    db.put(b"a", b"1")
    db.put(b"a", b"2")
    assert db.watch_progress(watcher) == -1 and db.watch_take(watcher, 1 << 20) == []
    db.put(b"a", b"3")
    assert decode_events(db.watch_take(watcher, 1 << 20)) == [(0, b"a", 4)]
    assert db.watch_progress(watcher) == 4


def test_a_watch_that_compaction_overtakes_says_so_once_and_ends(db: PythonEngine) -> None:
    slow = db.watch(*ALL, 0, False, 0)
    for value in (b"1", b"2", b"3"):
        db.put(b"a", value)
    compact(db, 3)
    assert db.compact_step(1000)
    late = db.watch(b"nothing here", b"", 1, False, 0)
    for watcher in (slow, late):
        assert db.watch_take(watcher, 1 << 20) == [WatchBatch(0, b"", 3)]
        assert db.watch_take(watcher, 1 << 20) == [] and db.watch_wait(watcher, 0)
    with pytest.raises(errors.CompactedError):
        db.watch(*ALL, -1, False, 0)


def test_a_slow_watcher_costs_numbers_only_and_misses_nothing(
    db: PythonEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastkv.python.watch.PENDING_MAX", 3)
    watcher = db.watch(*ALL, 0, False, 0)
    for number in range(10):
        db.put(b"a", b"%d" % number)
    batches = db.watch_take(watcher, 1 << 20)
    assert [at for _, _, at in decode_events(batches)] == list(range(2, 12)) and db.watch_progress(watcher) == 11


def test_waiting_ends_with_an_event_a_cancel_or_the_close() -> None:
    db = PythonEngine()
    watchers = [db.watch(*ALL, 0, False, 0), db.watch(b"other", b"", 0, False, 0), db.watch(b"third", b"", 0, False, 0)]
    assert not db.watch_wait(watchers[0], 0.001)
    woken: list[bool] = []
    threads = [
        threading.Thread(target=lambda watcher=watcher: woken.append(db.watch_wait(watcher, 60)))
        for watcher in watchers
    ]
    for thread in threads:
        thread.start()
    db.put(b"a", b"1")
    threads[0].join(60)
    db.watch_cancel(watchers[1])
    db.watch_cancel(12345)
    threads[1].join(60)
    db.close()
    threads[2].join(60)
    assert woken == [True] * 3


# -- the directory --------------------------------------------------------------------------------------------


def fill(db: PythonEngine) -> None:
    """A bit of everything, several segments long when they are SMALL."""
    db.write_meta(b"identity")
    grant(db, 77, 100)
    ok(db, engine.LEASE_CHECKPOINT, message_field(1, int_field(1, 77) + int_field(2, 9)))
    ok(db, engine.ALARM, int_field(1, 1) + int_field(2, 5) + int_field(3, 3))  # of no kind that forbids anything
    for number in range(100):
        db.put(b"k%02d" % (number % 30), b"v%d" % number * 5, 77 if number % 3 == 0 else 0)
        if number % 10 == 0:
            db.delete(b"k%02d" % (number % 7))
    one(db, engine.PUT, put(b""))
    compact(db, 50)


def state(db: PythonEngine) -> object:
    alarms = ok(db, engine.ALARM, b"")
    histories = [db.history(key) for key in (b"k%02d" % number for number in range(30))]
    return (
        db.hash(),
        db.revision,
        db.compact_revision,
        db.leases(),
        db.lease_keys(77),
        db.read_meta(),
        alarms,
        histories,
    )


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "data")


def segments(path: str) -> list[str]:
    return [segment for _, segment in recovery.segment_paths(os.path.join(path, "log"))]


def crash(db: PythonEngine) -> None:
    """Lets go of the files as the death of the process would."""
    assert db._storage is not None
    db._storage.release()
    db._closed = True


def overwrite(file: str, offset: int, data: bytes) -> None:
    with open(file, "r+b") as opened:
        opened.seek(offset)
        opened.write(data)


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("end", [PythonEngine.close, crash])
@pytest.mark.parametrize("checkpointed", [0, 1, 3])
def test_everything_is_there_after_a_reopen(path: str, sync: bool, end: object, checkpointed: int) -> None:
    db = PythonEngine(path, SMALL._replace(sync=sync))
    fill(db)
    for _ in range(checkpointed):
        assert db.checkpoint() == db.applied_index
        db.put(b"after", b"the checkpoint")
    expected, index = state(db), db.applied_index
    end(db)  # type: ignore[operator]
    for options in (SMALL, SMALL._replace(readonly=True), SMALL):
        with PythonEngine(path, options) as again:
            assert again.applied_index == index and again.check() == []
            if not options.readonly:
                assert state(again) == expected
                index = again.applied_index
            assert (again.stats()["checkpoint_index"] > 0) == (checkpointed > 0)
    assert checkpointed or len(segments(path)) > 2


def test_commands_that_failed_stand_in_the_log_and_fail_again(path: str) -> None:
    with PythonEngine(path, Options(max_txn_ops=1)) as db:
        assert one(db, engine.PUT, put(b"a", ignore_value=1))[0] == Code.KEY_NOT_FOUND
        assert one(db, engine.TXN, txn([put_op(b"b"), put_op(b"c")]))[0] == Code.TOO_MANY_OPS
        db.put(b"a", b"1")
        expected = db.hash()
    with PythonEngine(path) as db:
        assert (db.hash(), db.applied_index, db.revision) == (expected, 2, 2)


def test_a_torn_last_record_is_cut_and_said(path: str) -> None:
    db = PythonEngine(path)
    db.put(b"a", b"1")
    db.put(b"b", b"2" * 100)
    assert db._storage is not None
    end = db._storage.log._offset
    crash(db)
    (segment,) = segments(path)
    overwrite(segment, end - 60, bytes(60))
    lines: list[str] = []
    with PythonEngine(path, Options(readonly=True, log=lines.append)) as db:
        assert db.scan(*ALL, 0, 0, False, KEYS) == [b"a"]
    with PythonEngine(path, Options(log=lines.append)) as db:
        assert db.scan(*ALL, 0, 0, False, KEYS) == [b"a"]
        assert db.put(b"c", b"3") == 3
    assert len(lines) == 2 and "torn" in lines[1] and segment in lines[1]
    with PythonEngine(path, Options(log=lines.append)) as db:
        assert db.scan(*ALL, 0, 0, False, KEYS) == [b"a", b"c"]
    assert len(lines) == 2


def test_a_log_cut_at_any_byte_gives_a_prefix(path: str, tmp_path: Path) -> None:
    """Power loss without sync: however much reached the disk, the store opens with whole batches from the front."""
    db = PythonEngine(path, SMALL._replace(sync=False))
    for number in range(20):
        db.put_many([(b"a", b"%d" % number), (b"b", b"%d" % number)])
    crash(db)
    last = segments(path)[-1]
    size = os.path.getsize(last)
    seen = set()
    for length in range(0, size, 13):
        copy = str(tmp_path / "copy")
        shutil.copytree(path, copy)
        cut = segments(copy)[-1]
        os.truncate(cut, length)
        os.truncate(cut, size if length % 2 else length)  # a lost end reads as zeros, or is not there
        with PythonEngine(copy, SMALL) as again:
            assert again.get(b"a") == again.get(b"b") and again.check() == []
            assert again.applied_index == again.revision - 1
            seen.add(again.revision)
            again.put(b"c", b"goes on")
        with PythonEngine(copy, SMALL) as again:
            assert again.get(b"c") == b"goes on"
        shutil.rmtree(copy)
    assert max(seen) == 21 and len(seen) > 2


def test_damage_in_front_of_a_synced_record_is_refused_by_name(path: str) -> None:
    db = PythonEngine(path, SMALL)
    fill(db)
    crash(db)
    for segment in (segments(path)[0], segments(path)[-2], segments(path)[-1]):
        with open(segment, "rb") as file:
            original = file.read(200)
        payload = log.HEADER_BYTES + log.RECORD_BYTES
        overwrite(segment, payload, bytes([original[payload] ^ 1]))
        for options in (SMALL, SMALL._replace(readonly=True)):
            with pytest.raises(errors.CorruptError, match=f"{segment} is damaged at offset {log.HEADER_BYTES}"):
                PythonEngine(path, options)
        overwrite(segment, 0, original)
    os.rename(segments(path)[1], os.path.join(path, "elsewhere"))
    with pytest.raises(errors.CorruptError):
        PythonEngine(path, SMALL)
    os.rename(os.path.join(path, "elsewhere"), segments(path)[0].replace("01.log", "02.log"))
    os.unlink(segments(path)[0])
    with pytest.raises(errors.CorruptError, match="begins at entry"):
        PythonEngine(path, SMALL)


def test_a_clean_close_protects_the_last_record(path: str) -> None:
    with PythonEngine(path) as db:
        db.put(b"a", b"1")
    (segment,) = segments(path)
    overwrite(segment, log.HEADER_BYTES + 40, b"\xff")
    with pytest.raises(errors.CorruptError):
        PythonEngine(path)


def test_an_entry_at_or_below_the_last_index_cuts_the_log_back(path: str) -> None:
    """What a follower does when its leader disagrees; an embedded store only has to read it."""
    db = PythonEngine(path)
    db.put(b"a", b"1")
    db.put(b"a", b"2")
    db.put(b"a", b"3")
    assert db._storage is not None
    db._storage.log.append_entry(2, 2, encode_batch(2, [(engine.PUT, put(b"b", b"other"))]))
    crash(db)
    with PythonEngine(path) as db:
        assert db.scan(*ALL, 0, 0, False, ITEMS) == [(b"a", b"1"), (b"b", b"other")]
        assert (db.applied_index, db.revision) == (2, 3)


def test_a_checkpoint_is_read_back_as_it_was_written(path: str) -> None:
    with PythonEngine(path, SMALL) as db:
        fill(db)
        index = db.checkpoint()
        picture = checkpoint.read(os.path.join(path, "checkpoint", checkpoint.checkpoint_name(index)))
        assert checkpoint.state_hash(picture) == db.hash()
        assert (picture.meta, picture.alarms, picture.leases) == (b"identity", [(5, 3)], [(77, 100, 9)])
        store = checkpoint.restore_store(picture)
        assert store.check() == [] and store.hash_kv(0) == db.hash_kv(0)
        again = checkpoint.take_picture(store, picture.index, picture.term, picture.meta, picture.hard_state)
        assert (
            b"".join(checkpoint.encode(again))
            == Path(path, "checkpoint", checkpoint.checkpoint_name(index)).read_bytes()
        )


def test_every_flipped_byte_of_a_checkpoint_is_found(path: str) -> None:
    with PythonEngine(path) as db:
        grant(db, 77)
        db.put(b"a", b"1", 77)
        index = db.checkpoint()
    file = os.path.join(path, "checkpoint", checkpoint.checkpoint_name(index))
    original = Path(file).read_bytes()
    for offset in range(len(original)):
        overwrite(file, offset, bytes([original[offset] ^ 0x10]))
        with pytest.raises(errors.CorruptError, match=f"{file} is damaged at offset"):
            checkpoint.read(file)
        overwrite(file, offset, original[offset : offset + 1])
    for length in range(len(original)):
        os.truncate(file, length)
        with pytest.raises(errors.CorruptError):
            checkpoint.read(file)
        Path(file).write_bytes(original)


def test_a_damaged_checkpoint_needs_an_older_one_and_the_log(path: str) -> None:
    lines: list[str] = []
    with PythonEngine(path, SMALL) as db:
        fill(db)
        first = db.checkpoint()
        db.put(b"later", b"1")
        second = db.checkpoint()
        db.put(b"later", b"2")
        expected = db.hash()
    files = [os.path.join(path, "checkpoint", checkpoint.checkpoint_name(index)) for index in (first, second)]
    overwrite(files[1], 30, b"\xff")
    Path(files[1] + ".tmp").write_bytes(b"unfinished")
    with PythonEngine(path, SMALL._replace(log=lines.append)) as db:
        assert db.hash() == expected and db.stats()["checkpoint_index"] == first
    assert files[1] in lines[0] and not os.path.exists(files[1] + ".tmp")
    overwrite(files[0], 30, b"\xff")
    with pytest.raises(errors.CorruptError):
        PythonEngine(path, SMALL)


def test_checkpoints_make_old_segments_unnecessary(path: str) -> None:
    with PythonEngine(path, SMALL._replace(checkpoint_bytes=2000)) as db:
        for number in range(300):
            db.put(b"k%d" % (number % 10), bytes(40))
        assert db._checkpointer is not None
        db._checkpointer.join()
        assert db.stats()["checkpoint_index"] > 0
        assert db.checkpoint() == 300 and db.checkpoint() == 300
        db.put(b"a", b"1")
        db.checkpoint()
        assert sorted(os.listdir(os.path.join(path, "checkpoint"))) == [
            "000000000000012c.ckpt",
            "000000000000012d.ckpt",
        ]
        assert len(segments(path)) <= 2
        expected = db.hash()
    with PythonEngine(path) as db:
        assert db.hash() == expected


def test_segments_go_oldest_first_and_each_for_good(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    with PythonEngine(path, SMALL) as db:
        for number in range(100):
            db.put(b"k%d" % (number % 10), bytes(100))
        db.checkpoint()
        db.put(b"a", b"1")
        going = segments(path)[:-1]
        assert len(going) > 2
        unlink = os.unlink
        monkeypatch.setattr(os, "unlink", lambda file: (steps.append(file), unlink(file)))
        monkeypatch.setattr(log, "sync_directory", steps.append)
        db.checkpoint()
        assert steps == [step for file in going for step in (file, os.path.join(path, "log"))]


def test_a_long_log_gets_a_checkpoint_at_close(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastkv.python.engine.CLOSE_LOG_BYTES_MAX", 10_000)
    for size, checkpoints in ((5000, 0), (6000, 1), (5000, 1)):  # the log of the first open counts in the second
        with PythonEngine(path) as db:
            db.put(b"a", bytes(size))
        assert len(os.listdir(os.path.join(path, "checkpoint"))) == checkpoints


def test_threads_share_batches_and_lose_nothing(path: str) -> None:
    """Each batch is one record and one sync; callers that wait while one is written go together into the next."""
    with PythonEngine(path) as db:
        db._writing.acquire()  # as if a sync were under way
        threads = [threading.Thread(target=db.put, args=(b"%d" % number, b"1")) for number in range(8)]
        for thread in threads:
            thread.start()
        while len(db._queue) < 8:
            threading.Event().wait(0.001)
        db._writing.release()
        for thread in threads:
            thread.join()
        assert (db.applied_index, db.revision, db.stats()["batches"], db.stats()["syncs"]) == (1, 9, 1, 1)
    with PythonEngine(path) as db:
        assert db.count(*ALL) == 8


# -- whose directory ------------------------------------------------------------------------------------------


def test_a_second_open_is_refused_and_drops_no_lock(path: str) -> None:
    with PythonEngine(path) as db:
        for _ in range(2):
            with pytest.raises(errors.LockedError, match=f"{path} is already open in this process") as caught:
                PythonEngine(path)
            assert caught.value.pid == os.getpid()
        child = os.fork()
        if child == 0:
            os._exit(_exit_code_in_the_child(db, path))
        assert os.waitpid(child, 0)[1] == 0
        assert db.put(b"a", b"1") == 2
        with PythonEngine(path, Options(readonly=True)) as beside:
            assert beside.get(b"a") == b"1"
            with pytest.raises(errors.ReadOnlyError):
                beside.put(b"a", b"2")
    with PythonEngine(path) as db:
        assert db.get(b"a") == b"1"


def _exit_code_in_the_child(db: PythonEngine, path: str) -> int:
    try:
        db.put(b"a", b"from the child")
    except errors.ForkedError:
        db.close()
        try:
            PythonEngine(path)
        except errors.LockedError as error:
            return 0 if error.pid == os.getppid() and f"process {error.pid}" in str(error) else 3
        return 2
    return 1


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(errors.FormatError, match=f"{file} is a file"):
        PythonEngine(str(file))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "member").mkdir()
    with pytest.raises(errors.FormatError, match=f"{foreign} is not a fastkv directory"):
        PythonEngine(str(foreign))
    assert os.listdir(foreign) == ["member"]
    newer = tmp_path / "newer"
    newer.mkdir()
    for theirs, advice in ((3, "use a newer one"), (1, "written before fastkv 0.1.0")):
        (newer / "FASTKV").write_bytes(b"fastkv %d\n" % theirs)
        with pytest.raises(errors.FormatError, match=f"{newer} has format {theirs}, .*{advice}"):
            PythonEngine(str(newer))
    with pytest.raises(errors.StorageError, match="No such file"):
        PythonEngine(str(tmp_path / "missing"), Options(readonly=True))
    assert not (tmp_path / "missing").exists()


def test_everything_but_close_is_refused_once_closed(db: PythonEngine) -> None:
    closed = PythonEngine()
    closed.close()
    closed.close()
    assert closed.closed
    for call in (lambda: closed.put(b"a", b"1"), lambda: closed.get(b"a"), closed.stats, lambda: closed.revision):
        with pytest.raises(errors.ClosedError):
            call()


# -- a disk that fails ----------------------------------------------------------------------------------------


def test_a_failed_sync_ends_the_writes_and_not_the_reads(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    db = PythonEngine(path)
    db.put(b"a", b"1")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(log, "_sync_data", fail)
        with pytest.raises(errors.PoisonedError, match="could not be synced: Input/output error"):
            db.put(b"a", b"2")
    with pytest.raises(errors.PoisonedError, match="could not be synced"):
        db.put(b"a", b"3")
    assert db.get(b"a") == b"1"
    db.close()
    with PythonEngine(path) as db:
        assert db.get(b"a") in (b"1", b"2")


@pytest.mark.parametrize("function", ["_preallocate", "_write_all"])
def test_a_full_disk_refuses_the_write_and_loses_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    db = PythonEngine(path, SMALL)
    db.put(b"a", bytes(700))

    def fail(fd: int, *arguments: object) -> None:
        os.pwrite(fd, b"torn" * 40, int(arguments[-1]) if function == "_write_all" else 0)  # type: ignore[call-overload]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(log, function, fail)
        for size in (900, 900) if function == "_preallocate" else (900, 100, 900):  # 100: in the segment that is there
            with pytest.raises(errors.QuotaError, match=f"{path}.*No space"):
                db.put(b"a", bytes(size))
        assert db.get(b"a") == bytes(700)
    assert db.put(b"b", b"1") == 3
    expected = db.hash()
    crash(db)
    lines: list[str] = []
    with PythonEngine(path, SMALL._replace(log=lines.append)) as db:
        assert (db.hash(), db.applied_index, lines) == (expected, 2, [])


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no space: no posix_fallocate")
def test_a_nearly_full_disk_is_used_to_its_end(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    allocate, room = os.posix_fallocate, 20 << 10

    def limited(fd: int, offset: int, size: int) -> None:
        nonlocal room
        if size > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        room -= size
        allocate(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", limited)
    with PythonEngine(path, SMALL._replace(segment_bytes_first=64 << 10, segment_bytes_max=64 << 10)) as db:
        puts = 0
        with pytest.raises(errors.QuotaError, match="No space"):
            while puts < 100:
                db.put(b"a", bytes(1000))
                puts += 1
        assert puts >= 17
    with PythonEngine(path) as db:
        assert db.revision == 1 + puts


def test_an_interrupted_write_ends_the_writes(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with PythonEngine(path) as db:
        db.put(b"a", b"1")

        def interrupt(*arguments: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(db._store, "apply", interrupt)
            with pytest.raises(KeyboardInterrupt):
                db.put(b"a", b"2")
        with pytest.raises(errors.PoisonedError, match="interrupted"):
            db.put(b"a", b"3")
        assert db.get(b"a") == b"1"
    with PythonEngine(path) as db:
        assert db.get(b"a") == b"2"  # it was in the log
