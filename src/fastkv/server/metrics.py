"""
/metrics: what a node counts, under the names that etcd's dashboards and alerts read, and fastkv's own beside them.

    C++ and Python count --scrape--> Collector: families --prometheus_client--> text or OpenMetrics

Nothing is computed between two scrapes: counters live where the work is done (cpp/front/call_metrics.h, the engine's
stats, server/call_counts.py). Every series of gRPC exists from the start, as rate() and alerts on absence expect.

Left out, because they would have to be invented: go_*, backend commit times (there is no bbolt), grpc_proxy_*.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from fastkv._version import __version__
from fastkv.rpc.methods import ABSENT, BIDIRECTIONAL, SERVER_STREAMING, UNARY
from fastkv.server.node import Node
from fastkv.server.version import API_VERSION

# By number, as grpc_prometheus names them.
CODES = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)
# Upper bounds in seconds.
CALL_BOUNDS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf")
SYNC_BOUNDS = (*(f"{0.001 * 2**i:g}" for i in range(14)), "+Inf")
STREAMS_ABSENT = frozenset(("/etcdserverpb.Maintenance/Snapshot", "/v3electionpb.Election/Observe"))


class MethodCounts(NamedTuple):
    """Of one method. handled: by code's number; took: calls by time, one a bound of CALL_BOUNDS (not cumulative)."""

    started: int
    received: int
    sent: int
    handled: Sequence[int]
    took: Sequence[int]
    took_s: float


class Traffic(Protocol):
    """What a front end counts."""

    def methods(self) -> Mapping[str, MethodCounts]:
        """By path; a method that is missing was never called."""

    def counters(self) -> Mapping[str, float]:
        """received_bytes and sent_bytes of gRPC, connections and whatever else: each becomes a fastkv_ metric."""


NEVER = MethodCounts(0, 0, 0, [0] * len(CODES), [0] * len(CALL_BOUNDS), 0.0)
# Counted as calls that succeeded: what a txn does inside is not taken apart.
CALLS_AS_COUNTERS = {
    "etcd_mvcc_put": "/etcdserverpb.KV/Put",
    "etcd_mvcc_delete": "/etcdserverpb.KV/DeleteRange",
    "etcd_mvcc_txn": "/etcdserverpb.KV/Txn",
    "etcd_mvcc_range": "/etcdserverpb.KV/Range",
    "etcd_debugging_lease_granted": "/etcdserverpb.Lease/LeaseGrant",
    "etcd_debugging_lease_revoked": "/etcdserverpb.Lease/LeaseRevoke",
}
# Of a front end's counters, those that go up and down.
GAUGES = frozenset(("connections_open", "calls_open"))
# A front end's counters (as fastkv_NAME), and everything else by its full name.
HELP = {
    "batch_bytes": "Bytes of the batches that were committed.",
    "batches": "Batches that were committed: one log record, one sync each.",
    "batches_at_once": "Batches that the thread which read them committed itself.",
    "calls_open": "Calls that are open.",
    "calls_total": "Calls that clients have begun, of whatever path.",
    "commands": "Commands in the batches that were committed.",
    "commit_seconds": "Time from taking a batch to having it on disk and applied.",
    "connections_open": "Connections that are open.",
    "connections_total": "Connections that were accepted.",
    "python_seconds": "Time that Python, with the GIL, spent on what the front end had to tell it.",
    "python_turns": "How often the front end woke Python.",
    "reads_inline": "Reads that were answered where they were read.",
    "reads_off_thread": "Reads that were given to a thread of their own, because they are long.",
    "received_bytes": "Bytes that came from clients.",
    "sent_bytes": "Bytes that went to clients.",
    "turns": "Turns of the front end's loops.",
    "watch_event_bytes": "Bytes of events that watchers were sent.",
    "watch_responses": "Responses that watchers were sent.",
    "fastkv_checkpoint_bytes": "Size of the newest checkpoint.",
    "fastkv_info": "What is running.",
    "fastkv_leases": "Leases that live.",
    "fastkv_log_bytes": "Size of the log since the newest checkpoint.",
    "fastkv_memory_bytes": "Memory of records and index.",
    "fastkv_records": "Records in the store: versions of keys, and deletions.",
    "etcd_cluster_version": "Which version is running. 1 for 'cluster_version' label with current cluster version.",
    "etcd_debugging_lease_granted": "The total number of granted leases.",
    "etcd_debugging_lease_renewed": "The number of renewed leases seen by the leader.",
    "etcd_debugging_lease_revoked": "The total number of revoked leases.",
    "etcd_debugging_mvcc_compact_revision": "The revision of the last compaction in store.",
    "etcd_debugging_mvcc_current_revision": "The current revision of store.",
    "etcd_debugging_mvcc_db_total_size_in_bytes": "The old name of etcd_mvcc_db_total_size_in_bytes.",
    "etcd_debugging_mvcc_keys_total": "Total number of keys.",
    "etcd_debugging_mvcc_watch_stream_total": "Total number of watch streams.",
    "etcd_debugging_mvcc_watcher_total": "Total number of watchers.",
    "etcd_disk_defrag_inflight": "Whether or not defrag is active on the member. 1 means active, 0 means not.",
    "etcd_disk_wal_fsync_duration_seconds": "The latency distributions of fsync called by WAL.",
    "etcd_mvcc_db_total_size_in_bytes": "Total size of the underlying database physically allocated in bytes.",
    "etcd_mvcc_db_total_size_in_use_in_bytes": "Total size of the underlying database logically in use in bytes.",
    "etcd_mvcc_delete": "Total number of deletes seen by this member.",
    "etcd_mvcc_put": "Total number of puts seen by this member.",
    "etcd_mvcc_range": "Total number of ranges seen by this member.",
    "etcd_mvcc_txn": "Total number of txns seen by this member.",
    "etcd_network_client_grpc_received_bytes": "The total number of bytes received from grpc clients.",
    "etcd_network_client_grpc_sent_bytes": "The total number of bytes sent to grpc clients.",
    "etcd_server_has_leader": "Whether or not a leader exists. 1 is existence, 0 is not.",
    "etcd_server_heartbeat_send_failures": "The total number of leader heartbeat send failures.",
    "etcd_server_id": "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
    "etcd_server_is_leader": "Whether or not this member is a leader. 1 if is, 0 otherwise.",
    "etcd_server_is_learner": "Whether or not this member is a learner. 1 if is, 0 otherwise.",
    "etcd_server_leader_changes_seen": "The number of leader changes seen.",
    "etcd_server_proposals_applied_total": "The total number of consensus proposals applied.",
    "etcd_server_proposals_committed_total": "The total number of consensus proposals committed.",
    "etcd_server_proposals_failed": "The total number of failed proposals seen.",
    "etcd_server_proposals_pending": "The current number of pending proposals to commit.",
    "etcd_server_quota_backend_bytes": "Current backend storage quota size in bytes.",
    "etcd_server_version": "Which version is running. 1 for 'server_version' label with current version.",
    "grpc_server_handled": "Total number of RPCs completed on the server, regardless of success or failure.",
    "grpc_server_handling_seconds": (
        "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server."
    ),
    "grpc_server_msg_received": "Total number of RPC stream messages received on the server.",
    "grpc_server_msg_sent": "Total number of gRPC stream messages sent by the server.",
    "grpc_server_started": "Total number of RPCs started on the server.",
    "os_fd_limit": "The file descriptor limit.",
}


def methods() -> dict[str, str]:
    """Path -> grpc_type, of everything a node answers."""
    kinds: dict[str, str] = {}
    for service, absent in ABSENT.items():
        for name in absent:
            path = f"/{service}/{name}"
            kinds[path] = "server_stream" if path in STREAMS_ABSENT else "unary"
    for kind, tables in (("unary", UNARY), ("server_stream", SERVER_STREAMING), ("bidi_stream", BIDIRECTIONAL)):
        for service, table in tables.items():
            kinds |= {f"/{service}/{name}": kind for name in table}
    return kinds


class Metrics:
    """What one node tells."""

    def __init__(self, node: Node, traffic: Traffic) -> None:
        self._node = node
        self._traffic = traffic
        self._kinds = sorted(methods().items())

    def render(self, accept: str) -> tuple[Callable[[], bytes], str]:
        """
        (what makes the body, content type), for a request with that Accept header. The numbers are read here; the body
        takes some 20 ms to make and is for another thread.
        """
        node = self._node
        scrape = _Scrape(
            kinds=self._kinds,
            calls=self._traffic.methods(),
            counters=self._traffic.counters(),
            stats=node.engine.stats(),
            sync_times=node.engine.sync_times(),
            member=_member(node),
        )
        encode, content_type = choose_encoder(accept)
        if "escaping=" not in content_type:
            content_type += "; escaping=underscores"

        def make() -> bytes:
            registry = CollectorRegistry(auto_describe=False)
            ProcessCollector(registry=registry)
            registry.register(scrape)
            return encode(registry)

        return make, content_type


def _member(node: Node) -> list[Metric]:
    """What it is in its cluster."""
    own = node.identity.member_id
    return [
        _gauge("etcd_server_has_leader", node.knows_leader),
        _gauge("etcd_server_is_leader", node.leader == own),
        _gauge("etcd_server_is_learner", node.is_learner),
        _counter("etcd_server_leader_changes_seen", node.leader_changes),
        _counter("etcd_server_heartbeat_send_failures", 0),
        _gauge("etcd_server_proposals_committed_total", node.commit_index),
        _gauge("etcd_server_proposals_applied_total", node.engine.applied_index),
        _gauge("etcd_server_proposals_pending", node.waiting),
        _counter("etcd_server_proposals_failed", 0),
        _gauge("etcd_server_quota_backend_bytes", node.config.quota_bytes),
        _labelled("etcd_server_id", server_id=f"{own:x}"),
        _labelled("etcd_server_version", server_version=API_VERSION),
        _labelled("etcd_cluster_version", cluster_version=node.downgrade.cluster_version.rpartition(".")[0]),
        _labelled("fastkv_info", version=__version__, engine=node.engine.name),
    ]


class _Scrape(Collector):
    """The numbers of one moment, as prometheus_client's families."""

    def __init__(
        self,
        kinds: Sequence[tuple[str, str]],
        calls: Mapping[str, MethodCounts],
        counters: Mapping[str, float],
        stats: Mapping[str, int],
        sync_times: tuple[Sequence[int], float],
        member: Sequence[Metric],
    ) -> None:
        self._kinds = kinds
        self._calls = calls
        self._counters = counters
        self._stats = stats
        self._sync_times = sync_times
        self._member = member

    def collect(self) -> Iterator[Metric]:
        yield from self._grpc()
        yield from self._member
        yield from self._store()
        yield from self._own()

    # -- gRPC -------------------------------------------------------------------------------------------------
    def _grpc(self) -> Iterator[Metric]:
        labels = ("grpc_type", "grpc_service", "grpc_method")

        def counter(name: str, *more: str) -> CounterMetricFamily:
            return CounterMetricFamily(name, HELP[name], labels=(*labels, *more))

        started, handled = counter("grpc_server_started"), counter("grpc_server_handled", "grpc_code")
        received, sent = counter("grpc_server_msg_received"), counter("grpc_server_msg_sent")
        name = "grpc_server_handling_seconds"
        handling = HistogramMetricFamily(name, HELP[name], labels=labels)
        for path, kind in self._kinds:
            _, service, method = path.split("/")
            counts, values = self._calls.get(path, NEVER), (kind, service, method)
            started.add_metric(values, counts.started)
            received.add_metric(values, counts.received)
            sent.add_metric(values, counts.sent)
            for code, count in zip(CODES, counts.handled, strict=True):
                handled.add_metric((*values, code), count)
            handling.add_metric(values, _buckets(CALL_BOUNDS, counts.took), counts.took_s)
        yield from (started, handled, received, sent, handling)

    # -- the store --------------------------------------------------------------------------------------------
    def _store(self) -> Iterator[Metric]:
        stats = self._stats
        in_use = stats["memory_bytes"]
        size = max(stats["log_bytes"] + stats["checkpoint_bytes"], in_use, 1)
        name = "etcd_disk_wal_fsync_duration_seconds"
        counts, total_s = self._sync_times
        yield HistogramMetricFamily(name, HELP[name], _buckets(SYNC_BOUNDS, counts), total_s)
        yield _gauge("etcd_disk_defrag_inflight", 0)
        yield _gauge("etcd_mvcc_db_total_size_in_bytes", size)
        yield _gauge("etcd_debugging_mvcc_db_total_size_in_bytes", size)
        yield _gauge("etcd_mvcc_db_total_size_in_use_in_bytes", in_use)
        yield _gauge("etcd_debugging_mvcc_keys_total", stats["keys"])
        yield _gauge("etcd_debugging_mvcc_current_revision", stats["revision"])
        yield _gauge("etcd_debugging_mvcc_compact_revision", stats["compact_revision"])
        yield _gauge("etcd_debugging_mvcc_watcher_total", stats["watchers"])
        watching = self._calls.get("/etcdserverpb.Watch/Watch", NEVER)
        yield _gauge("etcd_debugging_mvcc_watch_stream_total", watching.started - sum(watching.handled))
        for name, path in CALLS_AS_COUNTERS.items():
            yield _counter(name, self._calls.get(path, NEVER).handled[0])
        yield _counter(
            "etcd_debugging_lease_renewed", self._calls.get("/etcdserverpb.Lease/LeaseKeepAlive", NEVER).sent
        )
        yield _gauge("fastkv_memory_bytes", in_use)
        for name in ("log_bytes", "checkpoint_bytes", "records", "leases"):
            yield _gauge(f"fastkv_{name}", stats[name])

    # -- the front end and the process ------------------------------------------------------------------------
    def _own(self) -> Iterator[Metric]:
        counters = self._counters
        for name in ("received_bytes", "sent_bytes"):
            yield _counter(f"etcd_network_client_grpc_{name}", counters[name])
        for name, value in sorted(counters.items()):
            if name in GAUGES:
                yield GaugeMetricFamily(f"fastkv_{name}", HELP[name], value)
            else:
                yield CounterMetricFamily(f"fastkv_{name.removesuffix('_total')}", HELP[name], value)
        yield _gauge("os_fd_limit", resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _buckets(bounds: Sequence[str], counts: Sequence[int]) -> list[tuple[str, float]]:
    return list(zip(bounds, map(float, accumulate(counts)), strict=True))


def _gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(name, HELP[name], float(value))


def _counter(name: str, value: float) -> Metric:
    """`_total` is added to the name."""
    return CounterMetricFamily(name, HELP[name], float(value))


def _labelled(name: str, **labels: str) -> Metric:
    """A gauge that is 1 and says something in its labels."""
    family = GaugeMetricFamily(name, HELP[name], labels=tuple(labels))
    family.add_metric(tuple(labels.values()), 1.0)
    return family
