"""
What stands in the log's records (docs/format.md, "Log segment"): entries and hard states, to bytes and back.

    entry       term:u56 kind:u8 index:u64 data         kind 0: data is a batch of commands
    hard state  term:u64 vote:u64 commit:u63 alone:u1

Invariants: decode(encode(x)) == x; ValueError or struct.error for bytes that no encode has made.
Thread safety: values and pure functions.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

NORMAL, CONF_CHANGE, EMPTY = 0, 1, 2  # what an entry is: a batch, a change of membership (the node's), nothing to apply

INDEX_MAX = (1 << 63) - 1
TERM_MAX = (1 << 56) - 1

_ENTRY = struct.Struct("<QQ")
_HARD_STATE = struct.Struct("<QQQ")
_MARK = struct.Struct("<QQ")
_CLEAN = struct.Struct("<Q")
_BATCH = struct.Struct("<QQ")
_KIND_SHIFT = 56
_ALONE = 1 << 63


class Entry(NamedTuple):
    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    kind: int
    data: bytes

    def encode(self) -> bytes:
        return _ENTRY.pack(self.term | self.kind << _KIND_SHIFT, self.index) + self.data

    @classmethod
    def decode(cls, payload: bytes) -> Entry:
        word, index = _ENTRY.unpack_from(payload)
        entry = cls(word & TERM_MAX, index, word >> _KIND_SHIFT, payload[_ENTRY.size :])
        if not 0 < index <= INDEX_MAX or entry.kind > EMPTY:
            raise ValueError(f"no entry has index {index} and kind {entry.kind}")
        return entry

    @property
    def batch_id(self) -> tuple[int, int] | None:
        """(origin, sequence) of its batch; None if it has none."""
        return None if len(self.data) < _BATCH.size else _BATCH.unpack_from(self.data)


class HardState(NamedTuple):
    """alone: the writer was the only voter: what is behind `commit` is committed too, up to a change of membership."""

    term: int = 0
    vote: int = 0
    commit: int = 0
    alone: bool = False

    def encode(self) -> bytes:
        return _HARD_STATE.pack(self.term, self.vote, self.commit | (_ALONE if self.alone else 0))

    @classmethod
    def decode(cls, payload: bytes) -> HardState:
        term, vote, commit = _HARD_STATE.unpack(payload)
        return cls(term, vote, commit & ~_ALONE, bool(commit & _ALONE))


class Mark(NamedTuple):
    """The state up to here is in a checkpoint; the log goes on behind it."""

    index: int  # type: ignore[assignment]
    term: int

    def encode(self) -> bytes:
        return _MARK.pack(*self)

    @classmethod
    def decode(cls, payload: bytes) -> Mark:
        mark = cls(*_MARK.unpack(payload))
        if mark.index > INDEX_MAX:
            raise ValueError(f"no mark has index {mark.index}")
        return mark


def encode_clean(applied_index: int) -> bytes:
    return _CLEAN.pack(applied_index)


def decode_clean(payload: bytes) -> int:
    (applied_index,) = _CLEAN.unpack(payload)
    return int(applied_index)
