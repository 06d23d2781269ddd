"""
What the core reads back from the disk, and a storage in memory for tests and the simulator.

The core never writes: the caller carries out a Ready and then says `persisted`. From then on the storage must show what
was written. It is asked only for what the core no longer keeps in memory: a follower far behind, entries to apply after
a restart.

    snapshot.index   first_index ............ last_index
         |               |                        |
         +---------------+------------------------+
         first_index = snapshot.index + 1 or lower (a log may keep entries that a snapshot holds too)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fastkv.raft.errors import Compacted, InvariantError, Unavailable
from fastkv.raft.messages import ConfState, Entry, HardState, Snapshot

NOBODY = ConfState()


class Storage(Protocol):
    """The durable log, for reading. Indexes are inclusive below and exclusive above, as in `range`."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """What was found at the start; the configuration as of `Config.applied`. Called once."""

    def first_index(self) -> int:
        """The first entry that `entries` can return; last_index() + 1 if there is none."""

    def last_index(self) -> int:
        """The last entry, or the index of the snapshot that stands for all of them; 0 when there was never anything."""

    def term(self, index: int) -> int:
        """The term of an entry, also of first_index() - 1. Compacted below that, Unavailable beyond the last."""

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        """Entries [lo, hi), cut so that their data is at most max_bytes, but at least one. Compacted if lo is gone."""

    def snapshot(self) -> Snapshot:
        """The newest snapshot that could be sent, with the configuration as of it. Unavailable: ask again later."""


class MemoryStorage:
    """A Storage in memory. `persist` does with a Ready what a node does with its disk."""

    def __init__(self, conf: ConfState = NOBODY) -> None:
        """An empty log whose first configuration is `conf`, as if a snapshot at index 0 held it."""
        self.hard_state = HardState()
        self.newest = Snapshot(0, 0, conf)
        self._base = (0, 0)  # (index, term) of the entry before the first one
        self._entries: list[Entry] = []

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self.hard_state, self.newest.conf

    def first_index(self) -> int:
        return self._base[0] + 1

    def last_index(self) -> int:
        return self._base[0] + len(self._entries)

    def term(self, index: int) -> int:
        base, base_term = self._base
        if index == base:
            return base_term
        if index < base:
            raise Compacted(f"term of {index}: the log begins at {base + 1}")
        if index > base + len(self._entries):
            raise Unavailable(f"term of {index}: the log ends at {self.last_index()}")
        return self._entries[index - base - 1].term

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        base = self._base[0]
        if lo <= base:
            raise Compacted(f"entries from {lo}: the log begins at {base + 1}")
        if hi > self.last_index() + 1:
            raise Unavailable(f"entries up to {hi - 1}: the log ends at {self.last_index()}")
        return limit_bytes(self._entries[lo - base - 1 : hi - base - 1], max_bytes)

    def snapshot(self) -> Snapshot:
        if self.newest.index == 0:
            raise Unavailable("no snapshot yet")
        return self.newest

    # -- writing ----------------------------------------------------------------------------------------------
    def persist(self, hard_state: HardState | None, entries: Sequence[Entry], snapshot: Snapshot | None = None) -> None:
        """The durable part of a Ready, in the order that a crash may cut anywhere."""
        if snapshot is not None:
            self.install(snapshot)
        self.append(entries)
        if hard_state is not None:
            self.hard_state = hard_state

    def append(self, entries: Sequence[Entry]) -> None:
        """Entries behind the last one, or from a place inside the log that is cut there first."""
        if not entries:
            return
        place = entries[0].index - self.first_index()
        if not 0 <= place <= len(self._entries):
            raise InvariantError(f"append at {entries[0].index} to a log of {self.first_index()}..{self.last_index()}")
        del self._entries[place:]
        self._entries.extend(entries)

    def install(self, snapshot: Snapshot) -> None:
        """A snapshot that came from the leader replaces the log."""
        self.newest = snapshot
        self._base = (snapshot.index, snapshot.term)
        self._entries.clear()

    def create_snapshot(self, index: int, conf: ConfState, data: bytes = b"") -> Snapshot:
        """A snapshot of one's own state at an applied index; the log is not touched."""
        self.newest = Snapshot(index, self.term(index), conf, data)
        return self.newest

    def compact(self, index: int) -> None:
        """Forget entries up to and including index, which a snapshot must hold."""
        if index > self.newest.index:
            raise InvariantError(f"compact to {index}, but the snapshot holds only {self.newest.index}")
        term = self.term(index)
        del self._entries[: index - self._base[0]]
        self._base = (index, term)


def limit_bytes(entries: list[Entry], max_bytes: int) -> list[Entry]:
    """The longest beginning whose data is at most max_bytes, but at least one entry."""
    size = 0
    for count, entry in enumerate(entries):
        size += len(entry.data)
        if size > max_bytes and count:
            return entries[:count]
    return entries
