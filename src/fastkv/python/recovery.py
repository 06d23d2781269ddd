"""
Reading a log directory: which records are good, where it ends, whether what lies behind the end was torn or damaged.

Implements docs/format.md, "Recovery", steps 2 and 3. scan() only reads; repair() carries out what it has found.
Thread safety: none; nobody else writes the directory (a readonly scan beside a living writer sees a prefix).
"""

from __future__ import annotations

import os
import re
import struct
from typing import NamedTuple

from fastkv import errors
from fastkv.errors import Code
from fastkv.python.directory import storage_errors, sync_directory
from fastkv.python.log import (
    ENTRY,
    HEADER_BYTES,
    META,
    RECORD_BYTES,
    LogRecord,
    Position,
    Segment,
    SegmentHeader,
    decode_record,
)

_NAME = re.compile(r"([0-9a-f]{16})\.log")
_NUMBERS = struct.Struct("<QQ")  # number, durable
# type and its three zero bytes: where, 12 bytes earlier, a record may begin.
_TYPE = re.compile(b"[%c-%c]\0\0\0" % (ENTRY, META))


class Place(NamedTuple):
    path: str
    offset: int

    def corrupt(self, what: str) -> errors.Error:
        text = f"fastkv: {self.path} is damaged at offset {self.offset}: {what}; `fastkv check` tells more"
        return errors.from_code(Code.CORRUPT, text)


class Scan(NamedTuple):
    """torn_bytes: how much stands behind the end; remove: segments that lie there whole."""

    records: list[tuple[LogRecord, Place]]
    end: Position
    durable: int
    torn_bytes: int
    remove: list[str]

    @property
    def place(self) -> Place | None:
        """The end, as a place in the last good segment."""
        return Place(self.end.segments[-1].path, self.end.offset) if self.end.segments else None


def segment_paths(log_path: str) -> list[tuple[int, str]]:
    with storage_errors(f"list {log_path}"):
        names = os.listdir(log_path) if os.path.isdir(log_path) else []
    matches = filter(None, map(_NAME.fullmatch, sorted(names)))
    return [(int(match[1], 16), os.path.join(log_path, match[0])) for match in matches]


def _read(path: str) -> bytes:
    with storage_errors(f"read {path}"), open(path, "rb") as file:
        return file.read()


def scan(log_path: str) -> Scan:
    files = segment_paths(log_path)
    records: list[tuple[LogRecord, Place]] = []
    segments: list[Segment] = []
    offset = number = crc = durable = 0
    for at, (sequence, path) in enumerate(files):
        data = _read(path)
        header = SegmentHeader.decode(data)
        if at == 0 and sequence > 1:  # what stood before was dropped
            if header is None or header.sequence != sequence:
                raise Place(path, 0).corrupt("the header of the oldest segment does not verify")
            number, crc = header.last_number, header.last_crc
            durable = number
        if header is None or (header.sequence, header.last_number, header.last_crc) != (sequence, number, crc):
            break
        if segments and sequence != segments[-1].header.sequence + 1:
            break
        segments.append(Segment(path, header))
        offset, seed = HEADER_BYTES, header.seed
        while record := decode_record(data, offset, seed):
            if record.prev != crc or record.number != number + 1:
                break
            records.append((record, Place(path, offset)))
            offset = min(offset + record.size, len(data))  # a file that lost its end may stop inside the padding
            number, crc = record.number, record.crc
            durable = max(durable, record.durable)
    end = Position(segments, offset, number, crc)
    remove = [path for _, path in files[len(segments) :]]
    return Scan(records, end, durable, _torn_bytes(end, remove), remove)


def _torn_bytes(end: Position, remove: list[str]) -> int:
    """What stands behind the last good record, zeros left out; raises if it proves that a synced record is damaged."""
    last = Place(end.segments[-1].path, end.offset) if end.segments else None
    behind = ([last] if last else []) + [Place(path, 0) for path in remove]
    torn_bytes = 0
    for place in behind:
        data = _read(place.path)
        torn = data[place.offset :].rstrip(b"\0")
        torn_bytes += len(torn)
        header = SegmentHeader.decode(data)
        if header is None and place.offset + len(torn) > HEADER_BYTES:
            what = "its header does not verify, and was synced before what stands behind it was written"
            raise Place(place.path, 0).corrupt(what)
        evidence = header and _evidence(data, header.seed, place.offset, end.number + 1)
        if evidence is not None:
            offset, number = evidence
            raise behind[0].corrupt(
                f"record {end.number + 1} does not verify, and it was synced before record {number} "
                f"({place.path} offset {offset}) was written"
            )
    return torn_bytes


def _evidence(data: bytes, seed: int, offset: int, number: int) -> tuple[int, int] | None:
    """(offset, number) of a record that was written when record `number` was known to be synced."""
    for match in _TYPE.finditer(data, offset + 12):
        begin = match.start() - 12
        if begin % 8 or begin + RECORD_BYTES > len(data):
            continue
        claimed, durable = _NUMBERS.unpack_from(data, begin + 16)
        if claimed <= number or not number <= durable < claimed:
            continue
        if decode_record(data, begin, seed) is not None:
            return begin, claimed
    return None


def repair(log_path: str, found: Scan) -> None:
    """Cut what was torn, durably. Safe to repeat after a crash in the middle."""
    with storage_errors(f"cut the torn end of the log in {log_path}"):
        if found.torn_bytes and found.place is not None:
            with open(found.place.path, "r+b") as file:
                length = max(file.seek(0, os.SEEK_END) - found.place.offset, 0)
                file.seek(found.place.offset)
                file.write(bytes(length))
                file.flush()
                os.fsync(file.fileno())
        for path in reversed(found.remove):
            os.unlink(path)
            sync_directory(log_path)
