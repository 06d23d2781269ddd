# The C++ headers under cpp/front, as far as _front.pyx uses them.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.utility cimport pair
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.vector cimport vector


cdef extern from "<string_view>" namespace "std" nogil:
    cdef cppclass string_view:
        string_view()
        string_view(const char*, size_t)


cdef extern from "base/status.h" namespace "fastkv" nogil:
    cdef enum class Code(uint8_t):
        kOk

    cdef cppclass Status:
        cbool ok()
        Code code()
        const string& message()


cdef extern from "db/backend.h" namespace "fastkv" nogil:
    cdef cppclass Backend:
        pass


cdef extern from "front/call.h" namespace "fastkv::front" nogil:
    cdef enum class GrpcCode(uint8_t):
        kOk


cdef extern from "front/error_table.h" namespace "fastkv::front" nogil:
    cdef cppclass ErrorRow:
        uint8_t code
        uint8_t grpc_code
        string text


cdef extern from "front/event_queue.h" namespace "fastkv::front" nogil:
    cdef cppclass Committed:
        uint64_t token
        uint64_t tag
        string payload
        Code code
        string response

    cdef enum EventKind "fastkv::front::Event::Kind":
        kCall "fastkv::front::Event::kCall"
        kCommitted "fastkv::front::Event::kCommitted"
        kRejected "fastkv::front::Event::kRejected"
        kRenew "fastkv::front::Event::kRenew"

    cdef cppclass Event:
        EventKind kind
        Code code
        uint32_t thread
        uint64_t call
        int64_t number
        int64_t count
        string text
        string body
        vector[pair[string, string]] metadata
        vector[Committed] commands
        vector[int64_t] leases

    cdef cppclass EventQueue:
        vector[Event] Take() except +
        int fd()


cdef extern from "front/lease_clock.h" namespace "fastkv::front" nogil:
    cdef cppclass Granted "fastkv::front::LeaseClock::Granted":
        int64_t id
        int64_t ttl
        int64_t remaining

    cdef cppclass Left "fastkv::front::LeaseClock::Left":
        cbool found
        int64_t remaining_s
        int64_t ttl_s

    cdef cppclass LeaseClock:
        LeaseClock() except +
        void Restore(const vector[Granted]&, double, double) except +
        void Grant(int64_t, int64_t, double) except +
        void Revoke(int64_t) except +
        int64_t Renew(int64_t, double) except +
        vector[int64_t] RenewAll(const vector[int64_t]&, double) except +
        cbool Contains(int64_t)
        size_t size()
        cbool IsExpired(int64_t, double)
        Left Remaining(int64_t, double)
        vector[int64_t] Ids() except +
        double NextDeadline() except +
        vector[int64_t] Expired(double, size_t) except +
        void Retry(int64_t) except +


cdef extern from "front/quota.h" namespace "fastkv::front" nogil:
    cdef cppclass Quota:
        void SetAlarm(cbool)


cdef extern from "front/proposer.h" namespace "fastkv::front" nogil:
    cdef cppclass WriteGroup:
        void AddOutside(uint64_t, uint64_t, string_view) except +

    int64_t NowNs()


cdef extern from "front/raft_proposer.h" namespace "fastkv::front" nogil:
    cdef cppclass Proposal "fastkv::front::RaftProposer::Proposal":
        uint64_t sequence
        string data

    cdef cppclass RaftProposer:
        Proposal Take(size_t) except +
        cbool Settle(uint64_t, Code) except +


cdef extern from "front/read_gate.h" namespace "fastkv::front" nogil:
    cdef cppclass ReadGate:
        uint64_t Take() except +
        cbool Release(uint64_t, Code) except +


cdef extern from "front/call_metrics.h" namespace "fastkv::front" nogil:
    cdef cppclass MethodTotals:
        uint64_t started, messages_received, messages_sent, took_ns
        vector[uint64_t] handled  # arrays, of which only the elements are used
        vector[uint64_t] took


cdef extern from "front/server.h" namespace "fastkv::front" nogil:
    cdef cppclass TlsOptions:
        string cert_file, key_file, ca_file, crl_file
        cbool client_cert_auth
        string allowed_cn, min_version, max_version
        vector[string] allowed_hostnames, cipher_suites

    cdef cppclass Listener:
        int socket
        cbool plain
        cbool tls

    cdef cppclass ServerOptions:
        int io_threads
        TlsOptions tls
        uint32_t max_concurrent_streams
        size_t receive_bytes_max
        int64_t keepalive_min_time_ms
        int64_t keepalive_interval_ms
        int64_t keepalive_timeout_ms

    cdef cppclass ServerStats:
        uint64_t connections, connections_total, calls, calls_total, received_bytes, sent_bytes, turns


cdef extern from "front/service.h" namespace "fastkv::front" nogil:
    cdef cppclass ColdMethod:
        string path
        cbool streams

    cdef cppclass CommitterOptions:
        size_t batch_bytes_max
        size_t waiting_writes_max
        size_t waiting_bytes_max

    cdef cppclass AftermathOptions:
        int64_t slow_batch_ns
        int64_t slow_call_ns

    cdef cppclass WatchOptions:
        size_t fragment_bytes
        int64_t progress_interval_ns

    cdef cppclass ServiceOptions:
        size_t io_threads
        size_t reader_threads
        size_t chunk_bytes
        vector[ErrorRow] errors
        vector[ColdMethod] cold
        uint64_t member_id
        uint64_t quota_bytes
        int64_t lease_ttl_min_s
        cbool renewals_outside
        int64_t request_timeout_ns
        int64_t election_timeout_ns
        uint64_t first_sequence
        size_t at_once_writes_max
        CommitterOptions committer
        AftermathOptions aftermath
        WatchOptions watch

    cdef cppclass NodeService:
        void Start() except +
        cbool StopWrites(int64_t) except +
        cbool Propose(WriteGroup*) except +
        void WakeWatchers() except +
        void AddWatcher(uint64_t) except +
        void RemoveWatcher(uint64_t)
        void UseRaft(uint64_t) except +
        RaftProposer* proposer()
        ReadGate* reads()
        void SetLeader(cbool, cbool, cbool) except +
        void RestoreLeases(const vector[Granted]&, double, double) except +
        void Renewed(unordered_map[int64_t, int64_t]) except +
        void SetLearner(cbool)
        EventQueue* events()
        LeaseClock* leases()
        Quota* quota()
        vector[pair[string, uint64_t]] Counters() except +
        const string& method_path(size_t)
        void EndCold(size_t, uint64_t, uint32_t, GrpcCode, string) except +
        void SendCold(size_t, uint64_t, string) except +


cdef extern from "front/node_front.h" namespace "fastkv::front" nogil:
    cdef cppclass NodeFront:
        NodeFront(Backend*, ServiceOptions) except +
        NodeService* service()
        Status Serve(ServerOptions, vector[Listener]) except +
        void Drain(int64_t)
        void Stop()
        ServerStats server_stats()
        vector[MethodTotals] method_totals() except +
