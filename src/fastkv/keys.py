"""
What callers may pass for keys, values and ranges of keys, and how it becomes the engine's bytes.

    "a", b"a", bytearray(b"a"), memoryview(b"a")   ->   b"a"            str is encoded as UTF-8
    prefix="ab"                                    ->   [b"ab", b"ac")
    start="a", stop="c"                            ->   [b"a", b"c")    stop is not included
    start="a"  or  stop="c"  or neither            ->   open on that side

An engine's range is etcd's: `end` b"" is the single key `start`, `end` b"\0" has no upper bound. A range that can hold
nothing is `NOTHING`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from fastkv.errors import Code, InvalidRequestError, from_code

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    Bytes: TypeAlias = str | ReadableBuffer
else:
    Bytes = Any

FIRST = UNBOUNDED = b"\0"
NOTHING = (b"\1", b"\1")


def as_bytes(data: Bytes) -> bytes:
    """`data` as the engine wants it. TypeError for what is neither a str nor a buffer."""
    if type(data) is bytes:
        return data
    if isinstance(data, str):
        return data.encode()
    try:
        return bytes(memoryview(data))  # through memoryview, because bytes(5) is five zero bytes
    except TypeError:
        raise TypeError(f"a key or value is bytes, str or another buffer, not {type(data).__name__}") from None


def as_key(key: Bytes) -> bytes:
    """`as_bytes`, and not empty."""
    data = as_bytes(key)
    if not data:
        raise from_code(Code.EMPTY_KEY)
    return data


def prefix_end(prefix: bytes) -> bytes:
    """The smallest key above every key with this prefix; UNBOUNDED if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else UNBOUNDED


def key_range(prefix: Bytes | None, start: Bytes | None, stop: Bytes | None) -> tuple[bytes, bytes]:
    """The engine's (start, end) for `prefix`, or for `start` and `stop`; all keys if none is given."""
    if prefix is not None:
        if start is not None or stop is not None:
            raise TypeError("give either prefix or start and stop, not both")
        first = as_bytes(prefix)
        return first or FIRST, prefix_end(first)
    first = FIRST if start is None else as_bytes(start) or FIRST
    if stop is None:
        return first, UNBOUNDED
    end = as_bytes(stop)
    return (first, end) if first < end else NOTHING


def key_or_range(
    what: str, key: Bytes | None, prefix: Bytes | None, start: Bytes | None, stop: Bytes | None
) -> tuple[bytes, bytes]:
    """`key_range`, or the single `key`. With nothing given: TypeError, since `what` must not mean everything by
    accident."""
    if key is not None:
        if prefix is not None or start is not None or stop is not None:
            raise TypeError(f"{what}: give a key, a prefix, or start and stop, not several of them")
        return as_key(key), b""
    if prefix is None and start is None and stop is None:
        raise TypeError(f'{what}: give a key, prefix= or start=/stop=; prefix="" stands for every key')
    return key_range(prefix, start, stop)


def as_revision(revision: int | None, name: str = "rev") -> int:
    """A revision that a caller asked for; None and 0 stand for the latest."""
    if revision is None:
        return 0
    if not isinstance(revision, int) or isinstance(revision, bool):
        raise TypeError(f"{name} is an int, not {type(revision).__name__}")
    if revision < 0:
        raise InvalidRequestError(f"{name} is a revision (from 1) or 0 for the latest, not {revision}")
    return revision


def as_count(count: int | None, name: str) -> int:
    """A number of things; None and 0 stand for all of them."""
    if count is None:
        return 0
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"{name} is an int, not {type(count).__name__}")
    if count < 0:
        raise InvalidRequestError(f"{name} is 0 (no limit) or more, not {count}")
    return count


def raise_for(code: int) -> None:
    """Raise the error for an engine's status number, if it is one."""
    if code:
        raise from_code(code)
