"""
One member's log: a tail in memory over what the storage holds.

        storage                      tail (memory)
    |-------------------|-------------------------------------|
    first            offset   applied  stable  written  last_index
                                       <------->
                                       being written: in a Ready that is not persisted yet

Invariants:
* applied <= applying <= commit <= last_index; applying <= stable <= written <= last_index.
* what leaves the tail at its front is persisted and applied; the storage can return it.
* an entry at or below commit is never replaced (§5.3, §5.4).
* `stable` never counts an entry that was overwritten after it was handed to the disk, not even if an equal one took its
  place: Writes under way are clipped when the log is cut (see `cut`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from fastkv.raft.errors import Compacted, InvariantError, Unavailable
from fastkv.raft.messages import Entry, Snapshot
from fastkv.raft.storage import Storage, limit_bytes


class Write:
    """What one Ready gave to the disk: durable up to `index` (clipped when the log was cut since), term and vote."""

    __slots__ = ("index", "number", "snapshot", "term", "vote")

    def __init__(self, number: int, index: int, term: int, vote: int, snapshot: Snapshot | None) -> None:
        self.number = number
        self.index = index
        self.term = term
        self.vote = vote
        self.snapshot = snapshot


class RaftLog:
    """See the module's page. Byte counts are of the entries' data."""

    __slots__ = (
        "_base_term", "_storage", "_tail", "_tail_bytes", "_tail_bytes_max", "applied", "applying", "commit", "offset",
        "pending_snapshot", "stable", "writes", "written",
    )  # fmt: skip

    def __init__(self, storage: Storage, applied: int, commit: int, tail_bytes_max: int) -> None:
        last = storage.last_index()
        first = storage.first_index()
        if not first - 1 <= applied <= commit <= last:
            raise InvariantError(
                f"applied {applied}, commit {commit}, log {first}..{last}: log and state do not belong together, "
                "or a part was lost"
            )
        self._storage = storage
        self._tail: list[Entry] = []
        self._tail_bytes = 0
        self._tail_bytes_max = tail_bytes_max
        self._base_term = storage.term(last)  # of the entry at offset - 1
        self.offset = last + 1
        self.stable = last
        self.written = last
        self.commit = commit
        self.applying = applied
        self.applied = applied
        self.pending_snapshot: Snapshot | None = None
        self.writes: deque[Write] = deque()

    # -- reading ----------------------------------------------------------------------------------------------
    @property
    def last_index(self) -> int:
        return self.offset + len(self._tail) - 1

    @property
    def last_term(self) -> int:
        return self._tail[-1].term if self._tail else self._base_term

    def term(self, index: int) -> int:
        """Compacted or Unavailable if the log does not know it."""
        place = index - self.offset
        if place >= 0:
            if place >= len(self._tail):
                raise Unavailable(f"term of {index}: the log ends at {self.last_index}")
            return self._tail[place].term
        if place == -1:
            return self._base_term
        if self.pending_snapshot is not None:
            raise Compacted(f"term of {index}: the log begins at {self.offset}")
        return self._storage.term(index)

    def matches(self, index: int, term: int) -> bool:
        """Whether the log holds this entry."""
        try:
            return self.term(index) == term
        except (Compacted, Unavailable):
            return False

    def knows_other(self, index: int, term: int) -> bool:
        """Whether the log holds another entry at this index."""
        try:
            return self.term(index) != term
        except (Compacted, Unavailable):
            return False

    def first_index(self) -> int:
        """The first entry that `entries` can return."""
        return self.offset if self.pending_snapshot is not None else min(self.offset, self._storage.first_index())

    def entries(self, lo: int, max_bytes: int, hi: int = 0) -> list[Entry]:
        """Entries from lo (up to hi, exclusive), at most max_bytes but at least one if there is any. Compacted."""
        end = hi or self.last_index + 1
        if lo >= end:
            return []
        offset = self.offset
        if lo >= offset:
            return limit_bytes(self._tail[lo - offset : end - offset], max_bytes)
        if self.pending_snapshot is not None:
            raise Compacted(f"entries from {lo}: the log begins at {offset}")
        return self._storage.entries(lo, min(end, offset), max_bytes)

    def snapshot(self) -> Snapshot:
        return self._storage.snapshot()

    def up_to_date(self, index: int, term: int) -> bool:
        """Whether a log that ends so is at least as up-to-date as this one (§5.4.1)."""
        last_term = self.last_term
        return term > last_term or (term == last_term and index >= self.last_index)

    def conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The highest (index, term) at or below index whose term is at most `term`; a whole term is skipped at a time.

        With it each side leaves out what cannot match (§5.3, last paragraphs). Term 0: the log does not reach so far
        back.
        """
        while index > 0:
            try:
                own = self.term(index)
            except (Compacted, Unavailable):
                return index, 0
            if own <= term:
                return index, own
            index -= 1
        return 0, 0

    # -- writing ----------------------------------------------------------------------------------------------
    def append(self, entries: Sequence[Entry]) -> None:
        """Put entries at the end, or in place of those from entries[0].index on."""
        first = entries[0].index
        if first <= self.last_index:
            self.cut(first)
        elif first != self.last_index + 1:
            raise InvariantError(f"append at {first} to a log that ends at {self.last_index}")
        self._tail.extend(entries)
        self._tail_bytes += sum([len(entry.data) for entry in entries])

    def cut(self, first: int) -> None:
        """Drop entries from `first` on.

        A write that is under way may have reached the disk with them, and a later one may bring back an entry of the
        same index and term. Until that later one is durable the disk may end up with neither, so the earlier one must
        not count for more than what the two have in common.
        """
        if first <= self.commit:
            raise InvariantError(f"entry {first} would be replaced, but everything up to {self.commit} is committed")
        if first < self.offset:
            self._base_term = self.term(first - 1)
            self.offset = first
            self._tail.clear()
            self._tail_bytes = 0
        else:
            gone = self._tail[first - self.offset :]
            del self._tail[first - self.offset :]
            self._tail_bytes -= sum([len(entry.data) for entry in gone])
        last = first - 1
        self.stable = min(self.stable, last)
        self.written = min(self.written, last)
        for write in self.writes:
            write.index = min(write.index, last)

    def try_append(self, index: int, term: int, entries: Sequence[Entry]) -> bool:
        """The follower's consistency check (§5.3): False unless the entry before them is here.

        Entries that are here already stay: a late APPEND must not cut off what came after it.
        """
        if not self.matches(index, term):
            return False
        if index == self.last_index:
            if entries:
                self.append(entries)
            return True
        for place, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                self.append(entries[place:])
                break
        return True

    def commit_to(self, index: int) -> bool:
        """Raise the commit index; it never falls. Whether it rose."""
        if index <= self.commit:
            return False
        if index > self.last_index:
            raise InvariantError(
                f"commit {index} is out of range: the log ends at {self.last_index}. Was it damaged, truncated or lost?"
            )
        self.commit = index
        return True

    def restore(self, snapshot: Snapshot) -> None:
        """A snapshot takes the place of the whole log."""
        for write in self.writes:
            write.index = 0
        self.pending_snapshot = snapshot
        self.offset = snapshot.index + 1
        self._base_term = snapshot.term
        self._tail.clear()
        self._tail_bytes = 0
        self.stable = self.written = self.commit = self.applying = snapshot.index

    # -- the disk's and the state machine's side --------------------------------------------------------------
    def take_unwritten(self) -> list[Entry]:
        """What the disk has not been given yet."""
        entries = self._tail[self.written + 1 - self.offset :]
        self.written = self.last_index
        return entries

    def has_unwritten(self) -> bool:
        return self.written < self.last_index

    def persisted(self, number: int) -> Write | None:
        """The writes up to `number` are durable; the last of them, or None if there is none."""
        write = None
        while self.writes and self.writes[0].number <= number:
            write = self.writes.popleft()
            self.stable = max(self.stable, write.index)
            if write.snapshot is not None and write.snapshot is self.pending_snapshot:
                self.pending_snapshot = None
        return write

    def has_committed(self) -> bool:
        """Whether there is something to apply. Nothing is applied before it is durable here, so that a state never
        runs ahead of its own log; and nothing behind a snapshot that is not installed."""
        return self.applying < min(self.commit, self.stable) and self.pending_snapshot is None

    def take_committed(self, max_bytes: int) -> list[Entry]:
        """The next entries to apply."""
        hi = min(self.commit, self.stable) + 1
        entries = self.entries(self.applying + 1, max_bytes, hi)
        if not entries or entries[0].index != self.applying + 1:
            raise InvariantError(f"the log returned no entry {self.applying + 1}, which is below {hi}")
        self.applying = entries[-1].index
        return entries

    def applied_to(self, index: int) -> None:
        if not self.applied <= index <= self.applying:
            raise InvariantError(f"applied {index}, but {self.applied} was applied and {self.applying} handed out")
        self.applied = index
        if self._tail_bytes > self._tail_bytes_max:
            self._release()

    def _release(self) -> None:
        """Leave to the storage what it has and nobody here needs; a quarter at a time, so that it is rarely done."""
        spare = min(self.stable, self.applied) + 1 - self.offset
        goal = self._tail_bytes_max * 3 // 4
        count = 0
        while count < spare and self._tail_bytes > goal:
            self._tail_bytes -= len(self._tail[count].data)
            count += 1
        if count:
            self._base_term = self._tail[count - 1].term
            self.offset += count
            del self._tail[:count]
