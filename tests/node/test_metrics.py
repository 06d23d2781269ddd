"""/metrics and what else HTTP tells, on the client port and on ports of its own, of both front ends."""

from __future__ import annotations

import http.client
import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from fastkv.rpc.wire import bytes_field, int_field, message_field
from node.harness import DEADLINE_S, INSECURELY, KV, LEASE, MAINTENANCE, WATCH, NodeProcess, grant
from support.certificates import Authority

StartNode = Callable[..., NodeProcess]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

# What etcd's own alerts and dashboard (etcd-mixin) read and a member without peers has.
MIXIN = (
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_server_has_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds_bucket",
    "grpc_server_started_total",
    "process_resident_memory_bytes",
)


def get(address: str, path: str, accept: str = "") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(address, timeout=DEADLINE_S)
    try:
        connection.request("GET", path, headers={"Accept": accept} if accept else {})
        response = connection.getresponse()
        return response.status, response.read().decode(), dict(response.getheaders())
    finally:
        connection.close()


def scrape(node: NodeProcess) -> Samples:
    status, text, _ = get(node.address, "/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def of_method(samples: Samples, name: str, service: str, method: str, **labels: str) -> float:
    """The sum over the labels that are not named."""
    wanted = {("grpc_service", service), ("grpc_method", method), *labels.items()}
    found = [value for (sample, having), value in samples.items() if sample == name and wanted <= having]
    assert found, (name, wanted)
    return sum(found)


def test_the_names_that_etcds_dashboards_read_are_there(node: NodeProcess) -> None:
    names = {name for name, _ in scrape(node)}
    assert set(MIXIN) <= names, set(MIXIN) - names
    assert {"fastkv_memory_bytes", "fastkv_connections_open", "fastkv_info", "os_fd_limit"} <= names
    if node.wait_log("starting an etcd server")["front"] == "native":
        assert {"fastkv_batches_total", "fastkv_commands_total", "fastkv_commit_seconds_total"} <= names
        assert {"fastkv_python_seconds_total", "fastkv_turns_total"} <= names


def test_every_method_has_every_code_from_the_start(start_node: StartNode) -> None:
    samples = scrape(start_node())
    series = [labels for name, labels in samples if name == "grpc_server_handled_total"]
    methods = {(dict(labels)["grpc_service"], dict(labels)["grpc_method"]) for labels in series}
    assert len(series) == 17 * len(methods)
    assert {(KV, "Put"), (WATCH, "Watch"), (LEASE, "LeaseKeepAlive"), ("etcdserverpb.Auth", "UserAdd")} <= methods
    assert of_method(samples, "grpc_server_started_total", WATCH, "Watch", grpc_type="bidi_stream") == 0
    assert of_method(samples, "grpc_server_started_total", KV, "RangeStream", grpc_type="server_stream") == 0


def test_calls_are_counted_by_code(start_node: StartNode) -> None:
    node = start_node()
    for i in range(5):
        node.put(b"k%d" % i, b"v")
    node.get(b"k0")
    assert node.call(KV, "Put", bytes_field(2, b"no key")).code == 3
    assert node.call(KV, "Compact", int_field(1, 99)).code == 11
    lease = grant(node, 60).number(2)
    keeping = node.stream(LEASE, "LeaseKeepAlive")
    for _ in range(3):
        keeping.send(int_field(1, lease))
        keeping.receive()
    keeping.half_close()
    watching = node.stream(WATCH, "Watch")
    watching.send(message_field(1, bytes_field(1, b"k0")))
    watching.receive()
    node.put(b"k0", b"again")
    watching.receive()
    samples = scrape(node)

    def count(name: str, service: str, method: str, **labels: str) -> float:
        return of_method(samples, name, service, method, **labels)

    assert count("grpc_server_started_total", KV, "Put") == 7
    assert count("grpc_server_handled_total", KV, "Put", grpc_code="OK") == 6
    assert count("grpc_server_handled_total", KV, "Put", grpc_code="InvalidArgument") == 1
    assert count("grpc_server_handled_total", KV, "Compact", grpc_code="OutOfRange") == 1
    assert count("grpc_server_msg_received_total", KV, "Put") == 7
    assert count("grpc_server_msg_sent_total", KV, "Put") == 6
    assert count("grpc_server_handling_seconds_count", KV, "Put") == 7
    assert count("grpc_server_handling_seconds_bucket", KV, "Put", le="+Inf") == 7
    assert 0 < count("grpc_server_handling_seconds_sum", KV, "Put") < DEADLINE_S
    assert count("grpc_server_msg_received_total", LEASE, "LeaseKeepAlive") == 3
    assert count("grpc_server_msg_sent_total", LEASE, "LeaseKeepAlive") == 3
    assert count("grpc_server_started_total", WATCH, "Watch") == 1
    assert count("grpc_server_handled_total", WATCH, "Watch") == 0, "it goes on"
    assert count("grpc_server_msg_sent_total", WATCH, "Watch") == 2
    plain = {name: value for (name, labels), value in samples.items() if not labels}
    assert plain["etcd_debugging_mvcc_current_revision"] == 7
    assert plain["etcd_debugging_mvcc_keys_total"] == 5
    assert plain["etcd_debugging_mvcc_watcher_total"] == plain["etcd_debugging_mvcc_watch_stream_total"] == 1
    assert plain["etcd_mvcc_put_total"] == 6 and plain["etcd_debugging_lease_renewed_total"] == 3
    assert plain["etcd_disk_wal_fsync_duration_seconds_count"] >= 6
    assert plain["etcd_disk_wal_fsync_duration_seconds_sum"] > 0
    assert plain["etcd_network_client_grpc_received_bytes_total"] > 100
    assert plain["etcd_network_client_grpc_sent_bytes_total"] > 100
    watching.close()


def test_a_call_that_its_client_gives_up_is_counted_as_canceled(node: NodeProcess) -> None:
    before = of_method(scrape(node), "grpc_server_handled_total", WATCH, "Watch", grpc_code="Canceled")
    watching = node.stream(WATCH, "Watch")
    watching.send(message_field(1, bytes_field(1, b"k")))
    watching.receive()
    watching.close()
    # The reset is on its way; the next call of the connection stands behind it.
    node.get(b"k")
    after = of_method(scrape(node), "grpc_server_handled_total", WATCH, "Watch", grpc_code="Canceled")
    assert after == before + 1


def test_histograms_rise_to_their_count(node: NodeProcess) -> None:
    samples = scrape(node)
    series: dict[tuple[str, frozenset[tuple[str, str]]], list[tuple[float, float]]] = {}
    for (name, labels), value in samples.items():
        if name.endswith("_bucket"):
            bound = float(dict(labels)["le"])
            rest = frozenset(label for label in labels if label[0] != "le")
            series.setdefault((name.removesuffix("_bucket"), rest), []).append((bound, value))
    assert series
    for (name, labels), buckets in series.items():
        buckets.sort()
        counts = [count for _, count in buckets]
        assert counts == sorted(counts) and buckets[-1][0] == math.inf
        assert counts[-1] == samples[f"{name}_count", labels]


def test_openmetrics_is_spoken_to_who_asks(node: NodeProcess) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    status, text, headers = get(node.address, "/metrics", accept)
    assert status == 200 and headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert {"grpc_server_handled", "etcd_server_has_leader"} <= {family.name for family in parse_openmetrics(text)}
    _, _, headers = get(node.address, "/metrics")
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"


def test_promtool_finds_the_text_well_formed(node: NodeProcess) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here: install prometheus")
    _, text, _ = get(node.address, "/metrics")
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    # It also has opinions on names, which are etcd's: those are printed, with status 3.
    assert checked.returncode in (0, 3) and "error while linting" not in checked.stderr, checked.stderr


def test_metrics_answer_any_method_and_vars_only_get(node: NodeProcess) -> None:
    assert node.http("POST", "/metrics").status == 200
    variables = node.http("GET", "/debug/vars")
    assert variables.status == 200 and variables.headers["Content-Type"] == "application/json; charset=utf-8"
    told = json.loads(variables.body)
    assert told["file_descriptor_limit"] > 0 and told["raft.status"]["raftState"] == "StateLeader"
    assert any("--front" in word for word in told["cmdline"])
    assert node.http("POST", "/debug/vars").status == 405
    assert node.http("GET", "/debug/nothing").status == 404


def test_a_port_of_its_own_has_metrics_and_probes_only(start_node: StartNode) -> None:
    node = start_node("--listen-metrics-urls=http://127.0.0.1:0", "--metrics=extensive")
    address = node.wait_log("serving metrics")["address"]
    assert address != node.address
    for path in ("/metrics", "/health", "/livez", "/readyz", "/readyz/non_learner"):
        assert get(address, path)[0] == 200, path
    for path in ("/version", "/debug/vars", "/v3/kv/range", "/"):
        assert get(address, path)[:2] == (404, "404 page not found\n"), path
    assert get(node.address, "/metrics")[0] == 200, "the client port has them too"


def test_http_on_a_port_of_its_own_leaves_grpc_alone_on_the_other(start_node: StartNode) -> None:
    node = start_node("--listen-client-http-urls=http://127.0.0.1:0")
    assert node.wait_log(INSECURELY)["traffic"] == "grpc"
    line = node.wait_line(lambda line: line["msg"] == INSECURELY and line["traffic"] == "http")
    for path in ("/health", "/version", "/metrics", "/readyz"):
        assert get(line["address"], path)[0] == 200, path
    assert node.put(b"k", b"v") == 2
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        node.http("GET", "/health")
    assert "--listen-client-http-urls" in node.wait_log("rejected connection on client endpoint")["error"]


def test_probes_without_a_certificate_where_clients_need_one(start_node: StartNode, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, own = authority.issue("server"), authority.issue("own")
    node = start_node(
        f"--cert-file={server.cert}",
        f"--key-file={server.key}",
        "--client-cert-auth",
        f"--trusted-ca-file={authority.ca}",
        "--listen-metrics-urls=http://127.0.0.1:0",
        credentials=authority.credentials(own),
    )
    address = node.wait_log("serving metrics")["address"]
    assert get(address, "/health")[:2] == (200, '{"health":"true","reason":""}')
    assert node.put(b"k", b"v") == 2
    status = node.ok(MAINTENANCE, "Status")
    assert status.number(3) > 0
