"""
The embedded store: `fastkv.open` and the DB it returns.

    fastkv.open("data")  ->  DB  ->  Engine (native or python)  ->  memory + data/
                             DB owns: argument checking, the shapes of answers     handle.py: its life and care

A DB adds next to nothing to the engine's hot calls: where the native engine takes the same arguments, the method of the
DB *is* the engine's, bound in `__init__`.

Invariants:
* one open DB an engine, one engine a directory, one process a directory (but any number of readonly ones).
* what is written through one call is one batch of the engine: all of it or nothing, also after a crash.
* no thread of its own, but the lessor's while there are leases.
Thread safety: everything may be called from any thread. Threads that write durably share the disk's syncs.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, cast, overload

from fastkv import engine as engines
from fastkv import messages, ops, transaction
from fastkv.batch import Batch
from fastkv.engine import DELETE_RANGE, LEASE_GRANT, NODELETE, NOPUT, PUT, TXN, Engine, Options
from fastkv.errors import Code, InvalidRequestError, LeaseNotFoundError, from_code
from fastkv.handle import Handle
from fastkv.keys import (
    FIRST,
    NOTHING,
    UNBOUNDED,
    Bytes,
    as_bytes,
    as_count,
    as_key,
    as_revision,
    key_or_range,
    raise_for,
)
from fastkv.lease import Clock, Lease, Lessor, MonotonicClock, whole_seconds
from fastkv.ops import Txn
from fastkv.reads import Reader, View
from fastkv.transaction import ATTEMPTS, Transaction
from fastkv.types import Event, EventType, GetResult, PutResult, TxnResult
from fastkv.watch import Watch

P = ParamSpec("P")
T = TypeVar("T")
_NO_DEFAULT: Any = object()


def open(
    path: str | os.PathLike[str],
    *,
    sync: bool = True,
    readonly: bool = False,
    create: bool = True,
    engine: Literal["native", "python"] | None = None,
    checkpoint_bytes: int = 64 << 20,
    segment_bytes_max: int = 64 << 20,
    log: Callable[[str], None] | None = None,
    _clock: Clock | None = None,
) -> DB:
    """Open the store in a directory (made if it is not there), or one in memory: `fastkv.open(":memory:")`.

    sync: True: a write that has returned is on disk. False: it survives the death of the process, but not of the
        machine, until `DB.sync`, a checkpoint or `close`.
    readonly: show the directory as it is now; no lock, no writes, no repair. Works beside a process that writes.
    create: False: raise StorageError if there is no store in the directory.
    engine: which engine to use; by default what FASTKV_ENGINE says, else the native one. ImportError if that is not
        there.
    checkpoint_bytes: write a checkpoint in the background when the log has grown by so many bytes, or by the size of
        the last checkpoint if that is more: the price of opening against that of writing.
    segment_bytes_max: size of a log file (bytes).
    log: gets a line of text for each thing worth knowing (a torn record was cut off after a crash); by default they go
        to the logger "fastkv" as warnings.

    Raises LockedError (with `pid`) if another process has the directory open, or this one has; FormatError for a
    directory or file that is not fastkv's, or a newer one's; CorruptError, naming file and offset, if it is damaged;
    StorageError for what the system refuses.
    """
    for name, number in (("checkpoint_bytes", checkpoint_bytes), ("segment_bytes_max", segment_bytes_max)):
        if not as_count(number, name):
            raise InvalidRequestError(f"{name} is a number of bytes above 0")
    location = os.fspath(path)
    if not isinstance(location, str):
        raise TypeError(f"path is a str or a path, not {type(location).__name__}")
    if not location:
        raise InvalidRequestError('path is empty; for a store in memory say ":memory:"')
    in_memory = location == ":memory:"
    if in_memory and readonly:
        raise InvalidRequestError("a store in memory that is readonly would stay empty for ever")
    if not (create or in_memory or os.path.exists(os.path.join(location, "FASTKV"))):
        raise from_code(Code.NOT_FOUND, f"{location}: there is no fastkv store here, and create=False")
    options = Options(
        sync=sync,
        readonly=readonly,
        checkpoint_bytes=checkpoint_bytes,
        segment_bytes_first=min(Options().segment_bytes_first, segment_bytes_max),
        segment_bytes_max=segment_bytes_max,
        log=log or _log_warning,
    )
    opened: Engine = engines.load(engine)(None if in_memory else location, options)
    return DB(opened, location, readonly, _clock or MonotonicClock())


def engine_name() -> str:
    """Which engine `open` would use now: "native" or "python" (an open DB says it in `db.engine`).

    ImportError if it is not there.
    """
    return cast(str, engines.load().name)  # type: ignore[attr-defined]


class DB(Handle, Reader, MutableMapping[bytes, bytes]):
    """An open store; made by `fastkv.open`.

    A mutable mapping of bytes to bytes, ordered by key, in which every write makes a revision (an integer that counts
    up) and older revisions stay readable until they are compacted away. Keys and values are given as bytes, str (UTF-8)
    or any buffer and come back as bytes; a key is not empty; a value has up to 2 GiB. Errors are subclasses of
    `fastkv.Error`.

    As a context manager it closes itself. It can be pickled: the copy opens the directory readonly.
    """

    def __init__(self, engine: Engine, path: str, readonly: bool, clock: Clock) -> None:
        Handle.__init__(self, engine, path, readonly)
        self._lessor = Lessor(engine, clock, readonly)
        self._transact_lock = threading.RLock()
        self._abandoned_watches: deque[int] = deque()
        if engine.name == "native":
            # It takes str and buffers as they come and says what we would say: no Python frame in between.
            self.__dict__.update(get=engine.get, _put=engine.put)

    # -- reads (ranges: reads.py) -----------------------------------------------------------------------------

    def get(self, key: Bytes, default: Any = None, /) -> Any:
        """The value of `key`, or `default` if it is not there."""
        return self._engine.get(as_key(key), default)

    def at(self, revision: int) -> View:
        """The store as of a revision, read-only. CompactedError or FutureRevisionError if that cannot be read."""
        if not as_revision(revision, "revision"):
            raise InvalidRequestError("revisions count from 1")
        return View(self, revision)

    def history(self, key: Bytes) -> list[Event]:
        """Every put and delete of `key` since the compact revision, oldest first."""
        return [
            Event(EventType.DELETE if deleted else EventType.PUT, messages.key_value(kv))
            for deleted, kv in self._engine.history(as_key(key))
        ]

    def _pin(self, rev: int | None) -> int:
        return as_revision(rev)

    # -- writes -----------------------------------------------------------------------------------------------

    @overload
    def put(
        self,
        key: Bytes,
        value: Bytes,
        *,
        lease: int | Lease | None = None,
        ttl: float | None = None,
        prev: Literal[False] = False,
    ) -> int: ...
    @overload
    def put(
        self,
        key: Bytes,
        value: Bytes,
        *,
        lease: int | Lease | None = None,
        ttl: float | None = None,
        prev: Literal[True],
    ) -> PutResult: ...
    def put(
        self,
        key: Bytes,
        value: Bytes,
        *,
        lease: int | Lease | None = None,
        ttl: float | None = None,
        prev: bool = False,
    ) -> int | PutResult:
        """Set `key` to `value`; returns the revision, or with `prev=True` a PutResult that says what was there before.

        lease: hang the key on this lease (LeaseNotFoundError if it is gone); without one the key is taken off the lease
        it hung on.
        ttl: seconds after which the key is deleted, unless it is put again before: a lease of the key's own.
        """
        if lease is None and ttl is None and not prev:
            return self._put(key, value)
        if ttl is not None:
            if lease is not None:
                raise TypeError("put: give a lease or a ttl, not both")
            result = self._put_ttl(as_key(key), as_bytes(value), ttl, prev)
        else:
            attached = 0 if lease is None else lease if isinstance(lease, int) else lease.id
            result = self._put_lease(as_key(key), as_bytes(value), attached, prev)
        return result if prev else result.revision

    def _put(self, key: Bytes, value: Bytes) -> int:
        return self._engine.put(as_key(key), as_bytes(value))

    def _put_lease(self, key: bytes, value: bytes, lease: int, prev: bool) -> PutResult:
        ((code, answer),) = self._engine.commit([(PUT, messages.put_request(key, value, lease, prev_kv=prev))])
        raise_for(code)
        return messages.put_result(answer)

    def _put_ttl(self, key: bytes, value: bytes, ttl: float, prev: bool) -> PutResult:
        present = self.get_kv(key)
        if present is not None and self._lessor.renew_private(present.lease, whole_seconds(ttl)):
            try:
                return self._put_lease(key, value, present.lease, prev)
            except LeaseNotFoundError:
                pass  # revoked by somebody at this very moment: the key gets a new one
        lease, whole, grant = self._lessor.new_grant(ttl)
        put = messages.put_request(key, value, lease, prev_kv=prev)
        (code, _), (put_code, answer) = self._engine.commit([(LEASE_GRANT, grant), (PUT, put)])
        raise_for(code)
        self._lessor.started(lease, whole, private=True)
        raise_for(put_code)
        return messages.put_result(answer)

    def put_many(
        self, items: Mapping[Any, Bytes] | Iterable[tuple[Bytes, Bytes]], *, lease: int | Lease | None = None
    ) -> int:
        """Set many keys at one revision, which is returned. Of a key given twice the last value counts."""
        pairs = list(items.items() if isinstance(items, Mapping) else items)
        if not pairs:
            return self.revision
        attached = 0 if lease is None else lease if isinstance(lease, int) else lease.id
        if self.engine == "native":  # which takes keys and values as they come, and finds duplicates itself
            try:
                return self._engine.put_many(pairs, attached)
            except InvalidRequestError as error:
                if error.number != Code.DUPLICATE_KEY:
                    raise
        puts = {as_key(key): as_bytes(value) for key, value in pairs}
        return self._engine.put_many(list(puts.items()), attached)

    def delete(
        self,
        key: Bytes | None = None,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        stop: Bytes | None = None,
    ) -> int:
        """Delete a key, or a range at one revision; returns how many keys it was. `prefix=""` deletes everything."""
        deleted, _ = self._engine.delete(*key_or_range("delete", key, prefix, start, stop))
        return deleted

    def batch(self) -> Batch:
        """Gather writes that become one revision: `with db.batch() as batch: batch.put(...); batch.delete(...)`."""
        return Batch(self)

    # -- txns -------------------------------------------------------------------------------------------------

    def txn(self) -> Txn:
        """Build a txn: `db.txn().when(fastkv.key("a").version == 0).then(fastkv.put("a",
        "1")).otherwise(...).commit()`."""
        return Txn(self._commit_txn)

    def _commit_txn(self, request: bytes) -> TxnResult:
        ((code, answer),) = self._engine.commit([(TXN, request)])
        raise_for(code)
        return messages.txn_result(answer)

    def transact(self, function: Callable[Concatenate[Transaction, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function(t, *args, **kwargs)` as a transaction, again if another writer changed what it read, and return
        its result.

        `t` (a Transaction) is a mapping of the store as of one revision plus the function's own writes; they are
        committed together. The function may run several times. ConflictError if it lost 32 times; what it raises itself
        comes through, and nothing is written.
        """
        return transaction.transact(self, ATTEMPTS, function, *args, **kwargs)

    @overload
    def transactional(self, function: Callable[Concatenate[Transaction, P], T], /) -> Callable[P, T]: ...
    @overload
    def transactional(
        self, /, *, attempts: int = ATTEMPTS
    ) -> Callable[[Callable[Concatenate[Transaction, P], T]], Callable[P, T]]: ...
    def transactional(self, function: Any = None, /, *, attempts: int = ATTEMPTS) -> Any:
        """Decorator: calls of the function become `transact`s, with the Transaction as its first argument.

        attempts: how often it is tried before ConflictError.
        """
        if as_count(attempts, "attempts") < 1:
            raise InvalidRequestError("attempts is 1 or more")

        def decorate(function: Callable[Concatenate[Transaction, P], T]) -> Callable[P, T]:
            @wraps(function)
            def call(*args: P.args, **kwargs: P.kwargs) -> T:
                return transaction.transact(self, attempts, function, *args, **kwargs)

            return call

        return decorate if function is None else decorate(function)

    # -- watches and leases -----------------------------------------------------------------------------------

    def watch(
        self,
        key: Bytes | None = None,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        stop: Bytes | None = None,
        start_revision: int | None = None,
        prev_kv: bool = False,
        puts: bool = True,
        deletes: bool = True,
        timeout: float | None = None,
    ) -> Watch:
        """Watch a key or a range (`prefix=""`: everything): an iterator of WatchBatch, each the whole of one revision.

        start_revision: begin with the changes of that revision, if it is not compacted away (then the first batch
            raises CompactedError); by default with the next write. It may lie in the future.
        prev_kv: give each event what the key held before. puts, deletes: which events are wanted.
        timeout: seconds without a change after which the iteration ends; None = never.
        """
        first, end = key_or_range("watch", key, prefix, start, stop)
        if (first, end) == NOTHING:
            raise InvalidRequestError("there is no key to watch in an empty range")
        if timeout is not None and timeout < 0:
            raise InvalidRequestError(f"timeout is seconds from 0, not {timeout}")
        while self._abandoned_watches:
            self._engine.watch_cancel(self._abandoned_watches.popleft())
        filters = (0 if puts else NOPUT) | (0 if deletes else NODELETE)
        return Watch(self, first, end, as_revision(start_revision, "start_revision"), prev_kv, filters, timeout)

    def lease(self, ttl: float, *, id: int = 0) -> Lease:
        """Grant a lease of `ttl` seconds (whole ones, fractions are rounded up) for keys to hang on: `db.put("a", "1",
        lease=lease)`.

        id: its number, by default a random one. LeaseExistsError if there is one with this id.
        """
        return Lease(self, *self._lessor.grant(ttl, id))

    def leases(self) -> list[Lease]:
        """The leases there are, ascending by id."""
        return [Lease(self, id, ttl) for id, ttl, _ in self._engine.leases()]

    # -- mapping ----------------------------------------------------------------------------------------------

    def __setitem__(self, key: Bytes, value: Bytes) -> None:
        self._put(key, value)

    def __delitem__(self, key: Bytes) -> None:
        if not self._engine.delete(as_key(key))[0]:
            raise KeyError(key)

    def setdefault(self, key: Bytes, default: Bytes = b"", /) -> bytes:
        """The value of `key`; if it is not there, `default`, which is put. Atomic."""
        txn = self.txn().when(ops.key(key).version == 0).then(ops.put(key, default)).otherwise(ops.get(key))
        match txn.commit().responses:
            case (GetResult(kvs=(present,)),):
                return present.value
        return as_bytes(default)

    def pop(self, key: Bytes, default: Any = _NO_DEFAULT, /) -> Any:
        """Delete `key` and return its value; `default`, or KeyError, if it is not there. Atomic."""
        request = messages.delete_request(as_key(key), prev_kv=True)
        ((code, answer),) = self._engine.commit([(DELETE_RANGE, request)])
        raise_for(code)
        result = messages.delete_result(answer)
        if result.prev_kvs:
            return result.prev_kvs[0].value
        if default is _NO_DEFAULT:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[bytes, bytes]:
        """Delete the first key; returns (key, value). KeyError if there is none. Atomic."""
        for key in self:
            value = self.pop(key, None)
            if value is not None:
                return key, value
        raise KeyError("popitem: the store is empty")

    def update(self, items: Any = (), /, **named: Bytes) -> None:
        """`put_many`, as of a dict: at one revision."""
        pairs = items.items() if isinstance(items, Mapping) else items
        self.put_many([*pairs, *named.items()])

    def clear(self) -> None:
        """Delete everything, at one revision."""
        self._engine.delete(FIRST, UNBOUNDED)


def _log_warning(line: str) -> None:
    import logging  # costs as much to import as all of us

    logging.getLogger("fastkv").warning(line)
