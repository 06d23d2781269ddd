"""Messages as msgpack: every message survives, no other bytes get through (codec.py)."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkv.raft import (
    Change,
    ChangeKind,
    ConfChange,
    ConfState,
    Entry,
    EntryKind,
    Kind,
    Message,
    Snapshot,
    Transition,
    make_batch,
)
from fastkv.raft.codec import DecodeError, decode_conf_change, decode_message, encode_conf_change, encode_message

U64 = st.integers(0, 2**64 - 1)
IDS = st.lists(st.integers(1, 2**64 - 1), unique=True, max_size=7).map(lambda ids: tuple(sorted(ids)))
CONF = st.builds(ConfState, IDS, IDS, IDS, IDS, st.booleans())
DATA = st.one_of(st.just(b""), st.builds(make_batch, U64, U64, st.binary(max_size=40)))


@st.composite
def messages(draw: st.DrawFn) -> Message:
    kind = draw(st.sampled_from(Kind))
    index = draw(st.integers(0, 2**63))
    terms = sorted(draw(st.lists(U64, min_size=2, max_size=6)))
    entries: tuple[Entry, ...] = ()
    if kind in (Kind.APPEND, Kind.PROPOSE):
        entries = tuple(
            Entry(term, index + place, draw(st.sampled_from(EntryKind)), draw(DATA))
            for place, term in enumerate(terms[1:-1], 1)
        )
    snapshot = draw(st.builds(Snapshot, U64, U64, CONF, st.binary(max_size=20))) if kind is Kind.SNAPSHOT else None
    return Message(
        kind, draw(U64.filter(bool)), draw(U64.filter(bool)), terms[-1], index, terms[0], draw(U64), entries,
        draw(st.booleans()), draw(U64), draw(U64), draw(U64), draw(st.booleans()), snapshot,
    )  # fmt: skip


CHANGES = st.builds(
    ConfChange,
    st.lists(st.builds(Change, st.sampled_from(ChangeKind), U64), max_size=5).map(tuple),
    st.sampled_from(Transition),
    st.binary(max_size=30),
)


@given(messages())
@settings(max_examples=300, deadline=None)
def test_every_message_survives(message: Message) -> None:
    again = decode_message(encode_message(message))
    assert again == message
    assert type(again.kind) is Kind and all(type(entry.kind) is EntryKind for entry in again.entries)


@given(CHANGES)
@settings(deadline=None)
def test_every_change_of_membership_survives(change: ConfChange) -> None:
    assert decode_conf_change(encode_conf_change(change)) == change


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_random_bytes_raise_a_decode_error_and_nothing_else(data: bytes) -> None:
    for decode in (decode_message, decode_conf_change):
        with contextlib.suppress(DecodeError):
            decode(data)


@given(messages(), st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_damaged_messages_raise_a_decode_error_or_are_other_messages(message: Message, seed: int) -> None:
    generator = random.Random(seed)
    data = bytearray(encode_message(message))
    for _ in range(generator.randrange(1, 4)):
        match generator.randrange(4):
            case 0:
                data[generator.randrange(len(data))] = generator.randrange(256)
            case 1:
                del data[generator.randrange(len(data)) :]
                data += b"\xc0"
            case 2:
                data.insert(generator.randrange(len(data)), generator.randrange(256))
            case _:
                data += data[generator.randrange(len(data)) :]
    with contextlib.suppress(DecodeError):
        decoded = decode_message(bytes(data))
        assert decode_message(encode_message(decoded)) == decoded


VALID: list[Any] = [int(Kind.APPEND), 1, 2, 3, 0, 0, 0, False, 0, 0, 0, False, [[1, 0, b""]], None]
SNAPSHOT: list[Any] = [*VALID[:12], [], [1, 1, [[1], [], [], [], False], b""]]
SNAPSHOT[0] = int(Kind.SNAPSHOT)


def test_the_valid_ones_of_the_next_test_are_valid() -> None:
    assert decode_message(msgpack.packb(VALID)).entries == (Entry(1, 1, EntryKind.NORMAL, b""),)
    assert decode_message(msgpack.packb(SNAPSHOT)).snapshot == Snapshot(1, 1, ConfState((1,)))


@pytest.mark.parametrize(
    ("base", "place", "value", "why"),
    [
        (VALID, 0, 99, "unknown kind"),
        (VALID, 0, True, "no unsigned number"),
        (VALID, 1, 0, "from or to nobody"),
        (VALID, 2, 0, "from or to nobody"),
        (VALID, 3, -1, "no unsigned number"),
        (VALID, 3, 1.5, "no unsigned number"),
        (VALID, 4, "4", "no unsigned number"),
        (VALID, 7, 1, "neither true nor false"),
        (VALID, 11, None, "neither true nor false"),
        (VALID, 12, None, "entries in APPEND"),
        (VALID, 12, [[1, 0]], "no list of 3"),
        (VALID, 12, [[1, 7, b""]], "unknown kind of entry"),
        (VALID, 12, [[1, 0, "text"]], "no byte string"),
        (VALID, 12, [[4, 0, b""]], "an entry of term 4"),
        (VALID, 12, [[2, 0, b""], [1, 0, b""]], "an entry of term 1 behind term 2"),
        (VALID, 12, [[1, 0, b"short"]], "no header"),
        (VALID, 13, [1, 1, [[1], [], [], [], False], b""], "with a snapshot"),
        (VALID, 0, int(Kind.HEARTBEAT), "entries in HEARTBEAT"),
        (SNAPSHOT, 13, None, "SNAPSHOT without one"),
        (SNAPSHOT, 13, [1, 1, [[1], [], [], []], b""], "no list of 5"),
        (SNAPSHOT, 13, [1, 1, [[2, 1], [], [], [], False], b""], "must ascend"),
        (SNAPSHOT, 13, [1, 1, [[0], [], [], [], False], b""], "must ascend"),
        (SNAPSHOT, 13, [1, 1, [[1], [], [], [], 0], b""], "neither true nor false"),
    ],
)
def test_each_rule_of_the_format_is_checked(base: list[Any], place: int, value: Any, why: str) -> None:
    fields = list(base)
    fields[place] = value
    with pytest.raises(DecodeError, match=why):
        decode_message(msgpack.packb(fields))


def test_missing_and_extra_fields_and_bytes_behind_the_end_are_refused() -> None:
    for bad in (VALID[:-1], [*VALID, None], {}, None, 5):
        with pytest.raises(DecodeError):
            decode_message(msgpack.packb(bad))
    with pytest.raises(DecodeError):
        decode_message(msgpack.packb(VALID) + b"\x00")


def test_a_message_beyond_the_size_limit_is_refused_before_it_is_read() -> None:
    data = encode_message(Message(Kind.APPEND, 1, 2, 3, entries=(Entry(3, 1, EntryKind.NORMAL, bytes(100)),)))
    assert decode_message(data, max_bytes=len(data)).entries
    with pytest.raises(DecodeError, match="the limit is"):
        decode_message(data, max_bytes=len(data) - 1)


def test_lengths_that_promise_more_than_there_is_allocate_nothing() -> None:
    for data in (
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\xc9\xff\xff\xff\xff\x01",
    ):
        with pytest.raises(DecodeError):
            decode_message(data)


def test_nested_lists_take_no_more_memory_than_the_bytes_allow() -> None:
    size = 1 << 20
    for start in (b"", msgpack.packb(VALID)[:-2]):  # from the beginning, and where the entries belong
        bomb = start + b"\xdd" + (size // 2).to_bytes(4, "big")
        data = (bomb + bomb[-5:] * 900).ljust(size, b"\x01")
        tracemalloc.start()
        try:
            with pytest.raises(DecodeError):
                decode_message(data)
            assert tracemalloc.get_traced_memory()[1] < 32 * size
        finally:
            tracemalloc.stop()


def test_messages_of_many_entries_survive() -> None:
    """Above the size from which a message's shape is checked before it is unpacked."""
    for count, size in ((1, 5000), (15, 400), (16, 400), (300, 16), (70_000, 16)):
        entries = tuple(
            Entry(3, index, EntryKind.NORMAL, make_batch(1, index, bytes(size))) for index in range(6, 6 + count)
        )
        message = Message(Kind.APPEND, 1, 2, 3, 5, 2, 4, entries)
        assert decode_message(memoryview(encode_message(message))) == message
    conf = ConfState(tuple(range(1, 3000)), (5000,))
    message = Message(Kind.SNAPSHOT, 1, 2, 3, snapshot=Snapshot(4, 3, conf, bytes(5000)))
    assert decode_message(encode_message(message)) == message


def test_too_many_entries_are_refused() -> None:
    entry = Entry(3, 1, EntryKind.EMPTY, b"")
    message = Message(Kind.APPEND, 1, 2, 3, 0, 0, 0, (entry,) * ((1 << 18) + 1))
    with pytest.raises(DecodeError, match="entries, the limit is"):
        decode_message(encode_message(message))
