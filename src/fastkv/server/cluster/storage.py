"""
What raft.Node reads back: raft.Storage over a ReplicatedEngine, and the snapshots that were offered to it.

Raft names a snapshot when it decides to send one, and the stream begins a moment later: until then the reader of that
very checkpoint is kept here, so that what is sent is what was named.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

from fastkv.engine import ReplicatedEngine, SnapshotReader
from fastkv.errors import Code, StorageError
from fastkv.raft import Compacted, ConfState, Entry, EntryKind, HardState, Snapshot, Unavailable
from fastkv.server.cluster import membership

_KINDS = tuple(EntryKind)


class EngineStorage:
    def __init__(self, engine: ReplicatedEngine, base: int) -> None:
        """base: Membership.base; nobody is sent entries up to there."""
        self._engine = engine
        self._base = base
        self._offered: dict[int, SnapshotReader] = {}  # by index; of several members' offers one is enough

    def initial_state(self) -> tuple[HardState, ConfState]:
        return HardState(*self._engine.log_state()), membership.decode(self._engine.membership).conf()

    def first_index(self) -> int:
        return max(self._engine.log_first, self._base + 1)

    def last_index(self) -> int:
        return self._engine.log_last

    def term(self, index: int) -> int:
        try:
            return self._engine.log_term(index)
        except StorageError as error:
            raise self._gone(index, error) from error

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        if lo <= self._base:
            raise Compacted(f"entries from {lo}: what they lead to is only in a snapshot")
        try:
            found = self._engine.log_entries(lo, hi, max_bytes)
        except StorageError as error:
            raise self._gone(lo, error) from error
        return [Entry(term, index, _KINDS[kind], data) for term, index, kind, data in found]

    def _gone(self, index: int, error: StorageError) -> Exception:
        if error.number != Code.NOT_FOUND:
            return error
        return Compacted(str(error)) if index < self._engine.log_first else Unavailable(str(error))

    # -- snapshots --------------------------------------------------------------------------------------------
    def snapshot(self) -> Snapshot:
        reader = self._engine.snapshot_open()
        if reader is None:
            raise Unavailable("a checkpoint is being written")
        for index in [index for index in self._offered if index <= reader.index]:
            self._offered.pop(index).close()
        self._offered[reader.index] = reader
        return Snapshot(reader.index, reader.term, membership.decode(reader.membership).conf())

    def take_reader(self, index: int) -> SnapshotReader | None:
        """The checkpoint that was named; the caller closes it. None: it is gone, raft must name another one."""
        if (offered := self._offered.pop(index, None)) is not None:
            return offered
        reader = self._engine.snapshot_open()
        if reader is not None and reader.index != index:
            reader.close()
            return None
        return reader

    def close(self) -> None:
        for reader in self._offered.values():
            reader.close()
        self._offered.clear()
