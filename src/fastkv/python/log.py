"""
The write-ahead log (docs/format.md, "Log segment"): the bytes of segments and records, and appending to them.

    segment := header record* zeros
    header  := magic sequence:u64 first_index:u64 last_number:u64 last_crc:u32 crc:u32
    record  := crc:u32 prev:u32 length:u32 type:u8 zero:u8[3] number:u64 durable:u64 payload[length] pad

Invariants:
* a record is never durable before every record in front of it: a segment is synced before the next one is made.
* an append that fails leaves the log as it was, and usable; where that is in doubt (a failed sync, a half-written
  record that cannot be wiped out) `poison` says why and nothing is appended any more.
* each segment opens with the newest meta and hard state, so that older ones can go.
Thread safety: none; the engine's `_writing` lock.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from fastkv import errors
from fastkv.errors import Code
from fastkv.python.crc32c import crc32c
from fastkv.python.directory import storage_errors, sync_directory

ENTRY, HARD_STATE, SNAPSHOT, CLEAN, META = 1, 2, 3, 4, 5

MAGIC = b"fkvlog\0\1"
_HEADER = struct.Struct("<8sQQQI")
_CRC = struct.Struct("<I")
_RECORD = struct.Struct("<IIB3sQQ")  # behind the crc
HEADER_BYTES = 40
RECORD_BYTES = 32
_ZERO = b"\0\0\0"


class SegmentHeader(NamedTuple):
    """first_index: what the next entry's index was. last_number, last_crc: the last record of the segment before."""

    sequence: int
    first_index: int
    last_number: int
    last_crc: int

    def encode(self) -> bytes:
        body = _HEADER.pack(MAGIC, *self)
        return body + _CRC.pack(crc32c(body))

    @classmethod
    def decode(cls, segment: bytes) -> SegmentHeader | None:
        body = segment[: HEADER_BYTES - 4]
        if len(segment) < HEADER_BYTES or body[:8] != MAGIC or _CRC.pack(crc32c(body)) != segment[36:40]:
            return None
        return cls(*_HEADER.unpack(body)[1:])


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


def encode_record(prev: int, type: int, number: int, durable: int, payload: bytes) -> bytes:
    body = _RECORD.pack(prev, len(payload), type, _ZERO, number, durable) + payload
    return _CRC.pack(crc32c(body)) + body + bytes(padded(len(payload)) - len(payload))


def decode_record(segment: bytes, offset: int) -> LogRecord | None:
    """The record that begins there, if one verifies by its own crc."""
    if offset + RECORD_BYTES > len(segment):
        return None
    (crc,) = _CRC.unpack_from(segment, offset)
    prev, length, type, zero, number, durable = _RECORD.unpack_from(segment, offset + 4)
    end = offset + RECORD_BYTES + length
    if not ENTRY <= type <= META or zero != _ZERO or durable >= number or end > len(segment):
        return None
    if crc32c(memoryview(segment)[offset + 4 : end]) != crc:
        return None
    return LogRecord(crc, prev, type, number, durable, segment[offset + RECORD_BYTES : end])


def encode_entry(term: int, index: int, batch: bytes) -> bytes:
    return struct.pack("<QQ", term, index) + batch


def segment_name(sequence: int) -> str:
    return f"{sequence:016x}.log"


class Segment(NamedTuple):
    sequence: int
    path: str
    first_index: int


class Position(NamedTuple):
    """Where a log ends: its segments, the offset behind the last record of the last one, its number and crc."""

    segments: list[Segment]
    offset: int
    number: int
    crc: int


class Log:
    def __init__(
        self, path: str, end: Position, durable: int, last_index: int, sizes: tuple[int, int], readonly: bool
    ) -> None:
        """
        Goes on where `end` says. durable: the highest record number that is known to be synced; sizes: of the first
        segment, and the largest (bytes).
        """
        self.path = path
        self.segments = end.segments
        self.poison = ""
        self.syncs = 0
        self.bytes = 0  # appended since open
        self.last_index = last_index
        self.durable = durable
        self.meta = self.hard_state = b""  # the newest; b"": none
        self._offset, self._number, self._crc = end.offset, end.number, end.crc
        self._segment_bytes_first, self._segment_bytes_max = sizes
        self._fd = -1
        self._end = 0  # size of the current segment
        if self.segments and not readonly:
            with storage_errors(f"open {self.segments[-1].path}"):
                self._fd = os.open(self.segments[-1].path, os.O_RDWR | os.O_CLOEXEC)
                self._end = os.fstat(self._fd).st_size

    def append_entry(self, term: int, index: int, batch: bytes) -> None:
        self._append(ENTRY, encode_entry(term, index, batch))
        self.last_index = index

    def append_meta(self, meta: bytes) -> None:
        self._append(META, meta)
        self.meta = meta

    def append_snapshot(self, index: int, term: int) -> None:
        """The state up to index is in a checkpoint; entries go on behind it."""
        self._append(SNAPSHOT, struct.pack("<QQ", index, term))
        self.last_index = index

    def append_clean(self, applied_index: int) -> None:
        self._append(CLEAN, struct.pack("<Q", applied_index))

    def _append(self, type: int, payload: bytes) -> None:
        record_bytes = RECORD_BYTES + padded(len(payload))
        if len(payload) >= 1 << 32:
            raise errors.from_code(Code.REQUEST_TOO_LARGE)
        if self._offset + record_bytes > self._end:
            self._roll(record_bytes)
        self._write(type, payload)

    def _write(self, type: int, payload: bytes) -> None:
        record = encode_record(self._crc, type, self._number + 1, self.durable, payload)
        segment = self.segments[-1].path
        try:
            with storage_errors(f"append to {segment}"):
                _write_all(self._fd, record, self._offset)
        except errors.Error as error:
            self._wipe(len(record), f"{error}")
            raise
        self._crc = _CRC.unpack_from(record)[0]
        self._number += 1
        self._offset += len(record)
        self.bytes += len(record)

    def _wipe(self, length: int, reason: str) -> None:
        """Zeroes a record of which some bytes may have been written."""
        try:
            os.pwrite(self._fd, bytes(min(length, max(os.fstat(self._fd).st_size - self._offset, 0))), self._offset)
        except OSError:
            self.poison = reason

    def _roll(self, record_bytes: int) -> None:
        """Begin a new segment with room for a record of record_bytes."""
        if self._fd >= 0:
            self.sync()
        sequence = self.segments[-1].sequence + 1 if self.segments else 1
        opening = [(type, payload) for type, payload in ((META, self.meta), (HARD_STATE, self.hard_state)) if payload]
        opening_bytes = sum(RECORD_BYTES + padded(len(payload)) for _, payload in opening)
        size = min(self._segment_bytes_first << min(sequence - 1, 32), self._segment_bytes_max)
        size = max(padded(size), HEADER_BYTES + opening_bytes + record_bytes)
        header = SegmentHeader(sequence, self.last_index + 1, self._number, self._crc)
        path = os.path.join(self.path, segment_name(sequence))
        with storage_errors(f"create {path}"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                _preallocate(fd, size)
                _write_all(fd, header.encode(), 0)
                os.fsync(fd)
                sync_directory(self.path)
            except OSError:
                os.close(fd)
                os.unlink(path)
                raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._end, self._offset = fd, size, HEADER_BYTES
        self.segments.append(Segment(sequence, path, header.first_index))
        for type, payload in opening:
            self._write(type, payload)

    def sync(self) -> None:
        """Everything appended is durable on return. A failure poisons: what the disk holds is not known any more."""
        if self.durable == self._number or self._fd < 0:
            return
        segment = self.segments[-1].path
        try:
            _sync_data(self._fd)
        except OSError as reason:
            self.poison = f"{segment} could not be synced: {reason.strerror}"
            raise errors.from_code(Code.IO_ERROR, f"fastkv: cannot sync {segment}: {reason.strerror}") from reason
        self.syncs += 1
        self.durable = self._number

    def drop_before(self, index: int) -> None:
        """Remove the segments that hold no entry above index, oldest first."""
        while len(self.segments) > 1 and self.segments[1].first_index <= index + 1:
            with storage_errors(f"remove {self.segments[0].path}"):
                os.unlink(self.segments[0].path)
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


def _preallocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        os.ftruncate(fd, size)


_sync_data = getattr(os, "fdatasync", os.fsync)  # a module-level name, so that tests can make it fail
