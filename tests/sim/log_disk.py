"""
A member's disk as it really is: the log of fastkv.python.log on files that a power loss tears (faulty_files.py).

    Ready      -> snapshot file, SNAPSHOT record; an ENTRY record for each entry; a HARD_STATE record; one sync
    restart    -> recovery.scan, repair; the newest snapshot file that counts; replay -> `durable`

`durable` is a MemoryStorage that follows what is synced, because the log is not read while it is written. A restart
throws it away and reads the log. What it finds must be what was synced and, behind it, a prefix of the records that
were under way, or `recovery` is violated: no torn record may count, nothing synced may be missing.

Snapshot files are this module's (a store's checkpoints belong to the engine's tests): own ones count when they have
their name; received ones when the log says so. Segments are tiny, so that there are many. ENTRY holds kind:u8 data.
"""

from __future__ import annotations

import os
import random
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from fastkv import errors
from fastkv.python import log, recovery
from fastkv.raft import ConfState, Entry, EntryKind, HardState, Kind, MemoryStorage, Message, Ready, Snapshot
from fastkv.raft.codec import decode_message, encode_message
from sim.faulty_files import FaultyFiles
from sim.model_disk import DiskFailed, Record, put
from sim.violation import Violation

_HARD_STATE = struct.Struct("<QQQ")
_TWO = struct.Struct("<QQ")
_LOG, _SNAPSHOTS = "log", "snapshots"
_SEGMENT_BYTES = 700, 3000
OWN, RECEIVED = "own", "received"


class LogDisk:
    def __init__(self, rng: random.Random) -> None:
        self.files = FaultyFiles(rng)
        self.durable = MemoryStorage()
        self._under_way: deque[tuple[int, list[Record]]] = deque()
        self._torn = False  # the power failed since the last restart
        self.recover()

    def format(self, hard_state: HardState, entries: list[Entry]) -> None:
        records: list[Record] = [*entries, hard_state]
        self._append(records)
        self._under_way.append((0, records))
        self.sync(0)

    # -- writing ----------------------------------------------------------------------------------------------
    @contextmanager
    def _disk(self) -> Iterator[None]:
        with self.files.mounted():
            try:
                yield
            except (errors.Error, OSError) as error:
                raise DiskFailed from error

    def write(self, ready: Ready) -> None:
        records: list[Record] = [] if ready.snapshot is None else [ready.snapshot]
        records += ready.entries
        if ready.hard_state is not None:
            records.append(ready.hard_state)
        self._under_way.append((ready.number, records))
        self._append(records)

    def _append(self, records: list[Record]) -> None:
        with self._disk():
            for record in records:
                if isinstance(record, Entry):
                    self._log.append_entry(record.term, record.index, bytes([record.kind]) + record.data)
                elif isinstance(record, HardState):
                    self._log._append(log.HARD_STATE, _HARD_STATE.pack(*record))
                else:
                    self._write_snapshot(record, RECEIVED)
                    self._log.append_snapshot(record.index, record.term)

    def sync(self, number: int) -> None:
        with self._disk():
            self._log.sync()
        while self._under_way and self._under_way[0][0] <= number:
            for record in self._under_way.popleft()[1]:
                put(self.durable, record)

    def save_snapshot(self, index: int, conf: ConfState, data: bytes, keep: int) -> None:
        snapshot = Snapshot(index, self.durable.term(index), conf, data)
        with self._disk():
            self._write_snapshot(snapshot, OWN)
            self.durable.create_snapshot(index, conf, data)
            self._log.drop_before(index - keep)
            for other, _, name in self._snapshot_names():
                if other < index:
                    self.files.unlink(f"{_SNAPSHOTS}/{name}")
        if index - keep >= self.durable.first_index():
            self.durable.compact(index - keep)

    def _write_snapshot(self, snapshot: Snapshot, origin: str) -> None:
        """To .tmp, synced, renamed, the directory synced, like a checkpoint."""
        files, name = self.files, f"{_SNAPSHOTS}/{snapshot.index:016x}.{origin}"
        fd = files.open(name + ".tmp", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        files.pwrite(fd, encode_message(Message(Kind.SNAPSHOT, 1, 1, 1, snapshot=snapshot)), 0)
        files.fsync(fd)
        files.close(fd)
        files.rename(name + ".tmp", name)
        fd = files.open(_SNAPSHOTS, os.O_DIRECTORY)
        files.fsync(fd)
        files.close(fd)

    # -- failing ----------------------------------------------------------------------------------------------
    def fail_next_sync(self) -> None:
        self.files.fail_next_sync = True

    def lose_power(self) -> None:
        self._torn = True
        self.files.lose_power()

    def end_process(self) -> None:
        self.files.end_process()

    # -- reading back -----------------------------------------------------------------------------------------
    def recover(self) -> None:
        with self.files.mounted():
            found = recovery.scan(_LOG)
            recovery.repair(_LOG, found)
            replay = _Replay(found)
            storage = self._storage(replay)
            self._log = log.Log(_LOG, found.end, found.durable, storage.last_index(), _SEGMENT_BYTES, False)
            self._log.newest = replay.newest
            self._log.sync()
        self._compare(storage)
        self.durable = storage
        self._torn = False
        self._under_way.clear()

    def _snapshot_names(self) -> list[tuple[int, str, str]]:
        """(index, origin, name), the newest last."""
        names = [name for name in self.files.listdir(_SNAPSHOTS) if not name.endswith(".tmp")]
        return sorted((int(name.partition(".")[0], 16), name.partition(".")[2], name) for name in names)

    def _storage(self, replay: _Replay) -> MemoryStorage:
        storage = MemoryStorage()
        for index, origin, name in self._snapshot_names():
            if origin == OWN or (index, RECEIVED) in replay.snapshots:
                with self.files.open_by_name(f"{_SNAPSHOTS}/{name}", "rb") as file:
                    snapshot = decode_message(file.read()).snapshot
                assert snapshot is not None
                storage.newest = snapshot
        entries = replay.entries
        if not entries or entries[0].index == storage.newest.index + 1:
            storage._base = (storage.newest.index, storage.newest.term)
        elif entries[0].index > 1:
            # The first entry that is left tells its own term, and nothing that of the one before.
            storage._base = (entries[0].index, entries[0].term)
        storage._entries = [entry for entry in entries if entry.index > storage._base[0]]
        storage.hard_state = replay.hard_state
        return storage

    def _compare(self, storage: MemoryStorage) -> None:
        """What was found is what was synced and a prefix of the records under way; all of them if no power failed."""
        records = [record for _, group in self._under_way for record in group]
        expected = self.durable
        for count in range(len(records) + 1):
            if count:
                put(expected, records[count - 1])
            if (count == len(records) or self._torn) and _equal(expected, storage):
                return
        raise Violation(
            "recovery",
            f"found {storage.hard_state}, log {storage.first_index()}..{storage.last_index()}, snapshot "
            f"{storage.newest.index}; written was {expected.hard_state}, log up to {expected.last_index()}, snapshot "
            f"{expected.newest.index}, of that {len(records)} records unsynced",
        )


def _equal(expected: MemoryStorage, found: MemoryStorage) -> bool:
    """The one that was found may reach further back, since a log is dropped by segments."""
    last = expected.last_index()
    if (expected.hard_state, last) != (found.hard_state, found.last_index()) or expected.newest != found.newest:
        return False
    first = max(expected.first_index(), found.first_index())
    everything = 1 << 62
    return first > last or expected.entries(first, last + 1, everything) == found.entries(first, last + 1, everything)


class _Replay:
    """The records of a log, carried out."""

    def __init__(self, found: recovery.Scan) -> None:
        self.entries: list[Entry] = []
        self.hard_state = HardState()
        self.snapshots: set[tuple[int, str]] = set()
        self.newest: dict[int, tuple[bytes, int]] = {}
        sequences = {segment.path: segment.header.sequence for segment in found.end.segments}
        for record, place in found.records:
            if record.type == log.ENTRY:
                self._entry(record.payload)
            elif record.type == log.HARD_STATE:
                self.hard_state = HardState(*_HARD_STATE.unpack(record.payload))
                self.newest[log.HARD_STATE] = record.payload, sequences[place.path]
            elif record.type == log.SNAPSHOT:
                self.snapshots.add((_TWO.unpack(record.payload)[0], RECEIVED))
                self.entries.clear()

    def _entry(self, payload: bytes) -> None:
        term, index = _TWO.unpack_from(payload)
        entry = Entry(term, index, EntryKind(payload[16]), payload[17:])
        if self.entries:
            del self.entries[max(index - self.entries[0].index, 0) :]
        self.entries.append(entry)
