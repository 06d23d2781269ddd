"""
Checkpoints: the whole state at one index, as a file of checksummed blocks (docs/format.md, "Checkpoint").

    file    := magic head block* footer        written to INDEX.ckpt.tmp, synced, renamed, directory synced
    block   := crc:u32 length:u32 type:u8 zero:u8[3] payload
    records := record*        a payload; the history of a key goes on in the next block where this one is full

Invariants:
* a file without .tmp was complete and synced when it got its name; one that does not verify now was damaged.
* equal states give equal bytes.
Thread safety: a picture is immutable; everything else is functions of files.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fastkv import errors
from fastkv.errors import Code
from fastkv.python.crc32c import crc32c
from fastkv.python.directory import storage_errors, sync_directory
from fastkv.python.index import Chain, Record
from fastkv.python.store import Lease, Store
from fastkv.python.wire import decode_key_value, encode_key_value, read_varint, varint
from fastkv.types import KeyValue

MAGIC = b"fkvckpt\2"
HEAD, RECORDS, LEASES, META, ALARMS, HARD_STATE, MEMBERSHIP, FOOTER = 1, 2, 3, 4, 5, 6, 7, 255
RECORDS_BLOCK_BYTES = 256 << 10  # a block closes at the first record at or past it
TOMBSTONE_FLAG, FIRST_FLAG = 1, 2  # FIRST: the oldest record of a key
LEASES_PER_BLOCK_MAX = 4096
KEPT = 2

_CRC = struct.Struct("<I")
_HEAD = struct.Struct("<QQQqQQ")
_BLOCK = struct.Struct("<IB3s")  # behind the crc
_LEASE = struct.Struct("<qqq")
_ALARM = struct.Struct("<QQ")
_FOOTER = struct.Struct("<QII")
_ZERO = b"\0\0\0"
_NAME = re.compile(r"([0-9a-f]{16})\.ckpt")


@dataclass(frozen=True)
class Picture:
    """
    A state to write, or one that was read. leases: (id, ttl, remaining), ascending; hard_state: 24 bytes or none.

    meta and hard_state are one member's own: without them, and with a membership, it may be sent to another.
    """

    index: int
    term: int
    revision: int
    compact_revision: int
    chains: list[Chain]
    leases: list[tuple[int, int, int]]
    meta: bytes
    alarms: list[tuple[int, int]]
    hard_state: bytes
    membership: bytes = b""

    @property
    def may_be_sent(self) -> bool:
        return bool(self.membership) and not self.meta and not self.hard_state


def take_picture(
    store: Store, index: int, term: int, meta: bytes, hard_state: bytes = b"", membership: bytes = b""
) -> Picture:
    leases = [(id, lease.ttl, lease.remaining) for id, lease in sorted(store.leases.items())]
    chains = list(store.chains())
    alarms = sorted(store.alarms)
    revisions = store.revision, store.compact_revision
    return Picture(index, term, *revisions, chains, leases, meta, alarms, hard_state, membership)


def restore_store(picture: Picture) -> Store:
    store = Store()
    store.revision, store.compact_revision = picture.revision, picture.compact_revision
    store.leases = {id: Lease(ttl, remaining) for id, ttl, remaining in picture.leases}
    store.alarms = set(picture.alarms)
    store.restore(picture.chains)
    return store


# -- payloads -------------------------------------------------------------------------------------------------


def _records_payloads(chains: Iterable[Chain]) -> Iterator[bytes]:
    payload = bytearray()
    for chain in chains:
        flags = FIRST_FLAG
        for record in chain:
            kv = encode_key_value(record.kv)
            flags |= TOMBSTONE_FLAG * record.tombstone
            payload += varint(record.main) + varint(record.sub) + varint(flags) + varint(len(kv)) + kv
            flags = 0
            if len(payload) >= RECORDS_BLOCK_BYTES:
                yield bytes(payload)
                payload.clear()
    if payload:
        yield bytes(payload)


def _leases_payloads(leases: list[tuple[int, int, int]]) -> Iterator[bytes]:
    for first in range(0, len(leases), LEASES_PER_BLOCK_MAX):
        yield b"".join(_LEASE.pack(*lease) for lease in leases[first : first + LEASES_PER_BLOCK_MAX])


def state_hash(picture: Picture) -> int:
    """The CRC-32C of the payloads of the records blocks, then of the leases blocks, all concatenated."""
    crc = 0
    for payload in itertools.chain(_records_payloads(picture.chains), _leases_payloads(picture.leases)):
        crc = crc32c(payload, crc)
    return crc


def _blocks(picture: Picture) -> Iterator[tuple[int, bytes]]:
    keys, records = len(picture.chains), sum(map(len, picture.chains))
    numbers = picture.index, picture.term, picture.revision, picture.compact_revision, keys, records
    yield HEAD, _HEAD.pack(*numbers)
    for payload in _records_payloads(picture.chains):
        yield RECORDS, payload
    for payload in _leases_payloads(picture.leases):
        yield LEASES, payload
    if picture.meta:
        yield META, picture.meta
    if picture.alarms:
        yield ALARMS, b"".join(_ALARM.pack(*alarm) for alarm in picture.alarms)
    if picture.hard_state:
        yield HARD_STATE, picture.hard_state
    if picture.membership:
        yield MEMBERSHIP, picture.membership


def encode(picture: Picture) -> Iterator[bytes]:
    """The file, in pieces."""
    yield MAGIC
    crcs = bytearray()
    count = 0
    for type, payload in _blocks(picture):
        block = _encode_block(type, payload)
        crcs += block[:4]
        count += 1
        yield block
    yield _encode_block(FOOTER, _FOOTER.pack(count, crc32c(crcs), 0))


def _encode_block(type: int, payload: bytes) -> bytes:
    body = _BLOCK.pack(len(payload), type, _ZERO) + payload
    return _CRC.pack(crc32c(body)) + body


# -- reading --------------------------------------------------------------------------------------------------


class _Damaged(Exception):
    """What is wrong, and where."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset = offset


def read(path: str, index: int | None = None) -> Picture:
    """Verifies and decodes everything; CorruptError names file and offset. index: what its name does not say."""
    with storage_errors(f"read {path}"), open(path, "rb") as file:
        data = file.read()
    try:
        picture = _decode(data)
        named = os.path.basename(path) == checkpoint_name(picture.index) if index is None else index == picture.index
        if not named:
            raise _Damaged(len(MAGIC), f"it holds index {picture.index}")
    except _Damaged as damage:
        text = f"fastkv: {path} is damaged at offset {damage.offset}: {damage}; `fastkv check` tells more"
        raise errors.from_code(Code.CORRUPT, text) from damage
    return picture


def _decode(data: bytes) -> Picture:
    if data[: len(MAGIC)] != MAGIC:
        raise _Damaged(0, "this is not a checkpoint")
    numbers: tuple[int, ...] = ()
    chains: list[Chain] = []
    leases: list[tuple[int, int, int]] = []
    alarms: list[tuple[int, int]] = []
    meta = hard_state = membership = b""
    last_type = 0
    for offset, type, payload in _verified_blocks(data):
        repeats = type == last_type and type not in (RECORDS, LEASES)
        if type < last_type or repeats or (type == HEAD) != (last_type == 0):
            raise _Damaged(offset, "the blocks are not in order")
        last_type = type
        try:
            match type:
                case 1:
                    numbers = _HEAD.unpack(payload)
                case 2:
                    _decode_chains(payload, chains)
                case 3:
                    leases += _LEASE.iter_unpack(payload)
                case 4:
                    meta = payload
                case 5:
                    alarms += _ALARM.iter_unpack(payload)
                case 6 if len(payload) == 24:
                    hard_state = payload
                case 7:
                    membership = payload
                case _:
                    raise ValueError(f"a block of type {type}")
        except (ValueError, struct.error, errors.InvalidRequestError) as reason:
            raise _Damaged(offset, f"the block does not decode ({reason})") from reason
    if not numbers:
        raise _Damaged(len(MAGIC), "there is no head")
    index, term, revision, compact_revision, keys, records = numbers
    if (keys, records) != (len(chains), sum(map(len, chains))):
        raise _Damaged(len(MAGIC), f"the head counts {keys} keys and {records} records, the blocks hold others")
    if any(chain[-1].main > revision for chain in chains) or not -1 <= compact_revision <= revision:
        raise _Damaged(len(MAGIC), f"the head's revisions ({compact_revision}, {revision}) do not fit the records")
    revisions = revision, compact_revision
    return Picture(index, term, *revisions, chains, leases, meta, alarms, hard_state, membership)


def _verified_blocks(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(offset, type, payload) of all but the footer, once everything has verified."""
    blocks = []
    crcs = bytearray()
    offset = len(MAGIC)
    while True:
        if offset + 12 > len(data):
            raise _Damaged(offset, "the file ends without a footer")
        length, type, zero = _BLOCK.unpack_from(data, offset + 4)
        end = offset + 12 + length
        (crc,) = _CRC.unpack_from(data, offset)
        if end > len(data) or zero != _ZERO or crc32c(memoryview(data)[offset + 4 : end]) != crc:
            raise _Damaged(offset, "the block's checksum does not fit")
        payload = data[offset + 12 : end]
        if type == FOOTER:
            break
        blocks.append((offset, type, payload))
        crcs += data[offset : offset + 4]
        offset = end
    if payload != _FOOTER.pack(len(blocks), crc32c(crcs), 0) or end != len(data):
        raise _Damaged(offset, "the footer does not fit")
    yield from blocks


def _decode_chains(payload: bytes, chains: list[Chain]) -> None:
    """Appends to chains, and to the last one. ValueError or MALFORMED: not what _records_payloads writes."""
    at = 0
    while at < len(payload):
        main, at = read_varint(payload, at)
        sub, at = read_varint(payload, at)
        flags, at = read_varint(payload, at)
        length, at = read_varint(payload, at)
        encoded = payload[at : at + length]
        at += length
        if at > len(payload):
            raise ValueError("a record is cut short")
        record = Record(main, sub, bool(flags & TOMBSTONE_FLAG), decode_key_value(encoded))
        if flags > TOMBSTONE_FLAG | FIRST_FLAG or encode_key_value(record.kv) != encoded or not _is_sound(record):
            raise ValueError("a record is malformed")
        if flags & FIRST_FLAG:
            if chains and chains[-1][0].kv.key >= record.kv.key:
                raise ValueError("the keys do not ascend")
            chains.append([record])
            continue
        if not chains:
            raise ValueError("a record continues a chain that has not begun")
        before = chains[-1][-1]
        if before.kv.key != record.kv.key:
            raise ValueError("a chain is continued by a record of another key")
        if (before.main, before.sub) >= (record.main, record.sub):
            raise ValueError("the revisions of a key do not rise")
        chains[-1].append(record)


def _is_sound(record: Record) -> bool:
    kv = record.kv
    if not kv.key or kv.mod_revision != record.main:
        return False
    return not record.tombstone or kv == KeyValue(kv.key, b"", 0, record.main, 0, 0)


# -- files ----------------------------------------------------------------------------------------------------


def checkpoint_name(index: int) -> str:
    return f"{index:016x}.ckpt"


def list_checkpoints(directory: str) -> list[tuple[int, str]]:
    """(index, path), newest first."""
    with storage_errors(f"list {directory}"):
        names = os.listdir(directory) if os.path.isdir(directory) else []
    matches = filter(None, map(_NAME.fullmatch, sorted(names, reverse=True)))
    return [(int(match[1], 16), os.path.join(directory, match[0])) for match in matches]


def received_name(index: int) -> str:
    """Of a file for what arrives from another member; no two are alike."""
    return f"{index:016x}.{os.urandom(8).hex()}.recv"


def remove_unfinished(directory: str) -> None:
    with storage_errors(f"remove unfinished checkpoints in {directory}"):
        for name in os.listdir(directory):
            if name.endswith((".ckpt.tmp", ".recv")):
                os.unlink(os.path.join(directory, name))


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def write(directory: str, picture: Picture) -> int:
    """Durable on return; returns the file's size in bytes."""
    path = os.path.join(directory, checkpoint_name(picture.index))
    unfinished = path + ".tmp"
    with storage_errors(f"write {path}"):
        try:
            with open(unfinished, "wb", opener=_open_private) as file:
                file.writelines(encode(picture))
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            os.rename(unfinished, path)
            sync_directory(directory)
        except OSError:
            if os.path.exists(unfinished):
                os.unlink(unfinished)
            raise
    return size


def prune(directory: str, damaged: set[int]) -> int:
    """
    Remove the damaged ones and all but the newest KEPT. Returns the index of the oldest one kept, 0 if fewer than KEPT
    are left: then the log is the second copy and must stay whole.
    """
    known = list_checkpoints(directory)
    good = [index for index, _ in known if index not in damaged]
    kept = set(good[:KEPT])
    unneeded = [path for index, path in known if index not in kept]
    with storage_errors(f"remove old checkpoints in {directory}"):
        for path in unneeded:
            os.unlink(path)
        if unneeded:
            sync_directory(directory)
    return min(kept) if len(kept) == KEPT else 0
