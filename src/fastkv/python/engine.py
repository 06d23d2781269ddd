"""
PythonEngine: the Engine protocol (fastkv/engine.py) over the store, the hub, and, if it has a path, a data directory.

    commit --> queue --(one caller takes all that wait)--> log, sync --> apply, watchers --> each caller's answers

Owns the locks and the order of things; what happens is decided elsewhere (store, txn, watch, storage; in a replica, in
which Raft is in the place of the queue: replica, snapshot).

Invariants:
* a command is in the log, and synced if so asked, before it changes the store; the log holds it byte for byte.
* log and store hold the same batches: an outcome that would make them differ poisons the engine, which then only reads.
* what can be refused without the state is never logged (validate.py): limits may have changed when it is replayed.
Thread safety: every method from any thread. Locks, in this order: `_applying` while a replica applies;
`_checkpointing` while a checkpoint is written; `_writing` over log and sync (who comes meanwhile gathers in the queue);
`_state` over all that touches store or hub. `_queue_lock` is held for moments, inside any of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Any, Self

from fastkv import engine, errors
from fastkv.engine import Options, WatchBatch
from fastkv.errors import Code
from fastkv.python import checkpoint, ranges, validate, wire
from fastkv.python.index import since
from fastkv.python.payloads import HardState
from fastkv.python.replica import Replica
from fastkv.python.snapshot import PythonSnapshotReader, PythonSnapshotWriter
from fastkv.python.storage import FIRST_TERM, Recovered, Storage
from fastkv.python.store import Store
from fastkv.python.watch import Hub
from fastkv.python.wire import Identity, RangeRequest
from fastkv.types import KeyValue

Command = tuple[int, bytes]
Answer = tuple[int, bytes]

CLOSE_LOG_BYTES_MAX = 16 << 20  # a longer log than this is worth a checkpoint at close
_DEFAULTS = Options()


PAYLOAD_BYTES_MAX = (2 << 30) + (64 << 10)  # a value of 2 GiB and its key, whatever the options say


class _Waiter:
    """One caller of commit. `commands`: what of it goes into the log; refused ones have their answer already."""

    def __init__(self, commands: Sequence[Command], options: Options) -> None:
        self.answers: list[Answer | None] = []
        self.commands: list[tuple[int, bytes, wire.Request]] = []
        self.error: BaseException | None = None
        self.done = False
        for tag, payload in commands:
            code, request = _prepare(tag, payload, options)
            self.answers.append((code, b"") if request is None else None)
            if request is not None:
                self.commands.append((tag, payload, request))


def _prepare(tag: int, payload: bytes, options: Options) -> tuple[int, wire.Request | None]:
    """(0, what apply will need), or (code, None) for what needs no state to be refused: it is never logged."""
    if tag not in validate.TAGS:
        return int(Code.MALFORMED), None  # a log that holds it would be one of a newer format
    if 0 < options.max_request_bytes < len(payload) or len(payload) > PAYLOAD_BYTES_MAX:
        return int(Code.REQUEST_TOO_LARGE), None
    try:
        return 0, validate.parse(tag, payload, options.max_txn_ops)
    except errors.Error as error:
        return int(error.number), None


class PythonEngine:
    name = "python"

    def __init__(self, path: str | os.PathLike[str] | None = None, options: Options = _DEFAULTS) -> None:
        self.path: str | None = None if path is None else os.fspath(path)
        self.options = options
        self._pid = os.getpid()
        self._queue: list[_Waiter] = []
        self._queue_lock = threading.Lock()
        self._writing = threading.Lock()
        self._state = threading.RLock()
        self._wake = threading.Condition(self._state)
        self._closed = False
        self._poison = ""
        self._batches = self._commands = 0
        self._storage: Storage | None = None
        self._applying = threading.Lock()
        self._checkpointing = threading.RLock()
        self._checkpointer: threading.Thread | None = None
        self._checkpoint_again = False
        if options.replicated and options.readonly:
            raise errors.from_code(Code.READ_ONLY, "fastkv: a store that is opened readonly cannot be a replica")
        recovered = Recovered(Store(), 0, FIRST_TERM, b"", b"", HardState(), HardState())
        if self.path is not None:
            self._storage, recovered = Storage.open(self.path, options)
        self._store, self._applied_index, self._term = recovered.store, recovered.index, recovered.term
        self._meta, self._membership = recovered.meta, recovered.membership
        self._hub = Hub(self._store)
        self._direct = not options.replicated  # batches come through commit: not in a replica, unless it is alone
        self._replica = Replica(self, recovered) if options.replicated else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- state ------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        self._check_open()
        return self._store.revision

    @property
    def compact_revision(self) -> int:
        self._check_open()
        return self._store.compact_revision

    @property
    def applied_index(self) -> int:
        self._check_open()
        return self._applied_index

    @property
    def closed(self) -> bool:
        return self._closed

    def set_identity(self, cluster_id: int, member_id: int, raft_term: int) -> None:
        with self._opened():
            self._store.identity = Identity(cluster_id, member_id, raft_term)

    def stats(self) -> dict[str, int]:
        with self._opened():
            stats = {
                "keys": self._store.live_keys,
                "records": self._store.records,
                "revision": self._store.revision,
                "compact_revision": self._store.compact_revision,
                "applied_index": self._applied_index,
                "last_index": self._applied_index,
                "term": self._term,
                "leases": len(self._store.leases),
                "watchers": len(self._hub),
                "memory_bytes": self._store.memory_bytes,
                "log_bytes": 0,
                "checkpoint_bytes": 0,
                "checkpoint_index": 0,
                "syncs": 0,
                "batches": self._batches,
                "commands": self._commands,
            }
            return stats | self._storage.stats() if self._storage else stats

    def sync_times(self) -> tuple[list[int], float]:
        with self._opened():
            log = self._storage.log if self._storage else None
            return (list(log.sync_counts), log.sync_seconds) if log else ([0] * 15, 0.0)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """The state, locked, of a store that is open."""
        self._check_open()  # before the lock: in a forked child it may be held for ever
        with self._state:
            self._check_open()
            yield

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise errors.ForkedError("fastkv: the store was opened by the parent process; open it again in the child")
        if self._closed:
            raise errors.from_code(Code.CLOSED)

    def _check_writable(self) -> None:
        self._check_open()
        if self.options.readonly:
            raise errors.from_code(Code.READ_ONLY)
        poison = self._poison or (self._storage.log.poison if self._storage is not None else "")
        if poison:
            raise errors.from_code(Code.POISONED, f"fastkv: no more writes until the store is opened again: {poison}")

    # -- writes -----------------------------------------------------------------------------------------------

    def commit(self, commands: Sequence[Command]) -> list[Answer]:
        self._check_writable()
        waiter = _Waiter(commands, self.options)
        if waiter.commands:
            with self._queue_lock:
                if not self._direct:
                    text = "fastkv: the store is a replica: what it applies comes through Raft"
                    raise errors.from_code(Code.READ_ONLY, text)
                self._queue.append(waiter)
            with self._writing:  # who waits here meanwhile is in the queue, for the next one to take along
                if not waiter.done:
                    self._commit_queue()
                    self._checkpoint_if_due()
            if waiter.error is not None:
                raise waiter.error
        return [answer for answer in waiter.answers if answer is not None]

    def _commit_queue(self) -> None:
        """Called with `_writing` held."""
        with self._queue_lock:
            batch, self._queue = self._queue, []
        if batch:
            self._commit_batch(batch)

    def _commit_batch(self, batch: list[_Waiter]) -> None:
        """Log, sync and apply the commands of all these callers as one batch. Sets answers and error of each."""
        try:
            self._check_writable()
            if self._storage is not None:
                commands = [(tag, payload) for waiter in batch for tag, payload, _ in waiter.commands]
                self._storage.append_batch(self._term, self._applied_index + 1, commands)
            self._apply(batch)
        except errors.Error as error:  # from the log: nothing was appended, or the log takes no more
            for waiter in batch:
                waiter.error = error
        except BaseException as reason:
            self._poison = f"a write was interrupted ({reason!r})"
            for waiter in batch:
                waiter.error = errors.from_code(Code.POISONED, f"fastkv: {self._poison}")
            raise
        finally:
            for waiter in batch:
                waiter.done = True

    def _apply(self, batch: list[_Waiter]) -> None:
        with self._state:
            before = self._store.revision
            for waiter in batch:
                answers = iter([self._execute(request) for _, _, request in waiter.commands])
                waiter.answers = [answer or next(answers) for answer in waiter.answers]
                self._commands += len(waiter.commands)
            self._applied_index += 1
            self._batches += 1
            self._hub.sweep(before)
            self._wake.notify_all()

    def _execute(self, request: wire.Request) -> Answer:
        try:
            return 0, self._store.apply(request)
        except errors.Error as error:
            return int(error.number), b""

    def _commit_one(self, tag: int, payload: bytes) -> bytes:
        """One command whose error is raised."""
        ((code, response),) = self.commit([(tag, payload)])
        if code:
            raise errors.from_code(code)
        return response

    def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        return wire.response_revision(self._commit_one(engine.PUT, wire.encode_put(key, value, lease)))

    def delete(self, key: bytes, range_end: bytes = b"") -> tuple[int, int]:
        response = self._commit_one(engine.DELETE_RANGE, wire.encode_delete(key, range_end))
        return wire.response_deleted(response), wire.response_revision(response)

    def put_many(self, items: Sequence[tuple[bytes, bytes]], lease: int = 0) -> int:
        return wire.response_revision(self._commit_one(engine.TXN, wire.encode_txn_of_puts(items, lease)))

    # -- reads ------------------------------------------------------------------------------------------------

    def range(self, request: bytes) -> bytes:
        asked = RangeRequest.decode(request)
        validate.check_range(asked)
        with self._opened():
            self._store.readable(asked.revision)
            header = self._store.header()
            result = self._store.range(asked, self._store.revision)
        return header + result.encode()

    def read_txn(self, request: bytes) -> bytes | None:
        if not wire.only_reads(request):
            return None
        asked = validate.parse(engine.TXN, request, self.options.max_txn_ops)
        assert isinstance(asked, wire.TxnRequest)
        with self._opened():
            return self._store.txn(asked)

    def range_chunk(self, request: bytes, limit_bytes: int) -> tuple[bytes, bytes]:
        asked = RangeRequest.decode(request)
        validate.check_range(asked)
        ranges.check_stream(asked)
        with self._opened():
            revision = self._store.readable(asked.revision)
            live = self._store.live(asked.key, asked.range_end, revision)
            if asked.revision <= 0:
                asked.header_revision = revision
            result, following = ranges.read_chunk(asked, live, revision, limit_bytes)
            header = self._store.identity.header(asked.header_revision or self._store.revision)
        if following is None:
            return header + result.encode(), b""
        return result.encode(), following.encode()

    def get(self, key: bytes, default: bytes | None = None, revision: int = 0) -> bytes | None:
        if not key:
            raise errors.from_code(Code.EMPTY_KEY)
        with self._opened():
            kv = self._store.get(key, self._store.readable(revision))
        return default if kv is None else kv.value

    def scan(self, start: bytes, end: bytes, revision: int, limit: int, reverse: bool, what: int) -> list[Any]:
        with self._opened():
            live: Iterator[KeyValue] = self._store.live(start, end, self._store.readable(revision))
            if reverse:
                live = reversed(list(live))
            kvs = list(islice(live, limit if limit > 0 else None))
        match what:
            case engine.ITEMS:
                return [(kv.key, kv.value) for kv in kvs]
            case engine.KEYS:
                return [kv.key for kv in kvs]
            case engine.VALUES:
                return [kv.value for kv in kvs]
            case engine.KEY_VALUES:
                return kvs
        raise ValueError(f"scan: what={what} is none of ITEMS, KEYS, VALUES, KEY_VALUES")

    def count(self, start: bytes, end: bytes, revision: int = 0) -> int:
        with self._opened():
            return sum(1 for _ in self._store.live(start, end, self._store.readable(revision)))

    def history(self, key: bytes) -> list[tuple[int, bytes]]:
        with self._opened():
            chain = self._store.index.get(key) or []
            visible = since(chain, self._store.compact_revision)
        return [(int(record.tombstone), wire.encode_key_value(record.kv)) for record in visible]

    def hash_kv(self, revision: int) -> tuple[int, int, int]:
        with self._opened():
            return self._store.hash_kv(revision)

    def hash(self) -> int:
        """The CRC-32C of what a checkpoint's records blocks, then its leases blocks hold, payloads concatenated."""
        with self._opened():
            picture = checkpoint.take_picture(self._store, self._applied_index, self._term, self._meta)
        return checkpoint.state_hash(picture)

    # -- leases -----------------------------------------------------------------------------------------------

    def leases(self) -> list[tuple[int, int, int]]:
        with self._opened():
            return [(id, lease.ttl, lease.remaining) for id, lease in sorted(self._store.leases.items())]

    def lease_keys(self, lease: int) -> list[bytes]:
        with self._opened():
            known = self._store.leases.get(lease)
            return [] if known is None else sorted(known.keys)

    def alarms(self) -> list[tuple[int, int]]:
        with self._opened():
            return sorted(self._store.alarms)

    # -- watch ------------------------------------------------------------------------------------------------

    def watch(self, key: bytes, range_end: bytes, start_revision: int, prev_kv: bool, filters: int) -> int:
        with self._opened():
            return self._hub.add(key, range_end, start_revision, prev_kv, filters)

    def watch_take(self, watcher: int, bytes_max: int) -> list[WatchBatch]:
        with self._opened():
            return self._hub.take(watcher, bytes_max)

    def watch_wait(self, watcher: int, timeout_s: float) -> bool:
        with self._opened():
            return self._wake.wait_for(lambda: self._closed or self._hub.has_something(watcher), timeout_s)

    def watch_ready(self) -> list[int]:
        with self._opened():
            return self._hub.ready()

    def watch_progress(self, watcher: int) -> int:
        with self._opened():
            return self._hub.progress(watcher)

    def watch_cancel(self, watcher: int) -> None:
        with self._opened():
            self._hub.cancel(watcher)
            self._wake.notify_all()

    # -- maintenance ------------------------------------------------------------------------------------------

    def compact_step(self, revisions_max: int) -> bool:
        with self._opened():
            return self._store.compact_step(revisions_max)

    def checkpoint(self) -> int:
        self._check_writable()
        with self._checkpointing:
            self._check_writable()
            return self._write_checkpoint()

    def read_meta(self) -> bytes:
        self._check_open()
        return self._meta

    def write_meta(self, meta: bytes) -> None:
        self._check_writable()
        with self._writing:
            self._check_writable()
            if self._storage is not None:
                self._storage.append_meta(meta)
            self._meta = meta

    def sync(self) -> None:
        self._check_writable()
        with self._writing:
            self._check_writable()
            if self._storage is not None:
                self._storage.sync()

    def check(self) -> list[str]:
        with self._opened():
            return self._store.check()

    def close(self) -> None:
        if os.getpid() != self._pid:
            return  # the store is the parent's
        with self._applying, self._writing, self._wake:
            if self._closed:
                return
            self._closed = True
            self._hub.cancel_all()
            self._wake.notify_all()
        if self._checkpointer is not None:
            self._checkpointer.join()
        if self._storage is not None:
            with self._checkpointing:
                try:
                    self._close_log(self._storage)
                finally:
                    self._storage.release()

    def _close_log(self, storage: Storage) -> None:
        if self.options.readonly or self._poison or storage.log.poison:
            return
        log_bytes_max = min(self.options.checkpoint_bytes, CLOSE_LOG_BYTES_MAX)
        if self.options.checkpoint_on_close and storage.log_bytes > log_bytes_max:
            self._write_checkpoint()
        if self._replica is not None:
            self._replica.closing()
        storage.close_log(self._applied_index)

    def _write_checkpoint(self, again: bool = False) -> int:
        """
        From a picture of now; writes go on while it is written. Called with `_checkpointing` held. again: also if the
        newest one is of the same index; it takes that one's place.
        """
        storage = self._storage
        if storage is None:
            return self._applied_index
        with self._writing:
            storage.sync()  # a checkpoint must not be ahead of its log
            with self._state:
                if not again and 0 < self._applied_index == storage.checkpoint_index:
                    return self._applied_index
                picture = storage.picture(self._store, self._applied_index, self._meta, self._membership)
        storage.write_checkpoint(picture)
        with self._writing:
            storage.checkpoint_written(picture)
        return picture.index

    def _checkpoint_if_due(self) -> None:
        if self._storage is not None and self._storage.checkpoint_due(self._applied_index):
            self._start_checkpoint()

    def _start_checkpoint(self, again: bool = False) -> None:
        with self._queue_lock:
            self._checkpoint_again |= again
            if self._checkpointer is None or not self._checkpointer.is_alive():
                self._checkpointer = threading.Thread(target=self._checkpoint_in_background, name="fastkv-checkpoint")
                self._checkpointer.start()

    def _checkpoint_in_background(self) -> None:
        try:
            with self._checkpointing:
                again, self._checkpoint_again = self._checkpoint_again, False
                self._write_checkpoint(again)
        except errors.Error as error:  # the log still has everything
            if self.options.log is not None:
                self.options.log(f"checkpoint failed: {error}")

    # -- replicated -------------------------------------------------------------------------------------------

    def _raft(self) -> Replica:
        self._check_open()
        if self._replica is None:
            raise RuntimeError("the engine was not opened with Options(replicated=True)")
        return self._replica

    @property
    def membership(self) -> bytes:
        self._raft()
        return self._membership

    def set_membership(self, membership: bytes) -> None:
        self._raft().set_membership(membership)

    def set_alone(self, on: bool) -> None:
        self._raft().set_alone(on)

    def log_state(self) -> tuple[int, int, int]:
        return self._raft().log_state()

    @property
    def log_first(self) -> int:
        return self._raft().log_first

    @property
    def log_last(self) -> int:
        return self._raft().log_last

    def log_term(self, index: int) -> int:
        return self._raft().log_term(index)

    def log_entries(self, low: int, high: int, bytes_max: int) -> list[tuple[int, int, int, bytes]]:
        return list(self._raft().log_entries(low, high, bytes_max))

    def log_append(
        self,
        entries: Sequence[tuple[int, int, int, bytes]],
        hard_state: tuple[int, int, int] | None = None,
        alone: bool = False,
    ) -> None:
        self._raft().log_append(entries, hard_state, alone)

    def log_sync(self) -> None:
        self._raft()
        self.sync()

    def validate(self, tag: int, payload: bytes) -> int:
        self._raft()
        return _prepare(tag, payload, self.options)[0]

    def apply(
        self, entries: Sequence[tuple[int, int, int, bytes]], membership: bytes | None = None
    ) -> list[tuple[int, list[Answer]]]:
        return self._raft().apply(entries, membership)

    def expect(self, sequence: int) -> None:
        self._raft().expect(sequence)

    def forget(self, sequence: int) -> bool:
        return self._raft().forget(sequence)

    def snapshot_open(self) -> PythonSnapshotReader | None:
        return self._raft().snapshot_open()

    def snapshot_receive(self, index: int, term: int) -> PythonSnapshotWriter:
        return self._raft().snapshot_receive(index, term)

    def snapshot_install(self, snapshot: PythonSnapshotWriter) -> None:
        self._raft().snapshot_install(snapshot)
