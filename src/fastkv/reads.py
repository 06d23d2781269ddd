"""
Reading: the methods that the store and its views at a revision have in common.

Owns the lazy iteration over a range: it is fetched in chunks, every chunk at the one revision that was the newest when
the iterator was made (or that was asked for), so that a loop over everything sees one state of the store whatever is
written meanwhile, costs a thousand items of memory, and blocks nobody.

Invariants:
* an iterator sees exactly one revision. If that is compacted away before the iterator ends, it raises CompactedError:
  never fewer items in silence.
* every method may be called from any thread; one iterator belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from operator import itemgetter
from typing import Any, TypeVar, overload

from fastkv.engine import ITEMS, KEY_VALUES, KEYS, Engine
from fastkv.errors import CompactedError, InvalidRequestError
from fastkv.keys import FIRST, UNBOUNDED, Bytes, as_count, as_key, as_revision, key_or_range, key_range
from fastkv.types import KeyValue

CHUNK = 1000

Default = TypeVar("Default")


class Reader(Mapping[bytes, bytes]):
    """What can be read, from the newest state or from a fixed revision.

    Keys and values are given as bytes, str (UTF-8) or any buffer and come back as bytes. Ranges are `prefix=`, or
    `start=` (included) and `stop=` (not included); without any of them, everything. Keys are in the order of their
    bytes.
    """

    _engine: Engine

    def _pin(self, rev: int | None) -> int:
        """The revision at which to read; 0 = the newest."""
        raise NotImplementedError

    # -- single keys ------------------------------------------------------------------------------------------

    @overload
    def get(self, key: Bytes, /) -> bytes | None: ...
    @overload
    def get(self, key: Bytes, default: bytes, /) -> bytes: ...
    @overload
    def get(self, key: Bytes, default: Default, /) -> bytes | Default: ...
    def get(self, key: Bytes, default: Any = None, /) -> Any:
        """The value of `key`, or `default` if it is not there."""
        return self._engine.get(as_key(key), default, self._pin(None))

    def get_kv(self, key: Bytes, *, rev: int | None = None) -> KeyValue | None:
        """The value of `key` with its revisions, version and lease; None if it is not there."""
        found = self._engine.scan(as_key(key), b"", self._pin(rev), 1, False, KEY_VALUES)
        return found[0] if found else None

    def get_many(self, keys: Iterable[Bytes], *, rev: int | None = None) -> list[bytes | None]:
        """The values of `keys`, in the order asked for, all as of one revision; None for those that are not there."""
        wanted = [as_key(key) for key in keys]
        fixed = self._pin(rev)
        get = self._engine.get
        while True:
            revision = fixed or self._engine.revision
            try:
                return [get(key, None, revision) for key in wanted]
            except CompactedError:  # between the line that chose the newest revision and the reads
                if fixed:
                    raise

    # -- ranges -----------------------------------------------------------------------------------------------

    def range(
        self,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        stop: Bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        rev: int | None = None,
    ) -> Iterator[KeyValue]:
        """KeyValues of a range, lazily. limit: at most so many. rev: as of that revision."""
        return chain.from_iterable(self._chunks(KEY_VALUES, prefix, start, stop, reverse, limit, rev))

    def items(  # type: ignore[override]  # an iterator, not a view
        self,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        stop: Bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        rev: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) tuples of a range, lazily. limit: at most so many. rev: as of that revision."""
        return chain.from_iterable(self._chunks(ITEMS, prefix, start, stop, reverse, limit, rev))

    def keys(  # type: ignore[override]
        self,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        stop: Bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        rev: int | None = None,
    ) -> Iterator[bytes]:
        """Keys of a range, lazily. limit: at most so many. rev: as of that revision."""
        return chain.from_iterable(self._chunks(KEYS, prefix, start, stop, reverse, limit, rev))

    def values(  # type: ignore[override]
        self,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        stop: Bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
        rev: int | None = None,
    ) -> Iterator[bytes]:
        """Values of a range in the order of their keys, lazily. limit: at most so many. rev: as of that revision."""
        # As items, because a chunk's last key says where the next one starts.
        return map(itemgetter(1), chain.from_iterable(self._chunks(ITEMS, prefix, start, stop, reverse, limit, rev)))

    def count(
        self,
        key: Bytes | None = None,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        stop: Bytes | None = None,
        rev: int | None = None,
    ) -> int:
        """How many keys there are in a range (1 or 0 for a single `key`)."""
        first, end = key_range(prefix, start, stop) if key is None else key_or_range("count", key, prefix, start, stop)
        return self._engine.count(first, end, self._pin(rev))

    def _chunks(
        self,
        what: int,
        prefix: Bytes | None,
        start: Bytes | None,
        stop: Bytes | None,
        reverse: bool,
        limit: int | None,
        rev: int | None,
    ) -> Iterator[list[Any]]:
        first, end = key_range(prefix, start, stop)
        fixed = self._pin(rev)
        newest = self._engine.revision  # raises if closed, before the first item is asked for
        return self._fetch(what, first, end, reverse, as_count(limit, "limit"), fixed, newest)

    def _fetch(
        self, what: int, start: bytes, end: bytes, reverse: bool, limit: int, fixed: int, newest: int
    ) -> Iterator[list[Any]]:
        revision = fixed or newest
        left = limit
        handed_out = bool(fixed)
        while True:
            want = min(left, CHUNK) if limit else CHUNK
            try:
                chunk = self._engine.scan(start, end, revision, want, reverse, what)
            except CompactedError:
                if handed_out:
                    raise
                revision = self._engine.revision  # nothing was handed out yet, so a newer "newest" is as good
                continue
            handed_out = True
            if chunk:
                yield chunk
            left -= want
            if len(chunk) < want or (limit and not left):
                return
            last: bytes = chunk[-1] if what == KEYS else chunk[-1][0]
            if not reverse:
                start = last + b"\0"
            elif last == FIRST:  # nothing stands before it, and as an end it would mean "unbounded"
                return
            else:
                end = last

    # -- mapping ----------------------------------------------------------------------------------------------

    def __getitem__(self, key: Bytes) -> bytes:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return self._engine.count(as_key(key), b"", self._pin(None)) > 0  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[bytes]:
        return self.keys()

    def __reversed__(self) -> Iterator[bytes]:
        return self.keys(reverse=True)

    def __len__(self) -> int:
        return self._engine.count(FIRST, UNBOUNDED, self._pin(None))

    # A store is itself, not its contents: comparing two of them would read both.
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class View(Reader):
    """The store as of one revision, read-only: `db.at(revision)`.

    Costs nothing to have and blocks nobody; once the revision is compacted away, reading it raises CompactedError.
    """

    def __init__(self, store: Reader, revision: int) -> None:
        self._store = store
        self._revision = revision
        self._engine.count(FIRST, b"", revision)  # if it cannot be read, say so now and not at the first read

    @property
    def _engine(self) -> Engine:  # type: ignore[override]  # the store's, as long as it has one
        return self._store._engine

    @property
    def revision(self) -> int:
        """The revision that this view shows."""
        return self._revision

    def _pin(self, rev: int | None) -> int:
        if as_revision(rev) not in (0, self._revision):
            raise InvalidRequestError(f"this view shows revision {self._revision}; for another one ask db.at({rev})")
        return self._revision

    def __repr__(self) -> str:
        return f"<fastkv.View revision={self._revision}>"
