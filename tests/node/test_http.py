"""HTTP/1.1 on the client port, beside gRPC."""

from __future__ import annotations

import json
import socket

from node.harness import DEADLINE_S, NodeProcess


def test_version_is_etcds_and_ours(node: NodeProcess) -> None:
    reply = node.http("GET", "/version")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    versions = json.loads(reply.body)
    assert versions["etcdserver"].startswith("3.7.") and versions["etcdcluster"] == "3.7.0"
    assert versions["fastkv"]


def test_health_is_etcds(node: NodeProcess) -> None:
    reply = node.http("GET", "/health")
    assert reply[:2] == (200, b'{"health":"true","reason":""}')
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert node.http("GET", "/health?serializable=true&exclude=NOSPACE").status == 200


def test_probes(node: NodeProcess) -> None:
    assert node.http("GET", "/livez")[:2] == (200, b"ok\n")
    assert node.http("GET", "/readyz")[:2] == (200, b"ok\n")
    lines = node.http("GET", "/readyz?verbose").body.decode().splitlines()
    checks = ("data_corruption", "linearizable_read", "non_learner", "serializable_read")
    assert sorted(lines) == sorted([f"[+]{check} ok" for check in checks] + ["ok"])
    assert node.http("GET", "/readyz/non_learner").body == b"ok\n"
    assert node.http("GET", "/readyz/nope").status == 404


def test_other_paths_and_methods_are_refused(node: NodeProcess) -> None:
    missing = node.http("GET", "/nope")
    assert missing[:2] == (404, b"404 page not found\n")
    for path in ("/health", "/version", "/livez", "/readyz"):
        refused = node.http("POST", path)
        assert refused.status == 405 and refused.headers["Allow"] == "GET"
        assert node.http("HEAD", path).status == 405


def receive_all(client: socket.socket) -> bytes:
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


def connect(node: NodeProcess) -> socket.socket:
    host, _, port = node.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE_S)


def test_a_connection_carries_several_requests(node: NodeProcess) -> None:
    with connect(node) as client:
        request = b"GET /health HTTP/1.1\r\nHost: x\r\n%s\r\n"
        client.sendall(request % b"" + request % b"" + request % b"Connection: close\r\n")
        assert receive_all(client).count(b"HTTP/1.1 200 OK\r\n") == 3


def test_a_request_may_come_byte_by_byte(node: NodeProcess) -> None:
    """Also one that looks like the HTTP/2 preface at first."""
    with connect(node) as client:
        for byte in b"PRI * HTTP/1.0\r\nConnection: close\r\n\r\n":
            client.sendall(bytes((byte,)))
        assert b" 404 Not Found\r\n" in receive_all(client)


def test_garbage_gets_400_and_an_end(node: NodeProcess) -> None:
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"\0" * 100 + b"\r\n\r\n",
    ):
        with connect(node) as client:
            client.sendall(garbage)
            assert receive_all(client).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_hangs_up_disturbs_nobody(node: NodeProcess) -> None:
    for first in (b"", b"PRI", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /heal"):
        with connect(node) as client:
            client.sendall(first)
    assert node.http("GET", "/health").status == 200
    assert node.put(b"after", b"v") > 1
    assert not [line for line in node.lines if line["level"] in ("error", "fatal", "raw")]
