# The C++ headers under cpp/, as far as _core.pyx uses them.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.string cimport string
from libcpp.utility cimport pair
from libcpp.vector cimport vector


cdef extern from "<string_view>" namespace "std" nogil:
    cdef cppclass string_view:
        string_view()
        string_view(const char*, size_t)
        const char* data()
        size_t size()


cdef extern from "<functional>" namespace "std" nogil:
    cdef cppclass LogLine "std::function<void(const std::string&)>":
        LogLine()


cdef extern from "<span>" namespace "std" nogil:
    cdef cppclass CommandSpan "std::span<const fastkv::Command>":
        CommandSpan(const Command*, size_t)


cdef extern from "base/status.h" namespace "fastkv" nogil:
    cdef enum class Code(uint8_t):
        kOk
        kCompacted

    cdef cppclass Status:
        cbool ok()
        Code code()
        const string& message()


cdef extern from "base/time_histogram.h" namespace "fastkv" nogil:
    cdef cppclass TimeHistogram:
        uint64_t count(size_t)
        uint64_t sum_ns


cdef extern from "base/fork.h" namespace "fastkv" nogil:
    uint64_t ForkGeneration()
    void WatchForks()


cdef extern from "mvcc/epoch.h" namespace "fastkv" nogil:
    cdef cppclass EpochGuard:
        EpochGuard()
        void Hold() const


cdef extern from "mvcc/record.h" namespace "fastkv" nogil:
    cdef cppclass RecordKeyValue "fastkv::Record::KeyValue":
        string_view key
        string_view value
        int64_t create_revision
        int64_t mod_revision
        int64_t version
        int64_t lease

    cdef cppclass Record:
        int64_t main()
        cbool tombstone()
        string_view encoded()
        string_view key()
        string_view value()
        RecordKeyValue Decode()


cdef extern from "proto/messages.h" namespace "fastkv" nogil:
    void AppendBytes(string*, uint32_t, string_view) except +
    void AppendPutOp(string*, string_view, string_view, int64_t) except +
    int64_t DeletedOf(string_view)


cdef extern from "mvcc/key_range.h" namespace "fastkv" nogil:
    cdef cppclass KeyRange:
        KeyRange(string_view, string_view)


cdef extern from "mvcc/store.h" namespace "fastkv" nogil:
    cdef cppclass Limits:
        int64_t max_txn_ops
        int64_t max_request_bytes

    Code Validate(uint64_t, string_view, const Limits&) except +

    cdef cppclass LeaseInfo "fastkv::Store::LeaseInfo":
        int64_t id
        int64_t ttl
        int64_t remaining_ttl

    cdef cppclass StoreStats "fastkv::Store::Stats":
        uint64_t keys
        uint64_t records
        uint64_t memory_bytes
        uint64_t leases

    cdef cppclass Store:
        int64_t revision()
        int64_t compact_revision()
        Code Range(string_view, string*) except +
        Code RangeChunk(string_view, size_t, string*, string*) except +
        Code Get(string_view, int64_t, const Record**)
        Code Scan(const KeyRange&, int64_t, size_t, cbool, vector[const Record*]*) except +
        Code Count(const KeyRange&, int64_t, int64_t*)
        void History(string_view, vector[const Record*]*) except +
        Code HashKv(int64_t, uint32_t*, int64_t*, int64_t*) except +
        uint32_t Hash() except +
        vector[LeaseInfo] Leases() except +
        vector[string] LeaseKeys(int64_t) except +
        vector[pair[uint64_t, uint64_t]] Alarms() except +


cdef extern from "watch/hub.h" namespace "fastkv" nogil:
    cdef cppclass WatchSpec:
        string key
        string range_end
        int64_t start_revision
        cbool prev_kv
        cbool no_put
        cbool no_delete

    cdef cppclass HubBatch "fastkv::WatchBatch":
        int64_t revision
        string events
        int64_t compact_revision

    cdef cppclass WatchHub:
        uint64_t Add(WatchSpec) except +
        void Cancel(uint64_t)
        vector[HubBatch] Take(uint64_t, size_t) except +
        cbool Wait(uint64_t, double)
        vector[uint64_t] Ready() except +
        int64_t Progress(uint64_t)


cdef extern from "db/batch.h" namespace "fastkv" nogil:
    cdef cppclass Command:
        uint64_t tag
        string_view payload


cdef extern from "db/backend.h" namespace "fastkv" nogil:
    cdef cppclass Backend:
        pass

    unique_ptr[Backend] MakeBackend(Db*) except +


cdef extern from "db/log_line.h" namespace "fastkv" nogil:
    LogLine MakeLogLine(void (*)(void*, const string&) noexcept, void*)


cdef extern from "log/log.h" namespace "fastkv" nogil:
    cdef enum class EntryKind(uint8_t):
        pass

    cdef cppclass LogEntry:
        uint64_t term
        uint64_t index
        string_view batch
        EntryKind kind

    cdef cppclass HardState:
        uint64_t term
        uint64_t vote
        uint64_t commit

    cdef cppclass OwnedEntry "fastkv::Log::OwnedEntry":
        uint64_t term
        uint64_t index
        string batch
        EntryKind kind

    uint64_t kTermMax
    uint64_t kIndexMax


cdef extern from "<span>" namespace "std" nogil:
    cdef cppclass EntrySpan "std::span<const fastkv::LogEntry>":
        EntrySpan(const LogEntry*, size_t)


cdef extern from "db/command_result.h" namespace "fastkv" nogil:
    cdef cppclass CommandResult:
        Code code
        int64_t revision
        string response


cdef extern from "db/apply_observer.h" namespace "fastkv" nogil:
    cdef cppclass ApplyObserver:
        pass


cdef extern from "db/replica.h" namespace "fastkv" nogil:
    cdef cppclass Answers "fastkv::Replica::Answers":
        uint64_t sequence
        vector[CommandResult] results

    cdef cppclass SnapshotReader:
        uint64_t index()
        uint64_t term()
        uint64_t bytes()
        const string& membership()
        Status Read(uint64_t, size_t, string*) except +

    cdef cppclass SnapshotWriter:
        uint64_t bytes()
        Status Write(string_view) except +
        Status Finish() except +
        const string& membership()

    cdef cppclass Replica:
        Status Append(EntrySpan, const HardState*, cbool) except +
        Status Sync() except +
        HardState state() except +
        Status SetAlone(cbool) except +
        uint64_t first_index() except +
        uint64_t last_index() except +
        Status Term(uint64_t, uint64_t*) except +
        Status Entries(uint64_t, uint64_t, uint64_t, vector[OwnedEntry]*) except +
        Status Apply(EntrySpan, const string_view*, vector[Answers]*) except +
        void Expect(uint64_t, ApplyObserver*) except +
        cbool Forget(uint64_t) except +
        string membership() except +
        Status SetMembership(string_view) except +
        Status OpenSnapshot(unique_ptr[SnapshotReader]*) except +
        Status ReceiveSnapshot(uint64_t, uint64_t, unique_ptr[SnapshotWriter]*) except +
        Status InstallSnapshot(SnapshotWriter*) except +


cdef extern from "db/db.h" namespace "fastkv" nogil:
    cdef cppclass DbOptions:
        cbool sync
        cbool readonly
        uint64_t checkpoint_bytes
        cbool checkpoint_on_close
        Limits limits
        uint64_t segment_bytes_first
        uint64_t segment_bytes_max
        cbool replicated
        uint64_t snapshot_count
        uint64_t snapshot_catchup_entries
        LogLine log

    cdef cppclass DbStats "fastkv::Db::Stats":
        StoreStats store
        uint64_t applied_index
        uint64_t last_index
        uint64_t term
        uint64_t watchers
        uint64_t log_bytes
        uint64_t checkpoint_bytes
        uint64_t checkpoint_index
        uint64_t syncs
        uint64_t batches
        uint64_t commands
        TimeHistogram sync_times

    cdef cppclass Db:
        @staticmethod
        Status Open(const string&, DbOptions, unique_ptr[Db]*) except +
        Store& store()
        WatchHub& hub()
        Replica* replica()
        const Limits& limits()
        Status Commit(CommandSpan, vector[CommandResult]*) except +
        Status CommitOne(uint64_t, string_view, CommandResult*) except +
        Status Put(string_view, string_view, int64_t, CommandResult*) except +
        Code ReadTxn(string_view, cbool*, string*) except +
        void SetIdentity(uint64_t, uint64_t, uint64_t)
        string ReadMeta() except +
        Status WriteMeta(string_view) except +
        Status Sync() except +
        Status Checkpoint(uint64_t*) except +
        cbool CompactStep(size_t) except +
        Status Close() except +
        uint64_t applied_index()
        cbool closed()
        void Check(vector[string]*) except +
        DbStats GetStats() except +
