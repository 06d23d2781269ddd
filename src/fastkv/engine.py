"""
The Engine protocol: what the native core and the pure-Python reference both are.

An engine owns one store (in memory) and, if it has a path, one data directory (log + checkpoints, docs/format.md).
`fastkv.store.DB` (the embedded API) and `fastkv.server` (the node) talk to this protocol only.

Invariants:
* Keys, values and messages are `bytes`. Messages are the client's protobuf bytes (etcd's field numbers), both ways.
* Answers of `commit` are durable (`sync=True`) or safe from the death of the process (`sync=False`) when it returns.
* Reads never block writes nor the other way round. Every method may be called from any thread.
* Client errors are numbers (`errors.Code`); `commit` returns them, every other method raises `errors.from_code(code)`.
* World errors (disk, lock, corruption) are always raised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

# Command tags: field numbers of etcd's InternalRaftRequest (docs/format.md).
PUT = 4
DELETE_RANGE = 5
TXN = 6
COMPACTION = 7
LEASE_GRANT = 8
LEASE_REVOKE = 9
ALARM = 10
LEASE_CHECKPOINT = 11

# What `scan` returns a list of.
ITEMS, KEYS, VALUES, KEY_VALUES = 0, 1, 2, 3

# Watch filters, or-ed together.
NOPUT, NODELETE = 1, 2


class WatchBatch(NamedTuple):
    """What `watch_take` hands over: whole revisions, ascending.

    events: mvccpb.Event messages, each with the tag and length it has in WatchResponse.events (field 11), concatenated.
    revision: the response header's revision. For a live batch, the one main revision of its events; while catching up
    the
        store's revision at the time of reading (the batch may then span several revisions).
    compact_revision: 0, or the revision that compaction has reached; then the watch has ended and events is empty.
    """

    revision: int
    events: bytes
    compact_revision: int


class Options(NamedTuple):
    """How an engine is opened.

    sync: True: a returned write is on disk. False: it survives the death of the process, not of the machine.
    readonly: no lock, no writes, no repair; sees the directory as it was when opened.
    checkpoint_bytes: write a checkpoint in the background when the log since the last one is this long (bytes), or as
    long
        as the last checkpoint if that is longer.
    checkpoint_on_close: False: close waits for no checkpoint; the log has everything, and the next open replays it.
    max_txn_ops, max_request_bytes: limits as in etcd; 0 = none (embedded).
    segment_bytes_first, segment_bytes_max: sizes of log segments (bytes); tests shrink them.
    replicated: what is applied comes through Raft: see ReplicatedEngine. Not with readonly.
    snapshot_count: replicated: write a checkpoint also after so many entries, once the log since the last one is as
        long as that.
    snapshot_catchup_entries: replicated: so many entries stay in the log behind a new checkpoint, for members that are
        a little behind; fewer where a snapshot is the shorter way.
    log: receives one line (str) per thing worth knowing: a torn tail cut, a checkpoint skipped.
    """

    sync: bool = True
    readonly: bool = False
    checkpoint_bytes: int = 64 << 20
    checkpoint_on_close: bool = True
    max_txn_ops: int = 0
    max_request_bytes: int = 0
    segment_bytes_first: int = 1 << 20
    segment_bytes_max: int = 64 << 20
    replicated: bool = False
    snapshot_count: int = 10_000
    snapshot_catchup_entries: int = 5_000
    log: Callable[[str], None] | None = None


class Engine(Protocol):
    """One store. Constructed as `NativeEngine(path, options)`; path None = in memory."""

    name: str  # "native" or "python"
    path: str | None

    # -- state ------------------------------------------------------------------------------------------------
    @property
    def revision(self) -> int: ...  # 1 for an empty store
    @property
    def compact_revision(self) -> int: ...  # -1 if never compacted
    @property
    def applied_index(self) -> int: ...  # log index of the last applied batch; 0 at first
    @property
    def closed(self) -> bool: ...
    def set_identity(self, cluster_id: int, member_id: int, raft_term: int) -> None:
        """What response headers carry (0 = omitted, as in an embedded store)."""

    def stats(self) -> dict[str, int]:
        """keys, records, revision, compact_revision, applied_index, last_index (of the log; what is behind
        applied_index a member does not know to be committed, or has yet to apply), term, leases, watchers, memory_bytes
        (records + index), log_bytes, checkpoint_bytes, checkpoint_index, syncs, batches, commands.
        """

    def sync_times(self) -> tuple[list[int], float]:
        """How many syncs of the log took up to 1 ms, 2 ms, 4 ms ... 8.192 s, and longer; their sum in seconds."""

    # -- writes -----------------------------------------------------------------------------------------------
    def commit(self, commands: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """One batch: one log record, one sync, one apply. Returns (code, response message) for each command; the
        message is b"" if code is not 0. Concurrent callers share syncs (group commit). Watchers are matched before it
        returns."""

    def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """Commit one PutRequest; returns its revision."""

    def delete(self, key: bytes, range_end: bytes = b"") -> tuple[int, int]:
        """Commit one DeleteRangeRequest; returns (deleted, revision)."""

    def put_many(self, items: Sequence[tuple[bytes, bytes]], lease: int = 0) -> int:
        """Commit one TxnRequest of puts (one revision); returns the revision. A duplicate key raises."""

    # -- reads ------------------------------------------------------------------------------------------------
    def range(self, request: bytes) -> bytes:
        """RangeRequest -> RangeResponse, at the latest or the asked revision."""

    def read_txn(self, request: bytes) -> bytes | None:
        """TxnRequest with nothing but ranges in both branches -> TxnResponse, without the log. None: it has other
        operations."""

    def range_chunk(self, request: bytes, limit_bytes: int) -> tuple[bytes, bytes]:
        """RangeStream: RangeRequest -> (RangeResponse, next RangeRequest or b"" at the end). The response holds at most
        about limit_bytes of kvs; header, more and count only in the last one. The next request carries the pinned
        revision."""

    def get(self, key: bytes, default: bytes | None = None, revision: int = 0) -> bytes | None: ...
    def scan(self, start: bytes, end: bytes, revision: int, limit: int, reverse: bool, what: int) -> list[Any]:
        """Keys in [start, end) at `revision` (0 = latest), at most `limit` (0 = all), as `what` asks: ITEMS (key,
        value) tuples, KEYS, VALUES, or KEY_VALUES (types.KeyValue). end b"" = just the key start; b"\\0" = no upper
        bound."""

    def count(self, start: bytes, end: bytes, revision: int = 0) -> int: ...
    def history(self, key: bytes) -> list[tuple[int, bytes]]:
        """Every record of the key since the compact revision, oldest first: (0 put | 1 delete, KeyValue message)."""

    def hash_kv(self, revision: int) -> tuple[int, int, int]:
        """(hash, compact_revision, hash_revision), equal to etcd's HashKV."""

    def hash(self) -> int:
        """A CRC-32C of the whole state (testing only)."""

    # -- leases (who is attached; time is the caller's business) ----------------------------------------------
    def leases(self) -> list[tuple[int, int, int]]:
        """(id, granted ttl in s, checkpointed remaining ttl or 0), ascending by id."""

    def lease_keys(self, lease: int) -> list[bytes]: ...

    def alarms(self) -> list[tuple[int, int]]:
        """(member id, alarm), ascending."""

    # -- watch ------------------------------------------------------------------------------------------------
    def watch(self, key: bytes, range_end: bytes, start_revision: int, prev_kv: bool, filters: int) -> int:
        """Register a watcher; start_revision 0 = from the next revision on. Returns its id (engine-wide, from 1)."""

    def watch_take(self, watcher: int, bytes_max: int) -> list[WatchBatch]:
        """Pending events, up to about bytes_max bytes (at least one revision); [] if one look (at about 10,000 records)
        found none: `watch_wait` with timeout 0 says whether there is more to look at. Never blocks."""

    def watch_wait(self, watcher: int, timeout_s: float) -> bool:
        """Block until watch_take has something, the watcher was cancelled, or time is up (False)."""

    def watch_ready(self) -> list[int]:
        """Ids of watchers that have got something to take since the last call (each once until taken empty)."""

    def watch_progress(self, watcher: int) -> int:
        """The revision up to which everything was taken, or -1 while something is pending (not synced)."""

    def watch_cancel(self, watcher: int) -> None:
        """Forget the watcher and wake whoever waits on it; unknown ids are ignored."""

    # -- maintenance ------------------------------------------------------------------------------------------
    def compact_step(self, revisions_max: int) -> bool:
        """Remove up to revisions_max superseded revisions that a COMPACTION command has released; True when nothing is
        left.
        """

    def checkpoint(self) -> int:
        """Write a checkpoint now; returns the index it holds."""

    def read_meta(self) -> bytes: ...
    def write_meta(self, meta: bytes) -> None:
        """The node's own durable bytes (identity); b"" at first."""

    def sync(self) -> None:
        """Make every write so far durable (of use with sync=False)."""

    def check(self) -> list[str]:
        """Walk everything; returns what is wrong, [] if nothing."""

    def close(self) -> None:
        """Clean close (checkpoint if the log tail is long). Idempotent. Wakes all watchers."""


class SnapshotReader(Protocol):
    """A checkpoint to be sent. It stays readable until `close`, whatever becomes of it in the directory."""

    @property
    def index(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def membership(self) -> bytes: ...
    @property
    def size(self) -> int: ...
    def read(self, offset: int, length: int) -> bytes:
        """Up to length bytes from offset on; fewer only at the end."""

    def close(self) -> None: ...


class SnapshotWriter(Protocol):
    """A snapshot that arrives, in a file that counts for nothing before it is installed. One thread at a time."""

    @property
    def size(self) -> int:
        """Bytes so far: where an interrupted stream resumes."""

    @property
    def membership(self) -> bytes:
        """What it holds, once it is finished."""

    def write(self, data: bytes) -> None: ...
    def finish(self) -> None:
        """Sync, verify every byte and build the state; long, and without the GIL. CorruptError: no member sent that."""

    def abort(self) -> None:
        """Forget it, and its file. Of no effect once it is installed."""


class ReplicatedEngine(Engine, Protocol):
    """
    An engine opened with Options(replicated=True), and a path: what it applies comes through Raft (fastkv.raft),
    which a node drives with it. `commit`, `put`, `delete` and `put_many` raise ReadOnlyError unless it is alone
    (`set_alone`); all else is as it was.

        ready = node.ready()
        engine.log_append(ready.entries, ready.hard_state, alone)     one write
        engine.log_sync()                                             in a thread; then node.persisted(ready.number)
        engine.apply(ready.committed)                                 in another; then node.applied(last index)

    An entry is (term, index, kind, data), as fastkv.raft.messages.Entry; data of a NORMAL one is a batch
    (docs/format.md) of commands that `validate` had nothing against, where they were proposed.

    At open the newest checkpoint is loaded, and the entries behind it that are known to be committed are applied up
    to the first CONF_CHANGE. `applied_index` says how far that was and belongs into raft's Config.applied; entries
    behind it are the node's to apply. Known to be committed is what the newest hard state's commit covers; or
    everything, if its `alone` was set (up to the next CONF_CHANGE) or if the log was written without Raft.

    The same directory without `replicated`: opens if its last writer was alone or used no Raft; FormatError for a
    member of several, and where the log behind the newest checkpoint changes the membership, which only the node
    understands; but readonly, which shows the state up to the commit index.

    Invariants:
    * An entry is applied once, in order and as the log holds it; entries at or below applied_index are never cut.
    * applied_index, state and membership change together; a checkpoint holds all three as of one index.
    * `apply` waits for no sync and `log_append` for no apply. One thread at a time appends, one applies.
    * A broken invariant and a failed sync poison, as in Engine; a full disk raises QuotaError, and the same append
      may be made again.
    """

    @property
    def membership(self) -> bytes:
        """Who is a member as of applied_index: the node's bytes; b"" until it is first set."""

    def set_membership(self, membership: bytes) -> None:
        """Set it by no entry: the first one, or by force. Durable on return (it writes a checkpoint)."""

    def set_alone(self, on: bool) -> None:
        """
        True: this member is the only voter and drives no Raft. `commit` & co. are allowed, also from `backend()`, at no
        more cost than without Raft: each batch is one NORMAL entry (origin 0) of the current term, which is the hard
        state's or, if later, set_identity's; say True again to raise it. `log_append`, `apply` and `snapshot_install`
        raise ReadOnlyError meanwhile. Of an engine that has applied all its log holds, else ReadOnlyError.

        False: waits for commits under way; later ones raise ReadOnlyError, log_last equals applied_index, and the hard
        state's commit covers it. Off after every open. What fails (QuotaError) changes nothing.
        """

    # -- the log ----------------------------------------------------------------------------------------------
    def log_state(self) -> tuple[int, int, int]:
        """(term, vote, commit): the hard state that was last appended, or what the log at open is worth."""

    @property
    def log_first(self) -> int:
        """The first entry that log_entries can return, log_last + 1 if there is none; the term before it is known."""

    @property
    def log_last(self) -> int: ...
    def log_term(self, index: int) -> int:
        """Of an entry that is here, or of log_first - 1; else StorageError (NOT_FOUND)."""

    def log_entries(self, low: int, high: int, bytes_max: int) -> list[tuple[int, int, int, bytes]]:
        """Entries [low, high), cut so that their data is at most bytes_max, but at least one. From the disk: what is
        recent, raft keeps itself. StorageError (NOT_FOUND) if one of them is not here."""

    def log_append(
        self,
        entries: Sequence[tuple[int, int, int, bytes]],
        hard_state: tuple[int, int, int] | None = None,
        alone: bool = False,
    ) -> None:
        """
        Consecutive entries and, behind them, the hard state, in one write; not durable before log_sync. An index at
        or below log_last cuts the log there first. InvalidRequestError (MALFORMED), and nothing written: a NORMAL
        entry that is no batch of commands.

        alone: this member is the only voter. Then whatever is durable is committed, and the log says so with every
        write, so that the directory can be opened without Raft. Left out by itself while a CONF_CHANGE waits to be
        applied.
        """

    def log_sync(self) -> None:
        """Make all that was appended before durable. Without the GIL, beside log_append and apply."""

    # -- applying ---------------------------------------------------------------------------------------------
    def validate(self, tag: int, payload: bytes) -> int:
        """0, or the number of the client's error that needs no state to be found. Before a command is proposed: when it
        is applied it is not asked again, because limits are flags."""

    def apply(
        self, entries: Sequence[tuple[int, int, int, bytes]], membership: bytes | None = None
    ) -> list[tuple[int, list[tuple[int, bytes]]]]:
        """
        Apply committed entries, which follow applied_index and are in the log; the bytes are not copied. membership: as
        of the last of them, a CONF_CHANGE. Returns (sequence, answers as of `commit`) for each of this member's batches
        that was expected; those that C++ expects (cpp/db/apply_observer.h) go there.
        """

    def expect(self, sequence: int) -> None:
        """`apply` shall return the answers of this member's (set_identity) batch `sequence`. Before it is proposed."""

    def forget(self, sequence: int) -> bool:
        """Not any more; whether it was still expected."""

    # -- snapshots --------------------------------------------------------------------------------------------
    def snapshot_open(self) -> SnapshotReader | None:
        """The newest checkpoint, to be sent; None: one is being written, ask again later. Never waits for a write."""

    def snapshot_receive(self, index: int, term: int) -> SnapshotWriter:
        """Begin to take in what another member's snapshot_open reads, of this index and term."""

    def snapshot_install(self, snapshot: SnapshotWriter) -> None:
        """
        A finished one, which must be ahead of applied_index (else StorageError, NOT_FOUND), takes the place of all
        that this engine holds but its meta: it becomes the newest checkpoint, the log goes on behind it, reads and
        watches go on in the new state; who needs a revision that is compacted there is told so. Durable on return;
        may be tried again after QuotaError.
        """


def load(name: str | None = None) -> type:
    """The engine class that FASTKV_ENGINE (or `name`) asks for: obeyed, or ImportError with the reason."""
    wanted = name or os.environ.get("FASTKV_ENGINE", "native")
    if wanted == "native":
        try:
            from fastkv._core import NativeEngine
        except ImportError as reason:
            raise ImportError(
                f"the native engine is not built ({reason}); build it with `make setup`, "
                "or ask for the slow one with FASTKV_ENGINE=python"
            ) from reason
        return NativeEngine
    if wanted == "python":
        from fastkv.python.engine import PythonEngine

        return PythonEngine
    raise ImportError(f"FASTKV_ENGINE={wanted!r}: it is native or python")
