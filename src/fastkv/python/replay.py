"""
The records of a log that was scanned, carried out: what it holds now, and how much of that is committed.

    entry 1  entry 2  entry 3  entry 2'  mark 7  entry 8   ->   table: 8   floor: 7
                      `-- cut by --'     `-- cuts what is not its own history

Invariants: a log that leaves something out, or says what its record's type cannot, is refused with file and offset.
Thread safety: none; used once, at open.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fastkv.python import log
from fastkv.python.entries import EntryTable, Place
from fastkv.python.payloads import CONF_CHANGE, Entry, HardState, Mark, decode_clean
from fastkv.python.recovery import Place as FilePlace
from fastkv.python.recovery import Scan


class Replay:
    def __init__(self, found: Scan, next_index: int) -> None:
        """next_index: of the next entry, where there is no segment to say it."""
        self.table = EntryTable(next_index)
        self.floor = Mark(0, 0)
        self.newest: dict[int, tuple[bytes, int]] = {}  # Log.newest
        self.bytes = 0
        self.applied_index = 0  # as a clean close said
        self._entries: dict[int, tuple[Entry, FilePlace]] = {}  # those that were cut may be left behind the last one
        segments = found.end.segments
        if segments:
            self.table = EntryTable(segments[0].header.first_index)
        records = iter(found.records)
        following = next(records, None)
        for path, header in segments:
            if header.first_index != self.table.last_index + 1:
                what = f"it begins with entry {header.first_index}, the last one was {self.table.last_index}"
                raise FilePlace(path, 0).corrupt(what)
            while following is not None and following[1].path == path:
                record, place = following
                try:
                    self._take(record, place, header.sequence)
                except (struct.error, ValueError) as error:
                    raise place.corrupt(f"what it holds is not what its type {record.type} says") from error
                self.bytes += record.size
                following = next(records, None)

    def _take(self, record: log.LogRecord, place: FilePlace, sequence: int) -> None:
        match record.type:
            case log.ENTRY:
                entry = Entry.decode(record.payload)
                if not self.floor.index < entry.index <= self.table.last_index + 1:
                    raise place.corrupt(f"entry {entry.index} follows entry {self.table.last_index}")
                self.table.add(entry.index, Place(entry.term, sequence, place.offset, self.bytes))
                self._entries[entry.index] = entry, place
            case log.HARD_STATE:
                HardState.decode(record.payload)
                self.newest[record.type] = record.payload, sequence
            case log.SNAPSHOT:
                self.floor = Mark.decode(record.payload)
                self.table.go_on_after(*self.floor)
            case log.CLEAN:
                self.applied_index = decode_clean(record.payload)
            case log.META:
                self.newest[record.type] = record.payload, sequence

    def begin_after(self, index: int, term: int) -> bool:
        """
        The state up to here is loaded. Whether the log must be told to go on from there: it ends before, or has an
        entry of another term there (a snapshot was received and the crash came before its mark: what the log holds is
        of a history that was given up).
        """
        table = self.table
        superseded = index > self.floor.index and table.term(index) not in (None, term)
        behind = index > table.last_index or superseded
        if behind:
            self.table = EntryTable(index + 1)
        if behind or index >= self.floor.index:
            self.floor = Mark(index, term)
        return behind

    def entries_after(self, index: int) -> Iterator[tuple[Entry, FilePlace]]:
        for at in range(max(index + 1, self.table.first_index), self.table.last_index + 1):
            yield self._entries[at]


class Committed:
    """Goes along the entries of a log, in order, and says which are committed as far as the log itself can tell."""

    def __init__(self, member: bool, state: HardState) -> None:
        """member: the log was written under Raft; else all of it is committed."""
        self._member, self._state = member, state
        self._changing = False  # what follows needs votes of others

    def covers(self, entry: Entry) -> bool:
        if not self._member or entry.index <= self._state.commit:
            return True
        if not self._state.alone or self._changing or entry.kind == CONF_CHANGE:
            self._changing = True
            return False
        return True
