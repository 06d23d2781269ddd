"""
The replicated mode of a PythonEngine (engine.py, ReplicatedEngine): what cpp/db/replica.h is in C++.

    node:    log_append(entries, hard state) ---- log_sync() ----> send, persisted
                                              apply(committed entries) ----> answers, watchers, membership
    leader:  snapshot_open() -> bytes ~~~~> snapshot_receive() -> write* -> finish -> snapshot_install()   :follower
    alone:   set_alone(True) -> commit ... commit -> set_alone(False)          without Raft: one entry a batch

Owns what a member must remember beside its state: the hard state, and which changes of membership wait to be applied.

Invariants:
* an entry is applied once, in order, and only as it stands in the log (same term); an applied entry is never cut.
* applied_index, the state and the membership change together, under the engine's `_state`.
* revisions never go back: a snapshot that is not ahead of the applied index is refused.
* either Raft appends and applies, or (alone) commit does. `_alone` changes under `_applying` and `_writing`.
Thread safety: every method from any thread. The engine's locks: `_writing` over the log and all that is said of it
here, `_applying` and in it `_state` over the state.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastkv import errors
from fastkv.errors import Code
from fastkv.python import checkpoint, validate
from fastkv.python.directory import storage_errors, sync_directory
from fastkv.python.payloads import CONF_CHANGE, EMPTY, INDEX_MAX, NORMAL, TERM_MAX, Entry, HardState
from fastkv.python.snapshot import PythonSnapshotReader, PythonSnapshotWriter
from fastkv.python.storage import Recovered, Storage, decode_batch

if TYPE_CHECKING:
    from fastkv.python.engine import PythonEngine

Given = tuple[int, int, int, bytes]  # an entry, as the node has it
Answers = tuple[int, list[tuple[int, bytes]]]


class Replica:
    def __init__(self, engine: PythonEngine, recovered: Recovered) -> None:
        self._engine = engine
        self._state = recovered.state
        self._written = recovered.hard_state  # as the log has it: at open _state may know more
        self._conf_changes = deque(recovered.conf_changes)  # in the log, and not applied when last seen
        self._last_change = max(recovered.conf_changes, default=0)  # the newest of them, also when it is applied
        self._alone = False
        self._expected: set[int] = set()

    @property
    def _storage(self) -> Storage:
        if self._engine._storage is None:
            raise errors.from_code(Code.NOT_FOUND, "fastkv: a store in memory has no log")
        return self._engine._storage

    def _broken(self, what: str) -> errors.Error:
        """An invariant that a caller has broken: only opening again can tell what holds."""
        self._engine._poison = what
        return errors.from_code(Code.POISONED, f"fastkv: {what}")

    def _refuse_if_alone(self) -> None:
        if self._alone:
            raise errors.from_code(Code.READ_ONLY, "fastkv: the member is alone: what it applies comes through commits")

    # -- the log ----------------------------------------------------------------------------------------------

    def log_append(self, given: Sequence[Given], hard_state: tuple[int, int, int] | None, alone: bool) -> None:
        engine = self._engine
        entries = _entries(given)
        if hard_state is not None and not (0 <= hard_state[0] <= TERM_MAX and 0 <= hard_state[2] <= INDEX_MAX):
            raise ValueError(f"no hard state is {hard_state}")
        engine._check_writable()
        for entry in entries:
            if entry.kind == NORMAL and not _is_batch(entry.data):
                raise errors.from_code(Code.MALFORMED, f"entry {entry.index} is not a batch of commands")
        storage = self._storage
        with engine._writing:
            engine._check_writable()
            self._refuse_if_alone()
            self._check_consecutive(entries, storage)
            self._note_changes(entries)
            state = self._state if hard_state is None else HardState(*hard_state)
            # Who votes is certain only while no change of it is under way.
            state = state._replace(alone=alone and not self._conf_changes)
            if state.alone:
                last_index = entries[-1].index if entries else storage.log.table.last_index
                state = state._replace(commit=max(state.commit, last_index))
            write = hard_state is not None or state != self._written
            storage.log.append_group(entries, state if write else None)
            self._state = self._written = state

    def _check_consecutive(self, entries: list[Entry], storage: Storage) -> None:
        if not entries:
            return
        lowest = max(self._engine._applied_index, storage.log.floor.index) + 1
        if not lowest <= entries[0].index <= storage.log.table.last_index + 1:
            raise self._broken(f"entry {entries[0].index} does not fit behind {storage.log.table.last_index}")
        if any(entry.index != entries[0].index + at for at, entry in enumerate(entries)):
            raise self._broken("the entries are not consecutive")

    def _note_changes(self, entries: list[Entry]) -> None:
        changes = self._conf_changes
        while entries and changes and changes[-1] >= entries[0].index:
            changes.pop()
        for entry in entries:
            if entry.kind == CONF_CHANGE:
                changes.append(entry.index)
                self._last_change = entry.index
        while changes and changes[0] <= self._engine._applied_index:
            changes.popleft()

    def log_state(self) -> tuple[int, int, int]:
        with self._engine._writing:
            term, vote, commit, _ = self._state
            return term, vote, max(commit, self._engine._applied_index) if self._alone else commit

    @property
    def log_first(self) -> int:
        engine = self._engine
        if engine._storage is None:
            return 1
        with engine._writing:
            log = engine._storage.log
            first = log.table.first_index
            return first if first == 1 or first - 1 == log.floor.index else first + 1

    @property
    def log_last(self) -> int:
        engine = self._engine
        if engine._storage is None:
            return engine._applied_index
        with engine._writing:
            return engine._storage.log.table.last_index

    def log_term(self, index: int) -> int:
        storage = self._storage
        with self._engine._writing:
            return storage.log.term(index) if index else 0

    def log_entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        entries: list[Entry] = []
        storage = self._storage
        with self._engine._writing:
            for index in range(low, high):
                entry = storage.log.read(index)
                if entries and len(entry.data) > bytes_max:
                    break
                bytes_max -= min(len(entry.data), bytes_max)
                entries.append(entry)
        return entries

    # -- alone ------------------------------------------------------------------------------------------------

    def set_alone(self, on: bool) -> None:
        self._engine._check_writable()
        with self._engine._applying:
            self._engine._check_writable()
            if on:
                self._become_alone()
            elif self._alone:
                self._end_alone()

    def _become_alone(self) -> None:
        engine, storage = self._engine, self._engine._storage
        # Who opens the directory without Raft cannot carry out a change of membership: a checkpoint holds its outcome.
        if storage is not None and self._last_change > storage.checkpoint_index:
            with engine._checkpointing:
                engine._write_checkpoint()
        with engine._writing:
            applied = engine._applied_index
            if not self._alone and storage is not None and storage.log.table.last_index != applied:
                waiting = f"entries {applied + 1} to {storage.log.table.last_index} are not applied yet"
                text = f"fastkv: {waiting}: only who has applied all it holds may be alone"
                raise errors.from_code(Code.READ_ONLY, text)
            identity = engine._store.identity
            term = max(self._state.term, identity.raft_term, engine._term)
            vote = self._state.vote if term == self._state.term and self._state.vote else identity.member_id
            state = HardState(term, vote, max(self._state.commit, applied), True)
            # How far the commits have come since is no reason to write it again.
            if self._written._replace(commit=state.commit) != state:
                self._write(state)
            self._state = state
            self._alone = True
            self._conf_changes.clear()
            engine._term = term
            with engine._queue_lock:
                engine._direct = True

    def _end_alone(self) -> None:
        engine = self._engine
        with engine._queue_lock:
            engine._direct = False
        with engine._writing:
            engine._commit_queue()  # who came before
            engine._check_writable()
            state = self._state._replace(commit=max(self._state.commit, engine._applied_index), alone=False)
            try:
                self._write(state)
            except errors.Error:
                with engine._queue_lock:
                    engine._direct = True
                raise
            self._state = state
            self._alone = False

    def _write(self, state: HardState) -> None:
        """Called with `_writing` held."""
        if self._engine._storage is not None:
            self._engine._storage.log.append_hard_state(state)
            self._written = state

    def closing(self) -> None:
        """Leaves what is known to be committed in the log. It is only a help: the next leader says the same."""
        engine = self._engine
        state = self._state._replace(commit=max(self._state.commit, engine._applied_index))
        if state != self._written and engine._storage is not None:
            try:
                engine._storage.log.append_hard_state(state)
            except errors.QuotaError:
                return

    # -- applying ---------------------------------------------------------------------------------------------

    def apply(self, given: Sequence[Given], membership: bytes | None) -> list[Answers]:
        engine = self._engine
        entries = _entries(given)
        engine._check_writable()
        with engine._applying:
            engine._check_writable()
            self._refuse_if_alone()
            answers: list[Answers] = []
            for number, entry in enumerate(entries, 1):
                if entry.index != engine._applied_index + 1 or not self._is_in_log(entry):
                    raise self._broken(f"entry {entry.index} of term {entry.term} is not the next one in the log")
                answers += self._apply_one(entry, membership if number == len(entries) else None)
                engine._checkpoint_if_due()
            return answers

    def _is_in_log(self, entry: Entry) -> bool:
        storage = self._engine._storage
        return storage is None or storage.log.table.term(entry.index) == entry.term

    def _apply_one(self, entry: Entry, membership: bytes | None) -> list[Answers]:
        engine = self._engine
        commands: list[tuple[int, bytes]] = []
        if entry.kind == NORMAL:
            try:
                commands = decode_batch(entry.data)
            except (ValueError, errors.InvalidRequestError) as error:
                raise self._broken(f"entry {entry.index} is not a batch ({error})") from error
        with engine._state:
            before = engine._store.revision
            results = [self._execute(tag, payload) for tag, payload in commands]
            if membership is not None:
                engine._membership = membership
            engine._applied_index = entry.index
            engine._term = max(engine._term, entry.term)
            engine._batches += 1
            engine._commands += len(commands)
            engine._hub.sweep(before)
            engine._wake.notify_all()
            origin, sequence = entry.batch_id or (None, 0)
            if origin != engine._store.identity.member_id or sequence not in self._expected:
                return []
            self._expected.discard(sequence)
            return [(sequence, results)]

    def _execute(self, tag: int, payload: bytes) -> tuple[int, bytes]:
        try:
            return self._engine._execute(validate.parse(tag, payload))
        except errors.Error as error:
            return int(error.number), b""

    def expect(self, sequence: int) -> None:
        with self._engine._state:
            self._expected.add(sequence)

    def forget(self, sequence: int) -> bool:
        with self._engine._state:
            expected = sequence in self._expected
            self._expected.discard(sequence)
            return expected

    def set_membership(self, membership: bytes) -> None:
        engine = self._engine
        engine._check_writable()
        with engine._applying:
            engine._check_writable()
            with engine._state:
                engine._membership = membership
            with engine._checkpointing:
                engine._write_checkpoint(again=True)

    # -- snapshots --------------------------------------------------------------------------------------------

    def snapshot_open(self) -> PythonSnapshotReader | None:
        engine = self._engine
        if engine._storage is None:
            raise errors.from_code(Code.NOT_FOUND, "fastkv: a store in memory has no snapshots")
        while newest := engine._storage.sendable:
            try:
                return PythonSnapshotReader(newest)
            except errors.StorageError:
                if newest is engine._storage.sendable:
                    raise
                continue  # it was pruned between the look and the open
        if not engine._membership:
            text = "fastkv: there is no snapshot before the first membership is set"
            raise errors.from_code(Code.NOT_FOUND, text)
        engine._start_checkpoint(again=True)
        return None

    def snapshot_receive(self, index: int, term: int) -> PythonSnapshotWriter:
        engine = self._engine
        if not 0 < index <= INDEX_MAX or not 0 <= term <= TERM_MAX:
            raise ValueError(f"no snapshot has index {index} and term {term}")
        engine._check_writable()
        if engine._storage is None:
            raise errors.from_code(Code.NOT_FOUND, "fastkv: a store in memory takes no snapshots")
        path = os.path.join(engine._storage.directory.checkpoint_path, checkpoint.received_name(index))
        return PythonSnapshotWriter(engine, path, index, term)

    def snapshot_install(self, snapshot: PythonSnapshotWriter) -> None:
        engine = self._engine
        engine._check_writable()
        if snapshot.engine is not engine:
            raise ValueError("the snapshot was received by another engine")
        with engine._applying:
            engine._check_writable()
            self._install(snapshot, self._storage)

    def _install(self, snapshot: PythonSnapshotWriter, storage: Storage) -> None:
        engine = self._engine
        store, picture = snapshot.loaded()
        if self._alone:
            text = "fastkv: the member is alone: it takes no snapshot of another's"
            raise errors.from_code(Code.READ_ONLY, text)
        if picture.index <= engine._applied_index:
            text = f"a snapshot of entry {picture.index} is behind the applied entry {engine._applied_index}"
            raise errors.from_code(Code.NOT_FOUND, f"fastkv: {text}")
        known = engine._store
        if store.revision < known.revision or store.compact_revision < known.compact_revision:
            raise errors.from_code(
                Code.CORRUPT,
                f"fastkv: snapshot {snapshot.path} holds revision {store.revision} (compacted "
                f"{store.compact_revision}), which is behind this store's {known.revision} ({known.compact_revision})",
            )
        with engine._checkpointing:
            # The name first: a mark in the log without its checkpoint would be a log without a beginning. The other way
            # round the next open finds the checkpoint ahead of the log, and goes on from it.
            with storage_errors(f"install {snapshot.path}"):
                snapshot.rename(checkpoint.checkpoint_name(picture.index))
                sync_directory(storage.directory.checkpoint_path)
            with engine._writing:
                self._go_on_behind(picture.index, picture.term, storage)
            with engine._state:
                store.identity = known.identity
                engine._store = store
                engine._membership = picture.membership
                engine._applied_index = picture.index
                engine._term = max(engine._term, picture.term)
                engine._hub.resync(store)
                engine._wake.notify_all()
            storage.checkpoint_bytes = snapshot.size
            with engine._writing:
                storage.checkpoint_written(picture)
        snapshot.abort()

    def _go_on_behind(self, index: int, term: int, storage: Storage) -> None:
        state = self._state._replace(commit=max(self._state.commit, index), alone=False)
        if term > state.term:
            state = state._replace(term=term, vote=0)
        storage.log.append_snapshot(index, term)
        storage.log.append_hard_state(state)
        storage.log.sync()
        self._conf_changes.clear()
        self._state = self._written = state


def _entries(given: Sequence[Given]) -> list[Entry]:
    entries = [Entry(*entry) for entry in given]
    for term, index, kind, _ in entries:
        if not (0 <= term <= TERM_MAX and 0 <= index <= INDEX_MAX and NORMAL <= kind <= EMPTY):
            raise ValueError(f"no entry has term {term}, index {index} and kind {kind}")
    return entries


def _is_batch(data: bytes) -> bool:
    try:
        decode_batch(data)
    except (ValueError, errors.InvalidRequestError):
        return False
    return True
