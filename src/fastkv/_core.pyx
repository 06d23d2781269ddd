# cython: language_level=3, freethreading_compatible=True, binding=True, embedsignature=True
# distutils: language = c++
"""
The door to the C++ core: `NativeEngine`, which meets `fastkv.engine.Engine`.

Owns nothing but conversions: Python objects to views and back, Status and Code to exceptions. What may take longer than a
microsecond runs without the GIL. Keys and values may be bytes, str (as UTF-8) or any buffer.

Thread safety: as the Db behind it. After a fork the child gets ForkedError and the parent's memory is left alone.
"""

import re

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_Check
from cython.operator cimport dereference
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.string cimport string
from libcpp.utility cimport pair
from libcpp.vector cimport vector

from fastkv._cpp cimport (
    Answers, AppendBytes, AppendPutOp, Backend, Code, Command, CommandResult, CommandSpan, Db, DbOptions, DbStats,
    DeletedOf, EntryKind, EntrySpan, EpochGuard, ForkGeneration, HardState, HubBatch, KeyRange, LeaseInfo, LogEntry,
    MakeBackend, MakeLogLine, OwnedEntry, Record, RecordKeyValue, Replica, SnapshotReader, SnapshotWriter, Status,
    Validate, WatchForks, WatchHub, WatchSpec, kIndexMax, kTermMax, string_view,
)

from fastkv import errors
from fastkv.engine import Options, WatchBatch
from fastkv.types import KeyValue

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) except NULL

cdef enum:
    TAG_DELETE_RANGE = 5
    TAG_TXN = 6
    ITEMS = 0
    KEYS = 1
    VALUES = 2
    KEY_VALUES = 3

cdef object _tuple_new = tuple.__new__


cdef inline object _owned(object source):
    """bytes and str as they are; any other buffer copied into bytes, so that nobody changes it under us."""
    if PyBytes_Check(source) or PyUnicode_Check(source):
        return source
    return bytes(memoryview(source))


cdef inline string_view _view(object source) except *:
    """REQUIRES: source from _owned, alive as long as the view."""
    cdef Py_ssize_t size
    cdef const char* data
    if PyBytes_Check(source):
        return string_view(PyBytes_AS_STRING(source), <size_t>PyBytes_GET_SIZE(source))
    data = PyUnicode_AsUTF8AndSize(source, &size)
    return string_view(data, <size_t>size)


cdef inline bytes _bytes(string_view view):
    return PyBytes_FromStringAndSize(view.data(), <Py_ssize_t>view.size())


cdef inline bytes _string_bytes(const string& source):
    return PyBytes_FromStringAndSize(source.data(), <Py_ssize_t>source.size())


cdef inline object _key_value(const Record* record):
    cdef RecordKeyValue kv = record.Decode()
    return _tuple_new(KeyValue, (
        _bytes(kv.key), _bytes(kv.value), kv.create_revision, kv.mod_revision, kv.version, kv.lease))


cdef void _log_line(void* context, const string& line) noexcept with gil:
    try:
        (<object>(<PyObject*>context))(line.decode("utf-8", "replace"))
    except BaseException as failure:  # nobody above us could take it
        import sys
        sys.unraisablehook(type("Unraisable", (), {
            "exc_type": type(failure), "exc_value": failure, "exc_traceback": failure.__traceback__,
            "err_msg": "fastkv's log option raised", "object": None}))


cdef void _free_backend(object capsule) noexcept:
    cdef Backend* backend = <Backend*>PyCapsule_GetPointer(capsule, b"fastkv.Backend")
    del backend


cdef int _take_entries(entries, vector[LogEntry]* views, list held) except -1:
    """Views of (term, index, kind, data)s; `held` keeps the data alive."""
    cdef LogEntry view
    cdef uint64_t term, index
    cdef int kind
    for term, index, kind, data in entries:
        if term > kTermMax or index > kIndexMax or kind < 0 or kind > 2:
            raise ValueError(f"no entry has term {term}, index {index} and kind {kind}")
        if not PyBytes_Check(data):
            data = bytes(data)
        held.append(data)
        view.term = term
        view.index = index
        view.kind = <EntryKind><uint8_t>kind
        view.batch = _view(data)
        views.push_back(view)
    return 0


cdef class NativeSnapshotReader:
    """A checkpoint to be sent; what it reads stays readable until `close`, also when newer ones take its place."""

    cdef unique_ptr[SnapshotReader] _reader
    cdef NativeEngine _engine

    cdef SnapshotReader* _open(self) except NULL:
        if self._reader.get() == NULL:
            raise errors.ClosedError("fastkv: the snapshot is closed")
        return self._reader.get()

    @property
    def index(self):
        return self._open().index()

    @property
    def term(self):
        return self._open().term()

    @property
    def membership(self):
        return _string_bytes(self._open().membership())

    @property
    def size(self):
        return self._open().bytes()

    def read(self, uint64_t offset, size_t length):
        cdef SnapshotReader* reader = self._open()
        cdef string out
        cdef Status status
        with nogil:
            status = reader.Read(offset, length, &out)
        if not status.ok():
            self._engine._raise(status)
        return _string_bytes(out)

    def close(self):
        self._reader.reset()


cdef class NativeSnapshotWriter:
    """A snapshot that arrives: `write` its bytes in order, `finish`, then `snapshot_install` or `abort`."""

    cdef unique_ptr[SnapshotWriter] _writer
    cdef NativeEngine _engine

    def __dealloc__(self):
        if self._engine is not None and self._engine._generation != ForkGeneration():
            self._writer.release()  # the file is the parent's

    cdef SnapshotWriter* _open(self) except NULL:
        if self._writer.get() == NULL:
            raise errors.ClosedError("fastkv: the snapshot is closed")
        self._engine._open()
        return self._writer.get()

    @property
    def size(self):
        return self._open().bytes()

    @property
    def membership(self):
        return _string_bytes(self._open().membership())

    def write(self, data):
        cdef SnapshotWriter* writer = self._open()
        cdef Status status
        data = _owned(data)
        cdef string_view view = _view(data)
        with nogil:
            status = writer.Write(view)
        if not status.ok():
            self._engine._raise(status)

    def finish(self):
        cdef SnapshotWriter* writer = self._open()
        cdef Status status
        with nogil:
            status = writer.Finish()
        if not status.ok():
            self._engine._raise(status)

    def abort(self):
        self._writer.reset()


cdef class NativeEngine:
    """The C++ engine. path None = in memory. See `fastkv.engine.Engine` for every method."""

    cdef unique_ptr[Db] _db
    cdef uint64_t _generation
    cdef PyObject* _log
    cdef readonly object path
    cdef object __weakref__

    name = "native"

    def __cinit__(self):
        self._log = NULL
        WatchForks()
        self._generation = ForkGeneration()

    def __init__(self, path=None, options=None):
        cdef DbOptions given
        cdef string where
        cdef Status status
        if self._db.get() != NULL:
            raise RuntimeError("a NativeEngine is opened once")
        options = options or Options()
        given.sync = options.sync
        given.readonly = options.readonly
        given.checkpoint_bytes = options.checkpoint_bytes
        given.checkpoint_on_close = options.checkpoint_on_close
        given.limits.max_txn_ops = options.max_txn_ops
        given.limits.max_request_bytes = options.max_request_bytes
        given.segment_bytes_first = options.segment_bytes_first
        given.segment_bytes_max = options.segment_bytes_max
        given.replicated = options.replicated
        given.snapshot_count = options.snapshot_count
        given.snapshot_catchup_entries = options.snapshot_catchup_entries
        if options.log is not None:
            Py_INCREF(options.log)
            self._log = <PyObject*>options.log
            given.log = MakeLogLine(_log_line, <void*>self._log)
        if path is not None:
            import os
            path = os.fspath(path)
            where = os.fsencode(path)
            if where.empty():
                raise ValueError("the path is empty")
        self.path = path
        with nogil:
            status = Db.Open(where, given, &self._db)
        if not status.ok():
            self._raise(status)

    def __dealloc__(self):
        if self._generation != ForkGeneration():
            self._db.release()  # threads and locks in there are the parent's
            return
        with nogil:  # the background thread may be logging
            self._db.reset()
        if self._log != NULL:
            Py_DECREF(<object>self._log)

    # -- conversions ------------------------------------------------------------------------------------------

    cdef inline Db* _open(self) except NULL:
        if self._generation != ForkGeneration():
            raise errors.ForkedError("fastkv: the store was opened before this process was forked; open it again here")
        if self._db.get() == NULL or self._db.get().closed():
            raise errors.ClosedError("fastkv: the store is closed")
        return self._db.get()

    cdef int _raise(self, Status status) except -1:
        message = status.message().decode("utf-8", "replace")
        error = errors.from_code(<int>status.code(), message)
        if isinstance(error, errors.LockedError):
            pid = re.search(r"held by .*process (\d+)", message)
            error.pid = int(pid.group(1)) if pid else 0
        raise error

    cdef int _raise_code(self, Code code) except -1:
        error = errors.from_code(<int>code)
        if code == Code.kCompacted:
            error.compact_revision = self._db.get().store().compact_revision()
        raise error

    # -- state ------------------------------------------------------------------------------------------------

    @property
    def revision(self):
        return self._open().store().revision()

    @property
    def compact_revision(self):
        return self._open().store().compact_revision()

    @property
    def applied_index(self):
        return self._open().applied_index()

    @property
    def closed(self):
        return self._db.get() == NULL or self._db.get().closed()

    def set_identity(self, uint64_t cluster_id, uint64_t member_id, uint64_t raft_term):
        self._open().SetIdentity(cluster_id, member_id, raft_term)

    def stats(self):
        cdef Db* db = self._open()
        cdef DbStats stats
        with nogil:
            stats = db.GetStats()
        return {
            "keys": stats.store.keys, "records": stats.store.records, "revision": db.store().revision(),
            "compact_revision": db.store().compact_revision(), "applied_index": stats.applied_index,
            "last_index": stats.last_index, "term": stats.term, "leases": stats.store.leases, "watchers": stats.watchers,
            "memory_bytes": stats.store.memory_bytes, "log_bytes": stats.log_bytes,
            "checkpoint_bytes": stats.checkpoint_bytes, "checkpoint_index": stats.checkpoint_index,
            "syncs": stats.syncs, "batches": stats.batches, "commands": stats.commands,
        }

    def sync_times(self):
        cdef Db* db = self._open()
        cdef DbStats stats
        cdef size_t i
        with nogil:
            stats = db.GetStats()
        return [stats.sync_times.count(i) for i in range(15)], stats.sync_times.sum_ns / 1e9

    # -- writes -----------------------------------------------------------------------------------------------

    def commit(self, commands):
        cdef Db* db = self._open()
        cdef vector[Command] batch
        cdef vector[CommandResult] results
        cdef Command command
        cdef Status status
        held = []
        for tag, payload in commands:
            payload = _owned(payload)
            held.append(payload)
            command.tag = tag
            command.payload = _view(payload)
            batch.push_back(command)
        with nogil:
            status = db.Commit(CommandSpan(batch.data(), batch.size()), &results)
        if not status.ok():
            self._raise(status)
        return [(<int>results[i].code, _string_bytes(results[i].response)) for i in range(results.size())]

    cdef int _commit_one(self, uint64_t tag, string_view payload, CommandResult* result) except -1:
        cdef Db* db = self._db.get()
        cdef Status status
        with nogil:
            status = db.CommitOne(tag, payload, result)
        if not status.ok():
            self._raise(status)
        if result.code != Code.kOk:
            self._raise_code(result.code)
        return 0

    def put(self, key, value, int64_t lease=0):
        cdef Db* db = self._open()
        cdef CommandResult result
        cdef Status status
        key = _owned(key)
        value = _owned(value)
        cdef string_view key_view = _view(key)
        cdef string_view value_view = _view(value)
        with nogil:
            status = db.Put(key_view, value_view, lease, &result)
        if not status.ok():
            self._raise(status)
        if result.code != Code.kOk:
            self._raise_code(result.code)
        return result.revision

    def delete(self, key, range_end=b""):
        cdef CommandResult result
        cdef string payload
        self._open()
        key = _owned(key)
        range_end = _owned(range_end)
        AppendBytes(&payload, 1, _view(key))
        AppendBytes(&payload, 2, _view(range_end))
        self._commit_one(TAG_DELETE_RANGE, string_view(payload.data(), payload.size()), &result)
        return DeletedOf(string_view(result.response.data(), result.response.size())), result.revision

    def put_many(self, items, int64_t lease=0):
        cdef CommandResult result
        cdef string payload
        cdef string_view key_view, value_view
        self._open()
        for key, value in items:
            key = _owned(key)
            value = _owned(value)
            key_view = _view(key)
            value_view = _view(value)
            AppendPutOp(&payload, key_view, value_view, lease)
        self._commit_one(TAG_TXN, string_view(payload.data(), payload.size()), &result)
        return result.revision

    # -- reads ------------------------------------------------------------------------------------------------

    def range(self, request):
        cdef Db* db = self._open()
        cdef string response
        cdef Code code
        request = _owned(request)
        cdef string_view view = _view(request)
        with nogil:
            code = db.store().Range(view, &response)
        if code != Code.kOk:
            self._raise_code(code)
        return _string_bytes(response)

    def read_txn(self, request):
        cdef Db* db = self._open()
        cdef string response
        cdef cbool reads_only = False
        cdef Code code
        request = _owned(request)
        cdef string_view view = _view(request)
        with nogil:
            code = db.ReadTxn(view, &reads_only, &response)
        if code != Code.kOk:
            self._raise_code(code)
        return _string_bytes(response) if reads_only else None

    def range_chunk(self, request, size_t limit_bytes):
        cdef Db* db = self._open()
        cdef string response, next_request
        cdef Code code
        request = _owned(request)
        cdef string_view view = _view(request)
        with nogil:
            code = db.store().RangeChunk(view, limit_bytes, &response, &next_request)
        if code != Code.kOk:
            self._raise_code(code)
        return _string_bytes(response), _string_bytes(next_request)

    def get(self, key, default=None, int64_t revision=0):
        cdef EpochGuard guard
        guard.Hold()  # else Cython leaves it out
        cdef const Record* record = NULL
        cdef Db* db = self._open()
        key = _owned(key)
        cdef string_view view = _view(key)
        if view.size() == 0:
            raise errors.from_code(errors.Code.EMPTY_KEY)
        cdef Code code = db.store().Get(view, revision, &record)
        if code != Code.kOk:
            self._raise_code(code)
        if record == NULL:
            return default
        return _bytes(record.value())

    def get_kv(self, key, int64_t revision=0):
        cdef EpochGuard guard
        guard.Hold()  # else Cython leaves it out
        cdef const Record* record = NULL
        cdef Db* db = self._open()
        key = _owned(key)
        cdef string_view view = _view(key)
        if view.size() == 0:
            raise errors.from_code(errors.Code.EMPTY_KEY)
        cdef Code code = db.store().Get(view, revision, &record)
        if code != Code.kOk:
            self._raise_code(code)
        return None if record == NULL else _key_value(record)

    def scan(self, start, end, int64_t revision=0, size_t limit=0, cbool reverse=False, int what=ITEMS):
        cdef EpochGuard guard
        guard.Hold()  # else Cython leaves it out
        cdef vector[const Record*] records
        cdef Db* db = self._open()
        cdef Code code
        cdef size_t i, n
        cdef const Record* record
        start = _owned(start)
        end = _owned(end)
        cdef string_view start_view = _view(start)
        cdef string_view end_view = _view(end)
        if what < ITEMS or what > KEY_VALUES:
            raise ValueError(f"what={what}: it is ITEMS, KEYS, VALUES or KEY_VALUES")
        with nogil:
            code = db.store().Scan(KeyRange(start_view, end_view), revision, limit, reverse, &records)
        if code != Code.kOk:
            self._raise_code(code)
        n = records.size()
        cdef list out = PyList_New(<Py_ssize_t>n)
        for i in range(n):
            record = records[i]
            if what == ITEMS:
                item = (_bytes(record.key()), _bytes(record.value()))
            elif what == KEYS:
                item = _bytes(record.key())
            elif what == VALUES:
                item = _bytes(record.value())
            else:
                item = _key_value(record)
            Py_INCREF(item)
            PyList_SET_ITEM(out, <Py_ssize_t>i, item)
        return out

    def count(self, start, end, int64_t revision=0):
        cdef Db* db = self._open()
        cdef int64_t count = 0
        cdef Code code
        start = _owned(start)
        end = _owned(end)
        cdef string_view start_view = _view(start)
        cdef string_view end_view = _view(end)
        with nogil:
            code = db.store().Count(KeyRange(start_view, end_view), revision, &count)
        if code != Code.kOk:
            self._raise_code(code)
        return count

    def history(self, key):
        cdef EpochGuard guard
        guard.Hold()  # else Cython leaves it out
        cdef vector[const Record*] records
        cdef Db* db = self._open()
        key = _owned(key)
        db.store().History(_view(key), &records)
        return [(<int>records[i].tombstone(), _bytes(records[i].encoded())) for i in range(records.size())]

    def hash_kv(self, int64_t revision=0):
        cdef Db* db = self._open()
        cdef uint32_t hash_value = 0
        cdef int64_t compact_revision = 0, hash_revision = 0
        cdef Code code
        with nogil:
            code = db.store().HashKv(revision, &hash_value, &compact_revision, &hash_revision)
        if code != Code.kOk:
            self._raise_code(code)
        return hash_value, compact_revision, hash_revision

    def hash(self):
        cdef Db* db = self._open()
        cdef uint32_t hash_value
        with nogil:
            hash_value = db.store().Hash()
        return hash_value

    # -- leases -----------------------------------------------------------------------------------------------

    def leases(self):
        cdef Db* db = self._open()
        cdef vector[LeaseInfo] leases
        with nogil:
            leases = db.store().Leases()
        return [(leases[i].id, leases[i].ttl, leases[i].remaining_ttl) for i in range(leases.size())]

    def lease_keys(self, int64_t lease):
        cdef Db* db = self._open()
        cdef vector[string] keys
        with nogil:
            keys = db.store().LeaseKeys(lease)
        return [_string_bytes(keys[i]) for i in range(keys.size())]

    def alarms(self):
        cdef Db* db = self._open()
        cdef vector[pair[uint64_t, uint64_t]] alarms
        with nogil:
            alarms = db.store().Alarms()
        return [(alarms[i].first, alarms[i].second) for i in range(alarms.size())]

    # -- watch ------------------------------------------------------------------------------------------------

    def watch(self, key, range_end, int64_t start_revision, cbool prev_kv, int filters):
        cdef Db* db = self._open()
        cdef WatchSpec spec
        cdef uint64_t watcher
        if start_revision < 0:
            self._raise_code(Code.kCompacted)
        spec.key = bytes(_owned(key).encode() if isinstance(key, str) else _owned(key))
        spec.range_end = bytes(range_end)
        spec.start_revision = start_revision
        spec.prev_kv = prev_kv
        spec.no_put = filters & 1
        spec.no_delete = filters & 2
        with nogil:
            watcher = db.hub().Add(spec)
        return watcher

    def watch_take(self, uint64_t watcher, size_t bytes_max):
        cdef Db* db = self._open()
        cdef vector[HubBatch] batches
        with nogil:
            batches = db.hub().Take(watcher, bytes_max)
        return [
            WatchBatch(batches[i].revision, _string_bytes(batches[i].events), batches[i].compact_revision)
            for i in range(batches.size())
        ]

    def watch_wait(self, uint64_t watcher, double timeout_s):
        cdef Db* db
        cdef cbool ready
        if self._generation == ForkGeneration() and self.closed:
            return True
        db = self._open()
        with nogil:
            ready = db.hub().Wait(watcher, timeout_s)
        return ready

    def watch_ready(self):
        cdef vector[uint64_t] ready = self._open().hub().Ready()
        return [ready[i] for i in range(ready.size())]

    def watch_progress(self, uint64_t watcher):
        return self._open().hub().Progress(watcher)

    def watch_cancel(self, uint64_t watcher):
        if self._generation != ForkGeneration() or self._db.get() == NULL:
            return
        self._db.get().hub().Cancel(watcher)

    # -- maintenance ------------------------------------------------------------------------------------------

    def compact_step(self, size_t revisions_max):
        cdef Db* db = self._open()
        cdef cbool done
        with nogil:
            done = db.CompactStep(revisions_max)
        return done

    def checkpoint(self):
        cdef Db* db = self._open()
        cdef uint64_t index = 0
        cdef Status status
        with nogil:
            status = db.Checkpoint(&index)
        if not status.ok():
            self._raise(status)
        return index

    def read_meta(self):
        return _string_bytes(self._open().ReadMeta())

    def write_meta(self, meta):
        cdef Db* db = self._open()
        cdef Status status
        meta = _owned(meta)
        cdef string_view view = _view(meta)
        with nogil:
            status = db.WriteMeta(view)
        if not status.ok():
            self._raise(status)

    def sync(self):
        cdef Db* db = self._open()
        cdef Status status
        with nogil:
            status = db.Sync()
        if not status.ok():
            self._raise(status)

    def check(self):
        cdef Db* db = self._open()
        cdef vector[string] problems
        with nogil:
            db.Check(&problems)
        return [problems[i].decode("utf-8", "replace") for i in range(problems.size())]

    def close(self):
        cdef Db* db = self._db.get()
        cdef Status status
        if db == NULL or self._generation != ForkGeneration():
            return
        with nogil:
            status = db.Close()
        if not status.ok():
            self._raise(status)

    def backend(self):
        """A capsule "fastkv.Backend" with a `fastkv::Backend*` (cpp/db/backend.h), for as long as this engine lives."""
        cdef unique_ptr[Backend] backend = MakeBackend(self._open())
        return PyCapsule_New(<void*>backend.release(), b"fastkv.Backend", _free_backend)

    # -- replicated -------------------------------------------------------------------------------------------

    cdef inline Replica* _replica(self) except NULL:
        cdef Replica* replica = self._open().replica()
        if replica == NULL:
            raise RuntimeError("the engine was not opened with Options(replicated=True)")
        return replica

    @property
    def membership(self):
        return _string_bytes(self._replica().membership())

    def set_membership(self, membership):
        cdef Replica* replica = self._replica()
        cdef Status status
        membership = _owned(membership)
        cdef string_view view = _view(membership)
        with nogil:
            status = replica.SetMembership(view)
        if not status.ok():
            self._raise(status)

    def set_alone(self, cbool on):
        cdef Replica* replica = self._replica()
        cdef Status status
        with nogil:
            status = replica.SetAlone(on)
        if not status.ok():
            self._raise(status)

    def log_state(self):
        cdef HardState state = self._replica().state()
        return state.term, state.vote, state.commit

    @property
    def log_first(self):
        return self._replica().first_index()

    @property
    def log_last(self):
        return self._replica().last_index()

    def log_term(self, uint64_t index):
        cdef uint64_t term = 0
        cdef Status status = self._replica().Term(index, &term)
        if not status.ok():
            self._raise(status)
        return term

    def log_entries(self, uint64_t low, uint64_t high, uint64_t bytes_max):
        cdef Replica* replica = self._replica()
        cdef vector[OwnedEntry] entries
        cdef Status status
        cdef size_t i
        with nogil:
            status = replica.Entries(low, high, bytes_max, &entries)
        if not status.ok():
            self._raise(status)
        return [
            (entries[i].term, entries[i].index, <int><uint8_t>entries[i].kind, _string_bytes(entries[i].batch))
            for i in range(entries.size())
        ]

    def log_append(self, entries, hard_state=None, cbool alone=False):
        cdef Replica* replica = self._replica()
        cdef vector[LogEntry] views
        cdef HardState state
        cdef cbool has_state = hard_state is not None
        cdef Status status
        held = []
        _take_entries(entries, &views, held)
        if has_state:
            state.term, state.vote, state.commit = hard_state
            if state.term > kTermMax or state.commit > kIndexMax:
                raise ValueError(f"no hard state is {hard_state}")
        with nogil:
            status = replica.Append(EntrySpan(views.data(), views.size()), &state if has_state else NULL, alone)
        if not status.ok():
            self._raise(status)

    def log_sync(self):
        cdef Replica* replica = self._replica()
        cdef Status status
        with nogil:
            status = replica.Sync()
        if not status.ok():
            self._raise(status)

    def validate(self, uint64_t tag, payload):
        cdef Db* db = self._open()
        self._replica()
        payload = _owned(payload)
        return <int>Validate(tag, _view(payload), db.limits())

    def apply(self, entries, membership=None):
        cdef Replica* replica = self._replica()
        cdef vector[LogEntry] views
        cdef vector[Answers] answers
        cdef string_view members
        cdef cbool has_members = membership is not None
        cdef Status status
        cdef size_t i, j
        held = []
        _take_entries(entries, &views, held)
        if has_members:
            membership = _owned(membership)
            members = _view(membership)
        with nogil:
            status = replica.Apply(
                EntrySpan(views.data(), views.size()), &members if has_members else NULL, &answers)
        if not status.ok():
            self._raise(status)
        return [
            (answers[i].sequence, [
                (<int>answers[i].results[j].code, _string_bytes(answers[i].results[j].response))
                for j in range(answers[i].results.size())
            ])
            for i in range(answers.size())
        ]

    def expect(self, uint64_t sequence):
        self._replica().Expect(sequence, NULL)

    def forget(self, uint64_t sequence):
        return self._replica().Forget(sequence)

    def snapshot_open(self):
        cdef Replica* replica = self._replica()
        cdef NativeSnapshotReader reader = NativeSnapshotReader.__new__(NativeSnapshotReader)
        cdef Status status
        reader._engine = self
        with nogil:
            status = replica.OpenSnapshot(&reader._reader)
        if not status.ok():
            self._raise(status)
        return None if reader._reader.get() == NULL else reader

    def snapshot_receive(self, uint64_t index, uint64_t term):
        cdef Replica* replica = self._replica()
        cdef NativeSnapshotWriter writer = NativeSnapshotWriter.__new__(NativeSnapshotWriter)
        cdef Status status
        if not 0 < index <= kIndexMax or term > kTermMax:
            raise ValueError(f"no snapshot has index {index} and term {term}")
        writer._engine = self
        with nogil:
            status = replica.ReceiveSnapshot(index, term, &writer._writer)
        if not status.ok():
            self._raise(status)
        return writer

    def snapshot_install(self, NativeSnapshotWriter writer not None):
        cdef Replica* replica = self._replica()
        cdef SnapshotWriter* received = writer._open()
        cdef Status status
        if writer._engine is not self:
            raise ValueError("the snapshot was received by another engine")
        with nogil:
            status = replica.InstallSnapshot(received)
        if not status.ok():
            self._raise(status)
        writer._writer.reset()
