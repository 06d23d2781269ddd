"""Start, end, restart and violent death of a node."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc

from fastkv.server.identity import cluster_id, member_id
from node.harness import (
    DEADLINE_S,
    KV,
    MAINTENANCE,
    Message,
    NodeProcess,
    bytes_field,
    environment,
    header_of,
    revision_of,
    run_cli,
)

STOP_S = 2.0


def test_a_restart_keeps_data_and_ids_and_wins_the_next_term(start_node) -> None:
    node = start_node("--name=first", "--initial-advertise-peer-urls=http://127.0.0.1:2380")
    revision = node.put(b"a", b"1")
    before = header_of(node.get(b"a"))
    assert node.end() == 0
    node = start_node("--initial-cluster-token=other", "--initial-advertise-peer-urls=http://127.0.0.1:9")
    after = header_of(node.get(b"a"))
    assert node.value(b"a") == b"1"
    assert after.number(3) == revision
    assert [after.unsigned(field) for field in (1, 2)] == [before.unsigned(field) for field in (1, 2)]
    assert (before.number(4), after.number(4)) == (2, 3)
    assert node.put(b"a", b"2") == revision + 1


def test_ids_are_computed_as_etcd_does(start_node) -> None:
    """Row 58, and over the wire the ids that etcd 3.7.3 gives for the same flags."""
    member = member_id(("http://127.0.0.1:32380",), "etcd-cluster")
    assert (member, cluster_id([member])) == (0x628170C800DBCEE, 0xBABC9795B64F03E3)
    node = start_node("--name=n", "--initial-advertise-peer-urls=http://127.0.0.1:23801")
    header = header_of(node.get(b"a"))
    assert (header.unsigned(1), header.unsigned(2)) == (0xD1CFAF999EB97A2A, 0xBDAE9BBC11DD390D)


def test_sigterm_and_sigint_end_it_within_2_s_also_with_open_streams(start_node, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        node = start_node(data_dir=tmp_path / number.name)
        watch = node.stream("etcdserverpb.Watch", "Watch")
        alive = node.stream("etcdserverpb.Lease", "LeaseKeepAlive")
        watch.send(b"\x0a\x03\x0a\x01a")
        watch.receive()
        alive.send(b"\x08\x01")
        alive.receive()
        began = time.monotonic()
        node.process.send_signal(number)
        assert node.process.wait(DEADLINE_S) == 0
        assert time.monotonic() - began < STOP_S
        assert node.wait_log("received signal; shutting down")["signal"] == number.name
        assert node.wait_log("closed etcd server")


def test_every_acknowledged_put_survives_kill_9(start_node) -> None:
    """Eight clients put as fast as they are answered until the node is shot; what was answered must be there."""
    node = start_node()
    put = node.channel.unary_unary(f"/{KV}/Put")
    acknowledged: list[tuple[bytes, int]] = []
    enough = threading.Event()

    def write(client: int) -> None:
        for number in range(100_000):
            key = b"%d/%d" % (client, number)
            try:
                response = put(bytes_field(1, key) + bytes_field(2, key), timeout=DEADLINE_S)
            except grpc.RpcError:
                return
            acknowledged.append((key, revision_of(Message(response))))
            if len(acknowledged) >= 500:
                enough.set()

    clients = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for client in clients:
        client.start()
    assert enough.wait(DEADLINE_S)
    node.process.kill()
    for client in clients:
        client.join(DEADLINE_S)
    assert node.end() == -signal.SIGKILL

    node = start_node()
    listed = node.get(b"\0", bytes_field(2, b"\0"))
    found = {Message(kv).data(1): Message(kv).number(3) for kv in listed.all(2)}
    lost = [key for key, revision in acknowledged if found.get(key) != revision]
    assert lost == []
    assert len(found) <= len(acknowledged) + len(clients), "keys that nobody wrote"
    assert run_cli("check", str(node.data_dir)).returncode == 0


def test_a_second_node_on_the_directory_is_refused_and_told_by_whom(start_node, tmp_path: Path) -> None:
    node = start_node()
    urls = ("--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1")
    other = run_cli("serve", f"--data-dir={tmp_path / 'data'}", *urls)
    assert other.returncode == 1
    assert f"process {node.process.pid}" in other.stderr
    node.put(b"still", b"here")


def test_a_taken_port_and_a_foreign_directory_are_named(node: NodeProcess, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    urls = ["--advertise-client-urls=http://127.0.0.1:1", f"--data-dir={tmp_path / 'foreign'}"]
    taken = run_cli("serve", f"--listen-client-urls=http://{node.address}", *urls)
    assert taken.returncode == 1
    assert f"listen {node.address}: address already in use" in taken.stderr
    foreign = run_cli("serve", "--listen-client-urls=http://127.0.0.1:0", *urls)
    assert foreign.returncode == 1
    assert "is not a fastkv directory" in foreign.stderr
    assert sorted(path.name for path in (tmp_path / "foreign").iterdir()) == ["notes.txt"]


def test_what_stands_in_the_way_of_the_data_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    urls = ("--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1")
    for path, reason in ((tmp_path / "file", "a file has its name"), (tmp_path / "file" / "x", "a part of its path")):
        ran = run_cli("serve", f"--data-dir={path}", *urls)
        assert ran.returncode == 1 and reason in ran.stderr and str(path) in ran.stderr


def test_a_taken_port_leaves_no_directory_behind(node: NodeProcess, tmp_path: Path) -> None:
    taken = (f"--listen-client-urls=http://{node.address}", "--advertise-client-urls=http://127.0.0.1:1")
    assert run_cli("serve", f"--data-dir={tmp_path / 'data'}", *taken).returncode == 1
    assert not (tmp_path / "data").exists()


def test_the_data_directory_is_private(node: NodeProcess) -> None:
    assert stat.S_IMODE(os.stat(node.data_dir).st_mode) == 0o700


def test_the_node_loads_no_protobuf(tmp_path: Path) -> None:
    program = (
        "import sys, fastkv.server.main, fastkv.cli.serve\n"
        "print([name for name in sys.modules if name.startswith('google')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment(), check=True)
    assert ran.stdout.strip() == "[]"


def test_a_unix_socket_can_be_served(start_node, tmp_path: Path) -> None:
    path = tmp_path / "client.sock"
    node = start_node(f"--listen-client-urls=unix://{path}", "--advertise-client-urls=unix:///x")
    with grpc.insecure_channel(f"unix:{path}") as channel:
        response = channel.unary_unary(f"/{MAINTENANCE}/Status")(b"", timeout=DEADLINE_S)
    assert Message(response).data(2).startswith(b"3.7.")
    assert node.end() == 0
    assert not path.exists()


def test_without_fsync_the_node_serves_and_keeps_its_data(start_node) -> None:
    node = start_node("--unsafe-no-fsync")
    node.put(b"a", b"1")
    node.end(signal.SIGKILL)
    assert start_node("--unsafe-no-fsync").value(b"a") == b"1"
