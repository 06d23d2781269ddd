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
    batch_origin,
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


# -- parts ----------------------------------------------------------------------------------------------------
def _unpack(data: bytes | memoryview, max_bytes: int, count: int) -> list[Any]:
    if len(data) > max_bytes:
        _fail(f"{len(data)} bytes, the limit is {max_bytes}")
    try:
        value = msgpack.unpackb(data, use_list=True, raw=False, strict_map_key=True)
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
    for item in packed:
        entry_term, number, data = _list(item, 3)
        kind = _ENTRY_KINDS.get(_u64(number))
        if kind is None:
            _fail(f"unknown kind of entry {number}")
        if not previous_term <= _u64(entry_term) <= term:
            _fail(f"an entry of term {entry_term} behind term {previous_term} in a message of term {term}")
        previous_term = entry_term
        index += 1
        entries.append(Entry(entry_term, index, kind, _blob(data)))
        if data:
            try:
                batch_origin(data)
            except ValueError as error:
                raise DecodeError(f"raft message: {error}") from error
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
