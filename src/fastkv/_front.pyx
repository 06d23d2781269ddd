# cython: language_level=3, freethreading_compatible=True, binding=True, embedsignature=True
# distutils: language = c++
"""
The door to the native front end: `Front`, which owns C++ threads, sockets and the way to the store, and `LeaseClock`.

Owns nothing but conversions. What C++ has to say comes as events (tuples, from `take`), and `fileno` is readable while
there are some: no C++ thread ever waits for the GIL.

Thread safety: as cpp/front/node_front.h and service.h say; one Python thread at a time uses a Front.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.string cimport string
from libcpp.unordered_map cimport unordered_map
from libcpp.utility cimport move
from libcpp.vector cimport vector

from fastkv._front_cpp cimport (
    Backend, Code, ColdMethod, Committed, ErrorRow, Event, Granted, GrpcCode, Left, Listener, NodeFront, NowNs,
    MethodTotals, Proposal, ServerOptions, ServerStats, ServiceOptions, Status, WriteGroup, kCall, kCommitted, kRejected,
    kRenew, string_view,
)
from fastkv._front_cpp cimport LeaseClock as CppLeaseClock

import math
import os

from fastkv import errors

# Kinds of events: cpp/front/event_queue.h.
CALL, WRITABLE, END, HTTP1, COMMITTED, SLOW_BATCH, SLOW_CALL, LEASES, QUOTA, DIED, LOG, REJECTED, WATCH = range(13)
PROPOSALS, READS, RENEW = range(13, 16)


def now():
    """Seconds of the clock that leases are timed with."""
    return NowNs() / 1e9


cdef inline bytes _bytes(const string& source):
    return PyBytes_FromStringAndSize(source.data(), <Py_ssize_t>source.size())


cdef inline str _text(const string& source):
    return source.decode("utf-8", "replace")


cdef object _metadata(const Event& event):
    cdef size_t i
    found = []
    for i in range(event.metadata.size()):
        name = _text(event.metadata[i].first)
        value = _bytes(event.metadata[i].second)
        found.append((name, value if name.endswith("-bin") else value.decode("utf-8", "replace")))
    return tuple(found)


cdef object _commands(const Event& event):
    cdef size_t i
    rows = []
    for i in range(event.commands.size()):
        rows.append((
            event.commands[i].token, event.commands[i].tag, _bytes(event.commands[i].payload),
            <int>event.commands[i].code, _bytes(event.commands[i].response)))
    return rows


cdef object _event(const Event& event):
    if event.kind == kCall:
        return (<int>event.kind, event.thread, event.call, event.number, _text(event.text), _bytes(event.body),
                _metadata(event))
    if event.kind == kCommitted:
        return <int>event.kind, <int>event.code, _text(event.text), _commands(event)
    if event.kind == kRejected:
        return <int>event.kind, _text(event.text), _text(event.body)
    if event.kind == kRenew:
        return <int>event.kind, list(event.leases)
    return <int>event.kind, event.thread, event.call, event.number, event.count, _text(event.text)


# What it uses must outlive it, whatever order the garbage collector finds.
@cython.no_gc_clear
cdef class Front:
    """
    Service and server over a store. `engine.backend()` is the way to it; the engine is kept alive.

    options: cpp/front/service.h, ServiceOptions. error_rows: (engine code, gRPC code, text). cold: (path, whether the
    server streams). proposer: "direct", of a member alone, which commits for itself; "raft": see "in a cluster".
    """

    cdef unique_ptr[NodeFront] _front
    cdef object _engine
    cdef object _capsule

    def __init__(
        self, engine, *, error_rows, cold, int io_threads, int reader_threads, size_t chunk_bytes,
        uint64_t member_id, uint64_t quota_bytes, int64_t lease_ttl_min_s, double request_timeout_s, int at_once_writes_max, double slow_batch_s,
        double slow_call_s, size_t fragment_bytes, double progress_interval_s, cbool renewals_outside=False, str proposer="direct",
        uint64_t first_sequence=0, double election_timeout_s=1.0, size_t waiting_writes_max=0,
        size_t waiting_bytes_max=0,
    ):
        cdef ServiceOptions options
        cdef ErrorRow row
        cdef ColdMethod method
        if proposer not in ("direct", "raft") or (proposer == "raft") != (first_sequence > 0):
            raise ValueError(f"proposer {proposer!r} with first_sequence {first_sequence}")
        self._engine = engine
        self._capsule = engine.backend()
        for number, grpc_code, text in error_rows:
            row.code = number
            row.grpc_code = grpc_code
            row.text = text.encode()
            options.errors.push_back(row)
        for path, streams in cold:
            method.path = path.encode()
            method.streams = streams
            options.cold.push_back(method)
        options.io_threads = io_threads
        options.reader_threads = reader_threads
        options.chunk_bytes = chunk_bytes
        options.member_id = member_id
        options.quota_bytes = quota_bytes
        options.lease_ttl_min_s = lease_ttl_min_s
        options.renewals_outside = renewals_outside
        options.request_timeout_ns = <int64_t>(request_timeout_s * 1e9)
        options.election_timeout_ns = <int64_t>(election_timeout_s * 1e9)
        options.first_sequence = first_sequence
        options.at_once_writes_max = at_once_writes_max
        if waiting_writes_max:
            options.committer.waiting_writes_max = waiting_writes_max
        if waiting_bytes_max:
            options.committer.waiting_bytes_max = waiting_bytes_max
        options.aftermath.slow_batch_ns = <int64_t>(slow_batch_s * 1e9)
        options.aftermath.slow_call_ns = <int64_t>(slow_call_s * 1e9)
        options.watch.fragment_bytes = fragment_bytes
        options.watch.progress_interval_ns = <int64_t>(progress_interval_s * 1e9)
        cdef Backend* backend = <Backend*>PyCapsule_GetPointer(self._capsule, b"fastkv.Backend")
        self._front.reset(new NodeFront(backend, options))

    def __dealloc__(self):
        with nogil:
            self._front.reset()

    # -- events -----------------------------------------------------------------------------------------------

    def fileno(self):
        return self._front.get().service().events().fd()

    def take(self):
        """Every event since the last call."""
        cdef vector[Event] events = self._front.get().service().events().Take()
        cdef size_t i
        return [_event(events[i]) for i in range(events.size())]

    # -- life -------------------------------------------------------------------------------------------------

    def start(self):
        """Commands are taken from now on."""
        self._front.get().service().Start()

    def serve(
        self, listeners, tls, *, int io_threads, uint32_t max_concurrent_streams, size_t receive_bytes_max,
        double keepalive_min_time_s, double keepalive_interval_s, double keepalive_timeout_s,
    ):
        """
        Clients are answered from now on. listeners: (bound socket, whether plain, whether TLS is spoken); each socket is
        duplicated. tls: a TlsConfig, unused where nobody speaks it.
        """
        cdef ServerOptions options
        cdef vector[Listener] owned
        cdef Listener listener
        cdef Status status
        options.io_threads = io_threads
        options.max_concurrent_streams = max_concurrent_streams
        options.receive_bytes_max = receive_bytes_max
        options.keepalive_min_time_ms = <int64_t>(keepalive_min_time_s * 1e3)
        options.keepalive_interval_ms = <int64_t>(keepalive_interval_s * 1e3)
        options.keepalive_timeout_ms = <int64_t>(keepalive_timeout_s * 1e3)
        options.tls.cert_file = os.fsencode(tls.cert_file)
        options.tls.key_file = os.fsencode(tls.key_file)
        options.tls.ca_file = os.fsencode(tls.ca_file)
        options.tls.crl_file = os.fsencode(tls.crl_file)
        options.tls.client_cert_auth = tls.client_cert_auth
        options.tls.allowed_hostnames = [host.encode() for host in tls.allowed_hostname]
        options.tls.cipher_suites = [suite.encode() for suite in tls.cipher_suites]
        options.tls.min_version = tls.min_version.encode()
        options.tls.max_version = tls.max_version.encode()
        for socket, listener.plain, listener.tls in listeners:
            listener.socket = os.dup(socket.fileno())
            owned.push_back(listener)
        with nogil:
            status = self._front.get().Serve(options, owned)
        if not status.ok():
            raise errors.from_code(<int>status.code(), _text(status.message()))

    def drain(self, double timeout_s):
        """Nothing new is taken, streams end; returns when no call is open or the time is up."""
        with nogil:
            self._front.get().Drain(<int64_t>(timeout_s * 1e3))

    def stop(self):
        """Closes what is left."""
        with nogil:
            self._front.get().Stop()

    def stop_writes(self, double timeout_s):
        """Commits what was submitted; False if that takes longer."""
        cdef cbool ended
        with nogil:
            ended = self._front.get().service().StopWrites(<int64_t>(timeout_s * 1e3))
        return ended

    # -- Python's part ----------------------------------------------------------------------------------------

    def propose(self, commands):
        """(token, tag, payload) each: committed in one order with the clients' commands; False once stopped."""
        cdef WriteGroup group
        cdef bytes owned
        cdef cbool taken
        for token, tag, payload in commands:
            owned = payload
            group.AddOutside(token, tag, string_view(PyBytes_AS_STRING(owned), <size_t>PyBytes_GET_SIZE(owned)))
        with nogil:
            taken = self._front.get().service().Propose(&group)
        return taken

    def send(self, size_t thread, uint64_t call, bytes message):
        """One message of a cold stream; an event WRITABLE or END follows."""
        cdef string body = message
        self._front.get().service().SendCold(thread, call, move(body))

    def end(self, size_t thread, uint64_t call, uint32_t method, int code, bytes body):
        """The response of a cold unary call (code 0), or the end of a cold call with the text of its error."""
        cdef string text = body
        self._front.get().service().EndCold(thread, call, method, <GrpcCode>code, move(text))

    # -- in a cluster -----------------------------------------------------------------------------------------

    def use_raft(self, uint64_t first_sequence):
        """
        Of a "direct" front: what gathers from now on is for take_proposal, and linearizable reads are for take_reads.
        Returns when no commit is under way; only then may the engine cease to take commits. Nothing is lost or answered
        twice.
        """
        with nogil:
            self._front.get().service().UseRaft(first_sequence)

    def take_proposal(self, size_t bytes_max=8 << 20):
        """
        What has gathered, closed into one batch of about bytes_max: (sequence, data of an entry); None: nothing waits.
        An event PROPOSALS follows when there is more. Its answers go out when `engine.apply` has applied it.
        """
        cdef Proposal taken
        with nogil:
            taken = self._front.get().service().proposer().Take(bytes_max)
        return (taken.sequence, _bytes(taken.data)) if taken.sequence else None

    def settle(self, uint64_t sequence, int code):
        """Every asker of that open batch is told this error (errors.Code). False: it has been answered already."""
        cdef cbool settled
        with nogil:
            settled = self._front.get().service().proposer().Settle(sequence, <Code>code)
        return settled

    def take_reads(self):
        """Closes the group of linearizable reads that wait: its number; None: none waits. Event READS: there are some."""
        cdef uint64_t group
        with nogil:
            group = self._front.get().service().reads().Take()
        return group or None

    def release_reads(self, uint64_t group, int code=0):
        """Answers the group's reads as of now, or with that error. False: there is no such group any more."""
        cdef cbool released
        with nogil:
            released = self._front.get().service().reads().Release(group, <Code>code)
        return released

    def set_leader(self, cbool is_leader, cbool known, cbool connected=True):
        """
        At every change. is_leader: this member times the leases; `leases().restore` with what the engine holds, read
        after this call, completes it. known: there is a leader. connected: this member hears it, or a majority.
        """
        with nogil:
            self._front.get().service().SetLeader(is_leader, known, connected)

    def set_learner(self, cbool learner):
        """A learner answers Status and serializable ranges only."""
        self._front.get().service().SetLearner(learner)

    def renewed(self, ttls):
        """(lease, ttl) each: what the leader answered to a RENEW; ttl 0: there is no such lease. Who is left out waits
        until it is overdue."""
        cdef unordered_map[int64_t, int64_t] answers
        cdef int64_t lease, ttl
        for lease, ttl in ttls:
            answers[lease] = ttl
        with nogil:
            self._front.get().service().Renewed(answers)

    def applied(self):
        """The engine has applied entries: watchers are woken."""
        self.wake_watchers()

    def wake_watchers(self):
        with nogil:
            self._front.get().service().WakeWatchers()

    def add_watcher(self, uint64_t watcher):
        """Events WATCH shall say when the engine's watcher has got something; the caller looks once behind this."""
        self._front.get().service().AddWatcher(watcher)

    def remove_watcher(self, uint64_t watcher):
        self._front.get().service().RemoveWatcher(watcher)

    def leases(self):
        """The clock that follows the commands."""
        cdef LeaseClock clock = LeaseClock.__new__(LeaseClock)
        clock._clock = self._front.get().service().leases()
        clock._front = self
        return clock

    def set_quota_alarm(self, cbool raised):
        self._front.get().service().quota().SetAlarm(raised)

    def method_totals(self):
        """Path -> (started, messages received, sent, handled by code, calls by time taken, seconds), for /metrics."""
        cdef vector[MethodTotals] totals = self._front.get().method_totals()
        cdef size_t number, i
        found = {}
        for number in range(totals.size()):
            path = _text(self._front.get().service().method_path(number))
            if path in found:
                continue  # a cold method that is hot: the first row of a path is the one that is found
            handled = [totals[number].handled[i] for i in range(17)]
            took = [totals[number].took[i] for i in range(12)]
            found[path] = (
                totals[number].started, totals[number].messages_received, totals[number].messages_sent, handled, took,
                totals[number].took_ns / 1e9)
        return found

    def counters(self):
        """Name -> value: services and transport."""
        cdef ServerStats server = self._front.get().server_stats()
        found = {_text(name): value for name, value in self._front.get().service().Counters()}
        found.update(
            connections=server.connections, connections_total=server.connections_total, calls=server.calls,
            calls_total=server.calls_total, received_bytes=server.received_bytes, sent_bytes=server.sent_bytes,
            turns=server.turns)
        return found


cdef class LeaseClock:
    """`fastkv.server.lessor.Lessor` in C++, for any thread. A Front's own follows its commands by itself."""

    cdef CppLeaseClock* _clock
    cdef unique_ptr[CppLeaseClock] _own
    cdef object _front  # whose clock it is, if not our own

    def __init__(self):
        self._own.reset(new CppLeaseClock())
        self._clock = self._own.get()

    def __contains__(self, int64_t lease):
        return self._clock.Contains(lease)

    def __len__(self):
        return self._clock.size()

    def restore(self, leases, double now, double grace_s):
        cdef vector[Granted] granted
        cdef Granted one
        for one.id, one.ttl, one.remaining in leases:
            granted.push_back(one)
        if self._front is None:
            self._clock.Restore(granted, now, grace_s)
        else:
            (<Front>self._front)._front.get().service().RestoreLeases(granted, now, grace_s)

    def grant(self, int64_t lease, int64_t ttl, double now):
        self._clock.Grant(lease, ttl, now)

    def renew(self, int64_t lease, double now):
        return self._clock.Renew(lease, now)

    def renew_all(self, leases, double now):
        """The granted TTL of each, counted anew; 0: there is no such lease; -1: it is due, and will be revoked."""
        cdef vector[int64_t] ids = leases
        return list(self._clock.RenewAll(ids, now))

    def revoke(self, int64_t lease):
        self._clock.Revoke(lease)

    def is_expired(self, int64_t lease, double now):
        return self._clock.IsExpired(lease, now)

    def remaining(self, int64_t lease, double now):
        cdef Left left = self._clock.Remaining(lease, now)
        return (left.remaining_s, left.ttl_s) if left.found else None

    def ids(self):
        return list(self._clock.Ids())

    def next_deadline(self):
        cdef double deadline = self._clock.NextDeadline()
        return None if math.isinf(deadline) else deadline

    def expired(self, double now, size_t limit):
        return list(self._clock.Expired(now, limit))

    def retry(self, int64_t lease):
        self._clock.Retry(lease)
