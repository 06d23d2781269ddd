"""
Messages as msgpack, strictly.

    message  := [kind, to, sender, term, index, log_term, commit, reject, hint, context, session, force, entries,
    snapshot] entries  := [[term, kind, data] ...]           the index of each follows from the message's
    snapshot := nil | [index, term, conf, data]
    conf     := [voters, learners, voters_outgoing, learners_next, auto_leave]
    change   := [transition, [[kind, member] ...], context]       what a CONF_CHANGE entry holds behind its header

Integers are unsigned with at most 64 bits. Whatever else comes in is a DecodeError and nothing but that: another type,
a missing or an extra field, bytes behind the end, an unknown kind, terms that fall, ids out of order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NoReturn

import msgpack

from fastkv.raft.messages import (
    BATCH_HEADER_BYTES,
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
)

_U64 = 1 << 64
_KINDS = {int(kind): kind for kind in Kind}
_ENTRY_KINDS = {int(kind): kind for kind in EntryKind}
_CHANGE_KINDS = {int(kind): kind for kind in ChangeKind}
_TRANSITIONS = {int(transition): transition for transition in Transition}


class DecodeError(ValueError):
    """These bytes are no message."""


def _fail(what: str) -> NoReturn:
    raise DecodeError(f"raft message: {what}")


def encode_message(message: Message) -> bytes:
    """The bytes of one message."""
    snapshot = message.snapshot
    packed: bytes = msgpack.packb(
        (
            int(message.kind),
            message.to,
            message.sender,
            message.term,
            message.index,
            message.log_term,
            message.commit,
            message.reject,
            message.hint,
            message.context,
            message.session,
            message.force,
            [(term, int(kind), data) for term, _, kind, data in message.entries],
            None if snapshot is None else (snapshot.index, snapshot.term, snapshot.conf, snapshot.data),
        )
    )
    return packed


def decode_message(data: bytes | memoryview, max_bytes: int = 1 << 30) -> Message:
    """The message in these bytes, all of them. DecodeError, also if there are more than max_bytes."""
    _check_shape(data, max_bytes)
    fields = _unpack(data, max_bytes, 14)
    kind, to, sender, term, index, log_term, commit, reject, hint, context, session, force, packed, snapshot = fields
    for number in (to, sender, term, index, log_term, commit, hint, context, session):
        _u64(number)
    _flag(reject)
    _flag(force)
    if to == 0 or sender == 0:
        _fail("a message from or to nobody")
    known = _KINDS.get(_u64(kind))
    if known is None:
        _fail(f"unknown kind {kind}")
    if (snapshot is not None) != (known is Kind.SNAPSHOT):
        _fail(f"{known.name} with a snapshot, or SNAPSHOT without one")
    if type(packed) is not list or (packed and known not in (Kind.APPEND, Kind.PROPOSE)):
        _fail(f"entries in {known.name}")
    return Message(
        known, to, sender, term, index, log_term, commit, _entries(packed, index, log_term, term), reject, hint,
        context, session, force, None if snapshot is None else _snapshot(snapshot),
    )  # fmt: skip


def encode_conf_change(change: ConfChange) -> bytes:
    """What stands behind the header of a CONF_CHANGE entry's data."""
    packed: bytes = msgpack.packb(
        (int(change.transition), [(int(kind), member) for kind, member in change.changes], change.context)
    )
    return packed


def decode_conf_change(data: bytes) -> ConfChange:
    """The inverse; DecodeError."""
    transition, steps, context = _unpack(data, 1 << 20, 3)
    known = _TRANSITIONS.get(_u64(transition))
    if known is None:
        _fail(f"unknown transition {transition}")
    changes = []
    for step in _list(steps):
        kind, member = _list(step, 2)
        change_kind = _CHANGE_KINDS.get(_u64(kind))
        if change_kind is None:
            _fail(f"unknown change {kind}")
        changes.append(Change(change_kind, _u64(member)))
    return ConfChange(tuple(changes), known, _blob(context))


# -- shape ----------------------------------------------------------------------------------------------------
# msgpack believes a list's length and takes memory for it before the items come, at every level: a few kilobytes can
# ask for gigabytes. So lists are looked at before they are made, and only where the grammar has them.
_SMALL_BYTES = 4096  # in so little they ask for some megabytes at most
_ENTRIES_MAX = 1 << 18
_CONF_LISTS = 4
_SCALARS = bytearray(256)  # first byte -> bytes of a number, true, false, nil or empty string; 0: something else
for _first in (*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3):
    _SCALARS[_first] = 1
for _first, _size in ((0xCC, 2), (0xCD, 3), (0xCE, 5), (0xCF, 9), (0xD0, 2), (0xD1, 3), (0xD2, 5), (0xD3, 9)):
    _SCALARS[_first] = _size


def _check_shape(data: bytes | memoryview, max_bytes: int) -> None:
    if not _SMALL_BYTES < len(data) <= max_bytes:
        return
    try:
        pos = _skip_scalars(data, _skip_list(data, 0, 14)[0], 12)
        pos, count = _skip_list(data, pos)
        if count > _ENTRIES_MAX:
            _fail(f"{count} entries, the limit is {_ENTRIES_MAX}")
        for _ in range(count):
            # _skip_list, _skip_scalars and _skip_blob for the usual shape, without the calls: there are many entries.
            one = _SCALARS[data[pos + 1]]
            two = _SCALARS[data[pos + 1 + one]]
            at = pos + 1 + one + two
            if data[pos] == 0x93 and one and two and data[at] == 0xC4:
                pos = at + 2 + data[at + 1]
            else:
                pos = _skip_blob(data, _skip_scalars(data, _skip_list(data, pos, 3)[0], 2))
        if data[pos] != 0xC0:
            pos = _skip_scalars(data, _skip_list(data, pos, 4)[0], 2)
            pos, _ = _skip_list(data, pos, 5)
            for _ in range(_CONF_LISTS):
                pos, count = _skip_list(data, pos)
                pos = _skip_scalars(data, pos, count)
    except IndexError:
        raise DecodeError("raft message: it ends too early") from None


def _skip_scalars(data: bytes | memoryview, pos: int, count: int) -> int:
    for _ in range(count):
        size = _SCALARS[data[pos]]
        if not size:
            _fail("a list, a map or text where a number belongs")
        pos += size
    return pos


def _skip_list(data: bytes | memoryview, pos: int, count: int = -1) -> tuple[int, int]:
    """(where its items begin, how many there are)."""
    first = data[pos]
    if first & 0xF0 == 0x90:
        found, pos = first & 0x0F, pos + 1
    elif first in (0xDC, 0xDD):
        size = 2 if first == 0xDC else 4
        found, pos = int.from_bytes(data[pos + 1 : pos + 1 + size], "big"), pos + 1 + size
    else:
        _fail("something else where a list belongs")
    if count >= 0 and found != count:
        _fail(f"a list of {found} items, not {count}")
    return pos, found


def _skip_blob(data: bytes | memoryview, pos: int) -> int:
    first = data[pos]
    if not 0xC4 <= first <= 0xC6:
        _fail("something else where a byte string belongs")
    size = 1 << (first - 0xC4)
    return pos + 1 + size + int.from_bytes(data[pos + 1 : pos + 1 + size], "big")


# -- parts ----------------------------------------------------------------------------------------------------
def _unpack(data: bytes | memoryview, max_bytes: int, count: int) -> list[Any]:
    if len(data) > max_bytes:
        _fail(f"{len(data)} bytes, the limit is {max_bytes}")
    try:
        value = msgpack.unpackb(data, use_list=True, raw=False, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise DecodeError(f"raft message: {type(error).__name__}: {error}") from error
    return _list(value, count)


def _u64(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _U64:
        _fail(f"{value!r:.40} is no unsigned number")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        _fail(f"{value!r:.40} is neither true nor false")
    return value


def _blob(value: Any) -> bytes:
    if type(value) is not bytes:
        _fail(f"{value!r:.40} is no byte string")
    return value


def _list(value: Any, count: int = -1) -> list[Any]:
    if type(value) is not list or (count >= 0 and len(value) != count):
        _fail(f"{value!r:.40} is no list of {count if count >= 0 else 'any'} items")
    return value


def _entries(packed: list[Any], index: int, previous_term: int, term: int) -> tuple[Entry, ...]:
    entries = []
    normal = EntryKind.NORMAL
    for item in packed:
        entry_term, number, data = item if type(item) is list and len(item) == 3 else _list(item, 3)
        kind = normal if number == 0 and type(number) is int else _ENTRY_KINDS.get(_u64(number))
        if kind is None:
            _fail(f"unknown kind of entry {number}")
        if type(entry_term) is not int or not previous_term <= entry_term <= term:
            _fail(f"an entry of term {_u64(entry_term)} behind term {previous_term} in a message of term {term}")
        previous_term = entry_term
        index += 1
        entries.append(Entry(entry_term, index, kind, data if type(data) is bytes else _blob(data)))
        if 0 < len(data) < BATCH_HEADER_BYTES:
            _fail(f"a batch of {len(data)} bytes has no header of {BATCH_HEADER_BYTES} bytes")
    return tuple(entries)


def _snapshot(value: Any) -> Snapshot:
    index, term, conf, data = _list(value, 4)
    voters, learners, outgoing, learners_next, auto_leave = _list(conf, 5)
    state = ConfState(_ids(voters), _ids(learners), _ids(outgoing), _ids(learners_next), _flag(auto_leave))
    return Snapshot(_u64(index), _u64(term), state, _blob(data))


def _ids(value: Any) -> tuple[int, ...]:
    ids = tuple(_u64(member) for member in _list(value))
    if any(low >= high for low, high in pairwise((0, *ids))):
        _fail("member ids must ascend and not be 0")
    return ids
