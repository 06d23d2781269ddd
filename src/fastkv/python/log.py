"""
The write-ahead log (docs/format.md, "Log segment"): the bytes of segments and records, and appending to them.

    segment := header record* zeros
    header  := magic sequence:u64 first_index:u64 last_number:u64 salt:u64 last_crc:u32 crc:u32
    record  := crc:u32 prev:u32 length:u32 type:u8 zero:u8[3] number:u64 durable:u64 payload[length] pad

A record's crc is seeded with its segment's salt, which no client knows: what looks like a record inside a value never
verifies. A `seed` is crc32c(salt).

Invariants:
* a record is never durable before every record in front of it: a segment is synced before the next one is made, and
  its header and name before its first record.
* an append that fails leaves the log as it was, and usable: what it may have written is wiped out before anything else
  is. After a failed sync `poison` says why, and nothing is appended any more.
* the newest meta and hard state stand in a segment that is there.
Thread safety: none; the engine's `_writing` lock. `term`, of a committed entry, needs none (entries.py).
"""

from __future__ import annotations

import bisect
import errno
import os
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from fastkv import errors
from fastkv.errors import Code
from fastkv.python.crc32c import crc32c
from fastkv.python.directory import storage_errors, sync_directory
from fastkv.python.entries import EntryTable, Place
from fastkv.python.payloads import INDEX_MAX, NORMAL, Entry, HardState, Mark, encode_clean

ENTRY, HARD_STATE, SNAPSHOT, CLEAN, META = 1, 2, 3, 4, 5

SYNC_BOUNDS_S = [0.001 * 2**i for i in range(14)]

MAGIC = b"fkvlog\0\1"
_HEADER = struct.Struct("<8sQQQQI")
_SALT = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_RECORD = struct.Struct("<IIB3sQQ")  # behind the crc
HEADER_BYTES = 48
RECORD_BYTES = 32
_ZERO = b"\0\0\0"


class SegmentHeader(NamedTuple):
    """first_index: what the next entry's index was. last_number, last_crc: the last record of the segment before."""

    sequence: int
    first_index: int
    last_number: int
    salt: int
    last_crc: int

    @property
    def seed(self) -> int:
        return crc32c(_SALT.pack(self.salt))

    def encode(self) -> bytes:
        body = _HEADER.pack(MAGIC, *self)
        return body + _CRC.pack(crc32c(body))

    @classmethod
    def decode(cls, segment: bytes) -> SegmentHeader | None:
        body = segment[: HEADER_BYTES - 4]
        if len(segment) < HEADER_BYTES or body[:8] != MAGIC:
            return None
        if _CRC.pack(crc32c(body)) != segment[HEADER_BYTES - 4 : HEADER_BYTES]:
            return None
        header = cls(*_HEADER.unpack(body)[1:])
        return header if 0 < header.first_index <= INDEX_MAX else None


class LogRecord(NamedTuple):
    crc: int
    prev: int
    type: int
    number: int
    durable: int
    payload: bytes

    @property
    def size(self) -> int:
        return RECORD_BYTES + padded(len(self.payload))


def padded(length: int) -> int:
    return length + 7 & ~7


def encode_record(seed: int, prev: int, type: int, number: int, durable: int, payload: bytes) -> bytes:
    body = _RECORD.pack(prev, len(payload), type, _ZERO, number, durable) + payload
    return _CRC.pack(crc32c(body, seed)) + body + bytes(padded(len(payload)) - len(payload))


def decode_record(segment: bytes, offset: int, seed: int) -> LogRecord | None:
    """The record that begins there, if one verifies by its own crc."""
    if offset + RECORD_BYTES > len(segment):
        return None
    (crc,) = _CRC.unpack_from(segment, offset)
    prev, length, type, zero, number, durable = _RECORD.unpack_from(segment, offset + 4)
    end = offset + RECORD_BYTES + length
    if not ENTRY <= type <= META or zero != _ZERO or durable >= number or end > len(segment):
        return None
    if crc32c(memoryview(segment)[offset + 4 : end], seed) != crc:
        return None
    return LogRecord(crc, prev, type, number, durable, segment[offset + RECORD_BYTES : end])


def segment_name(sequence: int) -> str:
    return f"{sequence:016x}.log"


class Segment(NamedTuple):
    path: str
    header: SegmentHeader


class Position(NamedTuple):
    """Where a log ends: its segments, the offset behind the last record of the last one, its number and crc."""

    segments: list[Segment]
    offset: int
    number: int
    crc: int


class Log:
    def __init__(
        self,
        path: str,
        end: Position,
        durable: int,
        last_index: int,
        sizes: tuple[int, int],
        readonly: bool,
        table: EntryTable | None = None,
        floor: Mark = Mark(0, 0),  # noqa: B008  # immutable
    ) -> None:
        """
        Goes on where `end` says. durable: the highest record number that is known to be synced; last_index: of the
        files' entries; sizes: of the first segment, and the largest (bytes); table: the entries, if they are to be read
        back; floor: where they begin.
        """
        self.path = path
        self.segments = end.segments
        self.poison = ""
        self.syncs = 0
        self.sync_counts = [0] * 15  # by time taken: engine.Engine.sync_times
        self.sync_seconds = 0.0
        self.bytes = 0  # of records, those found at open included if the table knows them
        self.last_index = last_index  # of the files' entries: a mark may be owed
        self.table = EntryTable(last_index + 1) if table is None else table
        self.floor = floor
        self.durable = durable
        self.last_is_clean = False
        self.newest: dict[int, tuple[bytes, int]] = {}  # of meta and hard state: payload, sequence of its segment
        self._mark: Mark | None = None
        self._offset, self._number, self._crc = end.offset, end.number, end.crc
        self._segment_bytes_first, self._segment_bytes_max = sizes
        self._fd = -1
        self._end = 0  # size of the current segment
        self._dirty_until = 0  # behind _offset: what a failed append left
        self._seed = end.segments[-1].header.seed if end.segments else 0
        # Whoever wrote the log may have died before it synced names and sealed segments.
        self._names_synced = False
        self._unsynced = [
            sealed.path
            for sealed, following in zip(end.segments, end.segments[1:], strict=False)
            if following.header.last_number > durable
        ]
        if self.segments and not readonly:
            with storage_errors(f"open {self.segments[-1].path}"):
                self._fd = os.open(self.segments[-1].path, os.O_RDWR | os.O_CLOEXEC)
                self._end = os.fstat(self._fd).st_size

    # -- appending --------------------------------------------------------------------------------------------

    def append_entry(self, term: int, index: int, data: bytes, kind: int = NORMAL) -> None:
        """An index at or below the last one cuts the log there first."""
        self._append(ENTRY, Entry(term, index, kind, data).encode())
        size = RECORD_BYTES + padded(16 + len(data))
        place = Place(term, self.segments[-1].header.sequence, self._offset - size, self.bytes - size)
        self.table.add(index, place)
        self.last_index = index

    def append_group(self, entries: Sequence[Entry], hard_state: HardState | None) -> None:
        """
        What Raft appends at a time. Where it fails a beginning of it may have been appended; the same group may be
        appended again.
        """
        for term, index, kind, data in entries:
            self.append_entry(term, index, data, kind)
        if hard_state is not None:
            self.append_hard_state(hard_state)

    def append_hard_state(self, state: HardState) -> None:
        self._append(HARD_STATE, state.encode())

    def append_meta(self, meta: bytes) -> None:
        self._append(META, meta)

    def append_snapshot(self, index: int, term: int) -> None:
        """The state up to index is in a checkpoint; entries go on behind it. An owed mark is not owed any more."""
        owed, self._mark = self._mark, None
        mark = Mark(index, term)
        try:
            self._append(SNAPSHOT, mark.encode())
        except errors.Error:
            self._mark = owed
            raise
        self.table.go_on_after(*mark)
        self.floor, self.last_index = mark, index

    def skip_to(self, index: int, term: int) -> None:
        """append_snapshot, but not before the next record: an open must not need space."""
        self._mark = Mark(index, term)

    def append_clean(self, applied_index: int) -> None:
        self._append(CLEAN, encode_clean(applied_index))

    def _append(self, type: int, payload: bytes) -> None:
        if self._mark is not None:
            self.append_snapshot(*self._mark)
        record_bytes = RECORD_BYTES + padded(len(payload))
        if len(payload) >= 1 << 32:
            raise errors.from_code(Code.REQUEST_TOO_LARGE)
        self._wipe()
        if self._offset + record_bytes > self._end:
            self._roll(record_bytes)
        self._write(encode_record(self._seed, self._crc, type, self._number + 1, self.durable, payload))
        self.last_is_clean = type == CLEAN
        if type in (META, HARD_STATE):
            self.newest[type] = payload, self.segments[-1].header.sequence

    def _write(self, record: bytes) -> None:
        try:
            with storage_errors(f"append to {self.segments[-1].path}"):
                _write_all(self._fd, record, self._offset)
        except errors.Error:
            self._dirty_until = self._offset + len(record)
            with suppress(errors.Error):  # then the next append tries again first
                self._wipe()
            raise
        self._crc = _CRC.unpack_from(record)[0]
        self._number += 1
        self._offset += len(record)
        self.bytes += len(record)

    def _wipe(self) -> None:
        """
        Zeroes what a failed append may have written. Synced, because the caller was told that it failed: a power loss
        must not bring it back.
        """
        if self._dirty_until <= self._offset:
            return
        path = self.segments[-1].path
        with storage_errors(f"append to {path}"):
            _write_all(self._fd, bytes(self._dirty_until - self._offset), self._offset)
        self._sync_or_poison(path, self._fd)
        self._dirty_until = 0

    def _roll(self, record_bytes: int) -> None:
        """Begin a new segment with room for a record of record_bytes."""
        self.sync()
        if self.segments and not self._names_synced:
            self._sync_names()  # before there is a later one, or a log could lose its beginning and look whole
        sequence = self.segments[-1].header.sequence + 1 if self.segments else 1
        least = HEADER_BYTES + record_bytes
        size = max(padded(min(self._segment_bytes_first << min(sequence - 1, 32), self._segment_bytes_max)), least)
        salt = int.from_bytes(os.urandom(8), "little")
        header = SegmentHeader(sequence, self.last_index + 1, self._number, salt, self._crc)
        path = os.path.join(self.path, segment_name(sequence))
        with storage_errors(f"create {path}"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                size = _preallocate(fd, size, least)
                _write_all(fd, header.encode(), 0)
            except OSError:
                os.close(fd)
                os.unlink(path)
                raise
        try:
            self._sync_or_poison(path, fd)
            self._sync_names()
        except errors.Error:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._end, self._offset, self._seed = fd, size, HEADER_BYTES, header.seed
        self.segments.append(Segment(path, header))

    # -- reading ----------------------------------------------------------------------------------------------

    def term(self, index: int) -> int:
        """Of an entry that is here, or of the one in front of the first where that is known."""
        term = self.table.term(index)
        if term is not None:
            return term
        if index == self.floor.index:
            return self.floor.term
        raise errors.from_code(Code.NOT_FOUND, f"fastkv: {self.path}: the log does not hold entry {index}")

    def read(self, index: int) -> Entry:
        """From the disk. StorageError (NOT_FOUND) if it is not here; CorruptError if it is not what was written."""
        if not self.table.holds(index):
            first, last = self.table.first_index, self.table.last_index
            text = f"fastkv: {self.path}: the log holds entries {first} to {last}, not {index}"
            raise errors.from_code(Code.NOT_FOUND, text)
        place = self.table.place(index)
        segment = self.segments[place.segment - self.segments[0].header.sequence]
        with storage_errors(f"read {segment.path}"):
            fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                head = os.pread(fd, RECORD_BYTES, place.offset)
                length = _RECORD.unpack_from(head, 4)[1] if len(head) == RECORD_BYTES else 0
                record = decode_record(head + os.pread(fd, length, place.offset + len(head)), 0, segment.header.seed)
            finally:
                os.close(fd)
        try:
            entry = None if record is None or record.type != ENTRY else Entry.decode(record.payload)
        except (ValueError, struct.error):
            entry = None
        if entry is None or entry.index != index:
            where = f"the record at offset {place.offset} (entry {index})"
            text = f"fastkv: {segment.path}: {where} is damaged; `fastkv check` shows what is left"
            raise errors.from_code(Code.CORRUPT, text)
        return entry

    def bytes_since(self, index: int) -> int:
        """Of records behind the entry: what a restart from a checkpoint there replays."""
        following = max(index + 1, self.table.first_index)
        return self.bytes - self.table.place(following).bytes_before if self.table.holds(following) else 0

    # -- syncing ----------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Everything appended is durable on return. A failure poisons: what the disk holds is not known any more."""
        if self.durable == self._number or self._fd < 0:
            return
        if not self._names_synced:
            self._sync_names()
        while self._unsynced:
            with storage_errors(f"open {self._unsynced[0]}"):
                fd = os.open(self._unsynced[0], os.O_RDWR | os.O_CLOEXEC)
            try:
                self._sync_or_poison(self._unsynced[0], fd)
            finally:
                os.close(fd)
            del self._unsynced[0]
        began = time.perf_counter()
        self._sync_or_poison(self.segments[-1].path, self._fd)
        took = time.perf_counter() - began
        self.syncs += 1
        self.sync_seconds += took
        self.sync_counts[bisect.bisect_left(SYNC_BOUNDS_S, took)] += 1
        self.durable = self._number

    def _sync_names(self) -> None:
        try:
            sync_directory(self.path)
        except OSError as reason:
            raise self._poisoned(self.path, reason) from reason
        self._names_synced = True

    def _sync_or_poison(self, path: str, fd: int) -> None:
        try:
            _sync_data(fd)
        except OSError as reason:
            raise self._poisoned(path, reason) from reason

    def _poisoned(self, path: str, reason: OSError) -> errors.Error:
        self.poison = f"{path} could not be synced: {reason.strerror}"
        return errors.from_code(Code.POISONED, f"fastkv: no more writes until the store is opened again: {self.poison}")

    # -- letting go -------------------------------------------------------------------------------------------

    def drop_before(self, index: int) -> None:
        """Remove the segments that hold no entry above index (cut ones count), oldest first, each for good."""
        count = 0
        while count + 1 < len(self.segments) and self.segments[count + 1].header.first_index <= index + 1:
            count += 1
        if not count:
            return
        last_dropped = self.segments[count - 1].header.sequence
        for type, (payload, sequence) in sorted(self.newest.items()):
            if sequence <= last_dropped:
                self._append(type, payload)
        self.sync()
        for segment in self.segments[:count]:
            with storage_errors(f"remove {segment.path}"):
                with suppress(FileNotFoundError):  # removed by a call that failed behind it
                    os.unlink(segment.path)
                sync_directory(self.path)  # a gap would look like a lost segment
            self.table.drop_segment(segment.header.sequence)
            del self.segments[0]

    def close(self) -> None:
        """Without a clean record: as if the process had died here."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


def _preallocate(fd: int, size: int, least: int) -> int:
    """The bytes that are reserved now: `size`, or on a nearly full disk less, but not less than `least`."""
    if not hasattr(os, "posix_fallocate"):
        os.ftruncate(fd, size)
        return size
    while True:
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as reason:
            if reason.errno != errno.ENOSPC or size <= least:
                raise
            os.ftruncate(fd, 0)  # what the failed call may have taken
            size = max(padded(size // 2), least)
        else:
            return size


_sync_data = getattr(os, "fdatasync", os.fsync)  # a module-level name, so that tests can make it fail
