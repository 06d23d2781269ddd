"""
Where every entry of the log stands: index -> segment, offset, term.

    segment 7: [100 101 102 103]   segment 8: [104 105]        add(103, ...) -> 7: [100 101 102]  8: [103]

Invariants: indexes are contiguous from first_index to last_index; segments do not fall along them.
Thread safety: the engine's `_writing` lock; `term` also without it, because who applies waits for no sync.
"""

from __future__ import annotations

import threading
from typing import NamedTuple


class Place(NamedTuple):
    """Of an entry's record. segment: its sequence; bytes_before: of all records in front of it."""

    term: int
    segment: int
    offset: int
    bytes_before: int


class EntryTable:
    def __init__(self, next_index: int = 1) -> None:
        self.first_index = next_index
        self._places: list[Place] = []
        self._changing = threading.Lock()

    @property
    def last_index(self) -> int:
        return self.first_index + len(self._places) - 1

    def holds(self, index: int) -> bool:
        return self.first_index <= index <= self.last_index

    def place(self, index: int) -> Place:
        assert self.holds(index)
        return self._places[index - self.first_index]

    def term(self, index: int) -> int | None:
        with self._changing:
            return self.place(index).term if self.holds(index) else None

    def add(self, index: int, place: Place) -> None:
        """An entry at or behind last_index + 1 at most; it cuts what was there."""
        assert index <= self.last_index + 1
        with self._changing:
            self.first_index = min(self.first_index, index)
            del self._places[index - self.first_index :]
            self._places.append(place)

    def go_on_after(self, index: int, term: int) -> None:
        """
        The next entry is index + 1. What is here up to index stays only if it ends with this term: else it is of
        another history.
        """
        kept = index + 1 - self.first_index if self.term(index) == term else 0
        with self._changing:
            self.first_index = self.first_index if kept else index + 1
            del self._places[kept:]

    def drop_segment(self, sequence: int) -> None:
        """The oldest one."""
        with self._changing:
            count = 0
            while count < len(self._places) and self._places[count].segment <= sequence:
                count += 1
            self.first_index += count
            del self._places[:count]
