"""
What an engine has on disk: directory, log and checkpoints together, from recovery to close.

    open:   lock -> newest good checkpoint -> scan the log, cut a torn tail -> apply the entries above the checkpoint
    commit: batch -> entry record -> sync
    later:  checkpoint -> drop the segments that it (and the one before it) makes unnecessary

    batch   := origin:u64 sequence:u64 command*         origin 0: an embedded store; sequence: the entry's index
    command := tag:varint length:varint payload

Invariants: what was acknowledged is found again, or open() raises and names what is damaged; never less without a word.
Thread safety: none; the engine's `_writing` lock (write_checkpoint: the engine's `_checkpointing` lock).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fastkv import errors
from fastkv.engine import Options
from fastkv.python import checkpoint, log, recovery, validate
from fastkv.python.checkpoint import Picture
from fastkv.python.directory import Directory, storage_errors
from fastkv.python.log import INDEX_MAX, Log
from fastkv.python.recovery import Place
from fastkv.python.store import Store
from fastkv.python.wire import read_varint, varint

TERM = 1  # of a store without Raft

READONLY_ATTEMPTS = 3

_BATCH = struct.Struct("<QQ")
_ONE = struct.Struct("<Q")
_TWO = struct.Struct("<QQ")
_HARD_STATE = struct.Struct("<QQQ")


@dataclass
class Recovered:
    store: Store
    index: int
    meta: bytes


def encode_batch(index: int, commands: Iterable[tuple[int, bytes]]) -> bytes:
    parts = [_BATCH.pack(0, index)]
    for tag, payload in commands:
        parts += (varint(tag), varint(len(payload)), payload)
    return b"".join(parts)


def decode_batch(batch: bytes) -> list[tuple[int, bytes]]:
    """MALFORMED or ValueError: not a batch."""
    commands = []
    at = _BATCH.size
    while at < len(batch):
        tag, at = read_varint(batch, at)
        length, at = read_varint(batch, at)
        if tag not in validate.TAGS or length > len(batch) - at:
            raise ValueError(f"a command of tag {tag} and {length} bytes")
        commands.append((tag, batch[at : at + length]))
        at += length
    if len(batch) < _BATCH.size:
        raise ValueError("too short")
    return commands


class Storage:
    def __init__(self, directory: Directory, options: Options) -> None:
        self.directory = directory
        self.options = options
        self.log: Log
        self.checkpoint_index = self.checkpoint_bytes = 0
        self._bytes_before = 0  # of log records since the checkpoint, as found at open ...
        self._bytes_at_checkpoint = 0  # ... and what log.bytes was when the last picture was taken
        self._damaged: set[int] = set()  # checkpoints
        self._hard_state = b""

    @classmethod
    def open(cls, path: str, options: Options) -> tuple[Storage, Recovered]:
        storage = cls(Directory.open(path, options.readonly), options)
        try:
            return storage, storage._recover_beside_a_writer() if options.readonly else storage._recover()
        except BaseException:
            storage.directory.release()
            raise

    def _say(self, line: str) -> None:
        if self.options.log is not None:
            self.options.log(line)

    # -- recovery ---------------------------------------------------------------------------------------------

    def _recover_beside_a_writer(self) -> Recovered:
        """A readonly open may see files grow or go while it reads them: what looks like damage is looked at again."""
        for _ in range(READONLY_ATTEMPTS - 1):
            try:
                return self._recover()
            except errors.StorageError:
                continue
        return self._recover()

    def _recover(self) -> Recovered:
        readonly = self.options.readonly
        if not readonly:
            checkpoint.remove_unfinished(self.directory.checkpoint_path)
        picture, reach, reason = self._load_checkpoint()
        found = recovery.scan(self.directory.log_path)
        replay = _Replay(picture, found, reason if reach else None)
        if replay.last_index < reach:
            raise reason
        clean = bool(found.records) and found.records[-1][0].type == log.CLEAN
        if found.torn_bytes:
            where = f"{found.place.path} at offset {found.place.offset}" if found.place else self.directory.log_path
            self._say(f"{found.torn_bytes} bytes of a torn write {'left out' if readonly else 'cut'}: {where}")
        if picture.index > replay.last_index:
            self._say(f"the log ends at entry {replay.last_index}, going on from the checkpoint at {picture.index}")
        if not readonly:
            recovery.repair(self.directory.log_path, found)
        store = checkpoint.restore_store(picture)
        for batch, place in replay.batches:
            _apply(store, batch, place)
        index = max(replay.last_index, picture.index)
        sizes = self.options.segment_bytes_first, self.options.segment_bytes_max
        self.log = Log(self.directory.log_path, found.end, found.durable, replay.last_index, sizes, readonly)
        self.log.newest, self.log.last_is_clean = replay.newest, clean
        self._hard_state = replay.hard_state
        self._bytes_before = replay.bytes
        self.checkpoint_index = picture.index
        if replay.last_index < picture.index:
            self.log.skip_to(picture.index, picture.term)
        # What is shown from now on must not be lost again. A clean record alone need not be waited for.
        if self.options.sync and not readonly and not (clean and found.durable + 1 >= found.end.number):
            self.log.sync()
        return Recovered(store, index, replay.meta)

    def _load_checkpoint(self) -> tuple[Picture, int, errors.Error]:
        """The newest good one (or the empty state), the index that the log must reach, and why if it does not."""
        reach, reason = 0, errors.Error()
        for index, path in checkpoint.list_checkpoints(self.directory.checkpoint_path):
            try:
                picture = checkpoint.read(path)
            except errors.CorruptError as error:
                self._say(f"checkpoint skipped: {error}")
                self._damaged.add(index)
                if index > reach:
                    reach, reason = index, error
            else:
                with storage_errors(f"read {path}"):
                    self.checkpoint_bytes = os.path.getsize(path)
                return picture, reach, reason
        return Picture(0, 0, 1, -1, [], [], b"", [], b""), reach, reason

    # -- writes -----------------------------------------------------------------------------------------------

    def append_batch(self, index: int, commands: Sequence[tuple[int, bytes]]) -> None:
        self.log.append_entry(TERM, index, encode_batch(index, commands))
        if self.options.sync:
            self.log.sync()

    def append_meta(self, meta: bytes) -> None:
        self.log.append_meta(meta)
        self.log.sync()

    def sync(self) -> None:
        self.log.sync()

    # -- checkpoints ------------------------------------------------------------------------------------------

    @property
    def log_bytes(self) -> int:
        """Of records behind the last checkpoint: what a restart has to replay."""
        return self._bytes_before + self.log.bytes - self._bytes_at_checkpoint

    @property
    def checkpoint_due(self) -> bool:
        return self.log_bytes >= max(self.options.checkpoint_bytes, self.checkpoint_bytes)

    def picture(self, store: Store, index: int, meta: bytes) -> tuple[Picture, int]:
        """The state now, and how many bytes of log it covers."""
        return checkpoint.take_picture(store, index, TERM, meta, self._hard_state), self.log.bytes

    def write_checkpoint(self, picture: Picture) -> None:
        self.checkpoint_bytes = checkpoint.write(self.directory.checkpoint_path, picture)

    def checkpoint_written(self, picture: Picture, log_bytes: int) -> None:
        """Drops what is not needed any more."""
        self.checkpoint_index = picture.index
        self._bytes_before, self._bytes_at_checkpoint = 0, log_bytes
        self._damaged.discard(picture.index)
        oldest = checkpoint.prune(self.directory.checkpoint_path, self._damaged)
        self._damaged.clear()
        if oldest:
            self.log.drop_before(oldest)

    def stats(self) -> dict[str, int]:
        return {
            "log_bytes": self.log_bytes,
            "checkpoint_bytes": self.checkpoint_bytes,
            "checkpoint_index": self.checkpoint_index,
            "syncs": self.log.syncs,
        }

    # -- close ------------------------------------------------------------------------------------------------

    def close_log(self, applied_index: int) -> None:
        self.log.sync()
        if not self.log.segments or self.log.last_is_clean:
            return
        with suppress(errors.QuotaError):  # the clean record is only a help: a full disk does without
            self.log.append_clean(applied_index)
        self.log.sync()

    def release(self) -> None:
        self.log.close()
        self.directory.release()


class _Replay:
    """What the log adds to a checkpoint: batches above its index, in order, and the newest meta and hard state."""

    def __init__(self, picture: Picture, found: recovery.Scan, damaged: errors.Error | None) -> None:
        """damaged: what is wrong with a newer checkpoint, if there is one: the cause, where the log begins too late."""
        self.batches: list[tuple[bytes, Place]] = []
        self.meta, self.hard_state = picture.meta, picture.hard_state
        self.newest: dict[int, tuple[bytes, int]] = {}  # Log.newest
        segments = found.end.segments
        self.last_index = segments[0].header.first_index - 1 if segments else picture.index
        self.bytes = 0
        self._start = picture.index
        self._snapshot_index = 0
        if self.last_index > picture.index:
            if damaged is not None:
                raise damaged
            place = Place(segments[0].path, 0)
            raise place.corrupt(f"it begins at entry {self.last_index + 1}, the checkpoint ends at {picture.index}")
        records = iter(found.records)
        following = next(records, None)
        for path, header in segments:
            if header.first_index != self.last_index + 1:
                what = f"it begins with entry {header.first_index}, the last one was {self.last_index}"
                raise Place(path, 0).corrupt(what)
            while following is not None and following[1].path == path:
                record, place = following
                self.bytes += record.size
                try:
                    self._take(record, place, header.sequence)
                except struct.error as error:
                    raise place.corrupt(f"what it holds is not what its type {record.type} says") from error
                following = next(records, None)

    def _take(self, record: log.LogRecord, place: Place, sequence: int) -> None:
        match record.type:
            case log.ENTRY:
                index = _TWO.unpack_from(record.payload)[1]
                if not self._snapshot_index < index <= min(self.last_index + 1, INDEX_MAX):
                    raise place.corrupt(f"entry {index} follows entry {self.last_index}")
                if index <= self._start:
                    self.batches.clear()
                    self.bytes = 0
                else:
                    del self.batches[index - self._start - 1 :]
                    self.batches.append((record.payload[_TWO.size :], place))
                self.last_index = index
            case log.HARD_STATE:
                _HARD_STATE.unpack(record.payload)
                self.hard_state = record.payload
                self.newest[record.type] = record.payload, sequence
            case log.CLEAN:
                _ONE.unpack(record.payload)
            case log.SNAPSHOT:
                index = self._snapshot_index = _TWO.unpack(record.payload)[0]
                if index > max(self.last_index, self._start):
                    raise place.corrupt(f"the state up to entry {index} should be in a checkpoint")
                del self.batches[max(index - self._start, 0) :]
                self.last_index = index
            case log.META:
                self.meta = record.payload
                self.newest[record.type] = record.payload, sequence


def _apply(store: Store, batch: bytes, place: Place) -> None:
    try:
        commands = decode_batch(batch)
    except (ValueError, errors.InvalidRequestError) as error:
        raise place.corrupt(f"the entry is not a batch ({error})") from error
    for tag, payload in commands:
        try:
            store.apply(validate.parse(tag, payload))
        except errors.Error:
            continue  # it failed when it was new, and changed nothing then either
