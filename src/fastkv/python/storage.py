"""
What an engine has on disk: directory, log and checkpoints together, from recovery to close.

    open:   lock -> newest good checkpoint -> scan the log, cut a torn tail -> apply the entries above the checkpoint
    commit: batch -> entry record -> sync                 (replica.py: what Raft does instead)
    later:  checkpoint -> drop the segments that it (and the one before it) makes unnecessary

    batch   := origin:u64 sequence:u64 command*         origin 0: an embedded store; sequence: the entry's index
    command := tag:varint length:varint payload

Invariants: what was acknowledged is found again, or open() raises and names what is damaged; never less without a word.
Thread safety: none; the engine's `_writing` lock (write_checkpoint: the engine's `_checkpointing` lock). `sendable` is
replaced as a whole: whoever reads it once has one of them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from fastkv import errors
from fastkv.engine import Options
from fastkv.errors import Code
from fastkv.python import checkpoint, log, recovery, validate
from fastkv.python.checkpoint import Picture
from fastkv.python.directory import Directory, storage_errors
from fastkv.python.log import Log
from fastkv.python.payloads import CONF_CHANGE, NORMAL, Entry, HardState
from fastkv.python.recovery import Place
from fastkv.python.replay import Committed, Replay
from fastkv.python.store import Store
from fastkv.python.wire import read_varint, varint

FIRST_TERM = 1  # of a store that has never had Raft

READONLY_ATTEMPTS = 3

_BATCH = struct.Struct("<QQ")


class Sendable(NamedTuple):
    """The newest checkpoint, if other members may have it."""

    path: str
    index: int  # type: ignore[assignment]
    term: int
    membership: bytes


@dataclass
class Recovered:
    """
    index, term: of the last entry that was applied. hard_state: the newest one, and `state` what it is worth now: with
    the commit index that the log itself shows. conf_changes: in the log behind the checkpoint; in a replica nothing was
    applied from the first of them on.
    """

    store: Store
    index: int
    term: int
    meta: bytes
    membership: bytes
    hard_state: HardState
    state: HardState
    conf_changes: list[int] = field(default_factory=list)


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
        self._log: Log | None = None
        self.checkpoint_index = self.checkpoint_bytes = self.checkpoint_term = 0
        self.sendable: Sendable | None = None
        self._damaged: set[int] = set()  # checkpoints

    @classmethod
    def open(cls, path: str, options: Options) -> tuple[Storage, Recovered]:
        storage = cls(Directory.open(path, options.readonly), options)
        try:
            return storage, storage._recover_beside_a_writer() if options.readonly else storage._recover()
        except BaseException:
            storage.release()
            raise

    @property
    def log(self) -> Log:
        assert self._log is not None, "the log is there once it is recovered"
        return self._log

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
        replay = Replay(found, picture.index + 1)
        self._check_covers(replay, picture.index, reach, reason)
        files_last_index = replay.table.last_index
        if found.torn_bytes:
            where = f"{found.place.path} at offset {found.place.offset}" if found.place else self.directory.log_path
            self._say(f"{found.torn_bytes} bytes of a torn write {'left out' if readonly else 'cut'}: {where}")
        owes_mark = replay.begin_after(picture.index, picture.term)
        if owes_mark and found.end.segments:
            self._say(f"the log ends at entry {files_last_index}, going on from the checkpoint at {picture.index}")
        recovered = self._apply_log(picture, replay)
        if not readonly:
            recovery.repair(self.directory.log_path, found)
        sizes = self.options.segment_bytes_first, self.options.segment_bytes_max
        log_path, end = self.directory.log_path, found.end
        table, floor = replay.table, replay.floor
        self._log = Log(log_path, end, found.durable, files_last_index, sizes, readonly, table, floor)
        clean = bool(found.records) and found.records[-1][0].type == log.CLEAN
        self.log.newest, self.log.last_is_clean, self.log.bytes = replay.newest, clean, replay.bytes
        if owes_mark:
            self.log.skip_to(*floor)
        # What is shown from now on must not be lost again. A clean record alone need not be waited for.
        if self.options.sync and not readonly and not (clean and found.durable + 1 >= found.end.number):
            self.log.sync()
        if self.options.replicated:
            self._keep_what_is_its_own(picture, recovered)
        return recovered

    def _check_covers(self, replay: Replay, index: int, reach: int, reason: errors.Error) -> None:
        """Checkpoint and log together must leave nothing out."""
        first = replay.table.first_index
        if first > index + 1:
            if reach:
                raise reason
            segments = recovery.segment_paths(self.directory.log_path)
            raise Place(segments[0][1], 0).corrupt(f"it begins at entry {first}, the checkpoint ends at {index}")
        if replay.table.last_index < reach:
            raise reason

    def _apply_log(self, picture: Picture, replay: Replay) -> Recovered:
        """The picture's state and what of the log is committed. FormatError: Raft alone may write this directory."""
        replicated = self.options.replicated
        store = checkpoint.restore_store(picture)
        payload = replay.newest[log.HARD_STATE][0] if log.HARD_STATE in replay.newest else picture.hard_state
        member = bool(payload or picture.membership)
        state = HardState.decode(payload) if payload else HardState()
        meta = replay.newest[log.META][0] if log.META in replay.newest else picture.meta
        recovered = Recovered(
            store, picture.index, max(picture.term, FIRST_TERM), meta, picture.membership, state, state
        )
        committed = Committed(member, state)
        commit = 0
        going_on = True
        for entry, place in replay.entries_after(picture.index):
            covered = committed.covers(entry)
            commit = entry.index if covered else commit
            if entry.kind == CONF_CHANGE:
                recovered.conf_changes.append(entry.index)
                going_on = going_on and not replicated  # what it means only the node knows: it applies the rest
            going_on = going_on and covered
            commands = _commands(entry, place)
            if going_on:
                _apply(store, commands)
                recovered.index, recovered.term = entry.index, max(recovered.term, entry.term)
        if replicated:
            recovered.state = _worth(state, max(commit, recovered.index), replay)
        elif member and not self.options.readonly:
            self._check_alone(state, recovered, replay.table.last_index)
            recovered.term = max(recovered.term, state.term)
        return recovered

    def _check_alone(self, state: HardState, recovered: Recovered, last_index: int) -> None:
        if state.alone and recovered.index == last_index and not recovered.conf_changes:
            return
        raise errors.from_code(
            Code.FORMAT,
            f"fastkv: {self.directory.path} belongs to a member of a cluster, where Raft alone may write: start the "
            "node, or open it readonly",
        )

    def _keep_what_is_its_own(self, picture: Picture, recovered: Recovered) -> None:
        """In the log: a replica's checkpoints leave it out."""
        if log.META not in self.log.newest and recovered.meta:
            self.log.append_meta(recovered.meta)
        if log.HARD_STATE not in self.log.newest and picture.hard_state:
            self.log.append_hard_state(recovered.hard_state)

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
                self._is_newest(picture)
                return picture, reach, reason
        return Picture(0, 0, 1, -1, [], [], b"", [], b""), reach, reason

    # -- writes -----------------------------------------------------------------------------------------------

    def append_batch(self, term: int, index: int, commands: Sequence[tuple[int, bytes]]) -> None:
        self.log.append_entry(term, index, encode_batch(index, commands))
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
        return self.log.bytes_since(self.checkpoint_index)

    def checkpoint_due(self, applied_index: int) -> bool:
        """Never before the log has grown by as much as a checkpoint writes."""
        replicated, count = self.options.replicated, applied_index - self.checkpoint_index
        if replicated and count >= self.options.snapshot_count:
            return self.log_bytes >= self.checkpoint_bytes
        return self.log_bytes >= max(self.options.checkpoint_bytes, self.checkpoint_bytes)

    def picture(self, store: Store, index: int, meta: bytes, membership: bytes) -> Picture:
        term = self.checkpoint_term if index == self.checkpoint_index else self.log.term(index)
        own = b"" if self.options.replicated else meta  # it may go to other members
        return checkpoint.take_picture(store, index, term, own, membership=membership)

    def write_checkpoint(self, picture: Picture) -> None:
        self.checkpoint_bytes = checkpoint.write(self.directory.checkpoint_path, picture)

    def checkpoint_written(self, picture: Picture) -> None:
        """Drops what is not needed any more."""
        self._is_newest(picture)
        self._damaged.discard(picture.index)
        drop = checkpoint.prune(self.directory.checkpoint_path, self._damaged)
        self._damaged.clear()
        if self.options.replicated:
            # Members that are a little behind get entries instead of a snapshot, unless that is the shorter way.
            behind = max(picture.index - self.options.snapshot_catchup_entries, 0)
            if self.log.bytes_since(behind) <= max(self.options.checkpoint_bytes, self.checkpoint_bytes):
                drop = min(drop, behind)
        if drop:
            self.log.drop_before(drop)

    def _is_newest(self, picture: Picture) -> None:
        self.checkpoint_index, self.checkpoint_term = picture.index, picture.term
        path = os.path.join(self.directory.checkpoint_path, checkpoint.checkpoint_name(picture.index))
        named = Sendable(path, picture.index, picture.term, picture.membership)
        self.sendable = named if picture.may_be_sent else None

    def stats(self) -> dict[str, int]:
        return {
            "last_index": self.log.table.last_index,
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
        if self._log is not None:
            self._log.close()
        self.directory.release()


def _worth(state: HardState, commit: int, replay: Replay) -> HardState:
    """What a replica goes on with: the hard state, and what the log itself shows."""
    commit = min(max(state.commit, commit), replay.table.last_index)
    last_term = 0
    last_index = replay.table.last_index
    if replay.table.holds(last_index):
        last_term = replay.table.place(last_index).term
    elif replay.floor.index == last_index:
        last_term = replay.floor.term
    if last_term > state.term:
        # A write that was torn may have left entries of a term without the hard state behind them: nothing was
        # promised in it.
        state = state._replace(term=last_term, vote=0)
    return state._replace(commit=commit)


def _commands(entry: Entry, place: Place) -> list[tuple[int, bytes]]:
    if entry.kind != NORMAL:
        return []
    try:
        return decode_batch(entry.data)
    except (ValueError, errors.InvalidRequestError) as error:
        raise place.corrupt(f"the entry is not a batch ({error})") from error


def _apply(store: Store, commands: list[tuple[int, bytes]]) -> None:
    for tag, payload in commands:
        try:
            store.apply(validate.parse(tag, payload))
        except errors.Error:
            continue  # it failed when it was new, and changed nothing then either
