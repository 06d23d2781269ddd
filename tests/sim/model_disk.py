"""
A member's disk as the log promises it: a sequence of records of which a prefix is durable.

    durable (MemoryStorage)      under way (a list of records, in the order of the Readys)
    |------------------------|----------------------------------------|
                             ^ sync moves this on; a power loss keeps everything before it and any prefix behind it

The records of a Ready are, in this order: its snapshot, each of its entries, its hard state; a power loss may cut
between any two of them. Torn and reordered sectors below that are the log's business: log_disk.py simulates those.

Invariant: `durable` is what a restart would find in the worst case; checkers ask it what a promise is worth.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Protocol

from fastkv.raft import ConfState, Entry, HardState, MemoryStorage, Ready, Snapshot

Record = Snapshot | Entry | HardState


class DiskFailed(Exception):
    """The write or the sync failed: the member must end."""


class Disk(Protocol):
    durable: MemoryStorage

    def format(self, hard_state: HardState, entries: list[Entry]) -> None:
        """What a first member begins with, durable on return."""

    def write(self, ready: Ready) -> None:
        """Hand over what a Ready wants written. May raise DiskFailed."""

    def sync(self, number: int) -> None:
        """What the Readys up to this number wrote becomes durable. May raise DiskFailed."""

    def save_snapshot(self, index: int, conf: ConfState, data: bytes, keep: int) -> None:
        """The member's own state at an applied index, durable on return; the log keeps `keep` entries before it."""

    def lose_power(self) -> None:
        """What was not synced is lost, more or less."""

    def end_process(self) -> None:
        """The process is gone (kill -9), but what it wrote is still on its way to the disk and arrives."""

    def recover(self) -> None:
        """What a new process finds becomes `durable`."""

    def fail_next_sync(self) -> None: ...


class ModelDisk:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.durable = MemoryStorage()
        self._under_way: deque[tuple[int, list[Record]]] = deque()
        self._fails = False

    def format(self, hard_state: HardState, entries: list[Entry]) -> None:
        self.durable.persist(hard_state, entries)

    def write(self, ready: Ready) -> None:
        records: list[Record] = []
        if ready.snapshot is not None:
            records.append(ready.snapshot)
        records += ready.entries
        if ready.hard_state is not None:
            records.append(ready.hard_state)
        self._under_way.append((ready.number, records))

    def sync(self, number: int) -> None:
        if self._fails:
            raise DiskFailed
        while self._under_way and self._under_way[0][0] <= number:
            for record in self._under_way.popleft()[1]:
                put(self.durable, record)

    def save_snapshot(self, index: int, conf: ConfState, data: bytes, keep: int) -> None:
        self.durable.create_snapshot(index, conf, data)
        first = self.durable.first_index()
        if index - keep >= first:
            self.durable.compact(index - keep)

    def lose_power(self) -> None:
        records = [record for _, group in self._under_way for record in group]
        for record in records[: self.rng.randrange(len(records) + 1)]:
            put(self.durable, record)
        self._under_way.clear()

    def end_process(self) -> None:
        for _, records in self._under_way:
            for record in records:
                put(self.durable, record)
        self._under_way.clear()

    def recover(self) -> None:
        self._fails = False

    def fail_next_sync(self) -> None:
        self._fails = True


def put(storage: MemoryStorage, record: Record) -> None:
    """Carry out one record, in the order of the log."""
    if isinstance(record, Entry):
        storage.append((record,))
    elif isinstance(record, HardState):
        storage.hard_state = record
    else:
        storage.install(record)
