"""
Other people's clients against both front ends, without and with TLS: etcd's Go client, nghttp2's h2load and nghttp,
curl. (etcdctl: test_etcdctl.py and tests/node/test_tls.py; grpcio: everywhere.)

A client that is not on the machine is skipped by its name; `make peers` and the system's packages have them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastkv.rpc.wire import bytes_field
from node.harness import DEADLINE_S, NodeProcess
from support import go_client
from support.certificates import Authority, Pair
from support.fronts import FRONTS
from support.processes import Etcd, etcd_binaries

pytestmark = pytest.mark.node
PUTS = 2000

# What the Go program prints for an etcd.
GO_EXPECTED: dict[str, Any] = {
    "compacted": True,
    "created": True,
    "created_again": False,
    "deleted": 5,
    "empty_key": True,
    "events": ["PUT w/a=1", "PUT w/a=2 was 1", "DELETE w/a= was 2"],
    "events_from_the_past": ["PUT w/a=1", "PUT w/a=2", "DELETE w/a="],
    "future_revision": True,
    "kept_ttl": 60,
    "leads": True,
    "lease_gone": True,
    "leased_after_revoke": 0,
    "leased_keys": 1,
    "members": 1,
    "old_value": "v1",
    "page": "p/9",
    "page_count": 10,
    "page_more": True,
    "progress": True,
    "put_revision": 2,
    "stm": "1v2",
    "ttl_left": True,
    "value": "v2",
    "version": 2,
    "watch_compacted": True,
    "watch_created": True,
}


class Served(NamedTuple):
    """A node, and what a client needs to reach it."""

    node: NodeProcess
    authority: Authority
    own: Pair | None  # the client's, where the node wants one

    def url(self, path: str) -> str:
        return f"http{'s' if self.own else ''}://{self.node.address}{path}"


@pytest.fixture(params=[f"{front}-{how}" for front in FRONTS for how in ("plain", "tls")])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    front, _, how = request.param.partition("-")
    authority = Authority(tmp_path)
    own = authority.issue("own") if how == "tls" else None
    flags = [f"--front={front}", "--unsafe-no-fsync"]
    if own is not None:
        pair = authority.issue("server")
        flags += [f"--cert-file={pair.cert}", f"--key-file={pair.key}", f"--trusted-ca-file={authority.ca}"]
    credentials = authority.credentials(own) if own is not None else None
    node = NodeProcess(tmp_path / "data", *flags, credentials=credentials)
    yield Served(node, authority, own)
    assert node.end() == 0


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here: install {package}")
    return found


def run(*command: str) -> str:
    """What it prints on standard output; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=2 * DEADLINE_S)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture
def framed(tmp_path: Path) -> Callable[[bytes], str]:
    """framed(message): a file with the message as gRPC frames it."""

    def write(message: bytes) -> str:
        path = tmp_path / "message"
        path.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        return str(path)

    return write


@pytest.fixture(scope="module")
def clientv3() -> str:
    program, why_not = go_client.find()
    if program is None:
        pytest.skip(why_not)
    return str(program)


def test_go_clientv3(served: Served, clientv3: str) -> None:
    arguments = [served.node.address]
    if served.own is not None:
        arguments += [str(path) for path in (served.authority.ca, served.own.cert, served.own.key)]
    assert json.loads(run(clientv3, *arguments)) == GO_EXPECTED


@pytest.mark.etcd
def test_go_clientv3_sees_the_same_on_an_etcd(clientv3: str, tmp_path: Path) -> None:
    binaries = [binary for binary in etcd_binaries() if binary.version >= (3, 6, 0)]
    if not binaries:
        pytest.skip("no etcd 3.6 or newer here: `make peers` builds one, FASTKV_ETCD37 names it")
    server = Etcd(binaries[0], tmp_path / "etcd")
    server.start()
    try:
        server.wait_ready()
        assert json.loads(run(clientv3, server.endpoint)) == GO_EXPECTED
    finally:
        server.stop()


GRPC = ("content-type: application/grpc", "te: trailers")


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("front", FRONTS)
def test_h2load(front: str, secure: bool, tmp_path: Path, framed: Callable[[bytes], str]) -> None:
    """Every put that it counts as succeeded is there. (It has no client certificates, so none is asked for.)"""
    h2load = tool("h2load", "nghttp2-client")
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    node = NodeProcess(
        tmp_path / "data",
        f"--front={front}",
        "--unsafe-no-fsync",
        *((f"--cert-file={pair.cert}", f"--key-file={pair.key}") if secure else ()),
        credentials=authority.credentials() if secure else None,
    )
    count = PUTS if front == "native" else PUTS // 10
    put = framed(bytes_field(1, b"k") + bytes_field(2, b"v" * 100))
    headers = [part for header in GRPC for part in ("-H", header)]
    load = ("-n", str(count), "-c", "5", "-m", "20", "-d", put, "--npn-list=h2", *headers)
    out = run(h2load, *load, f"http{'s' if secure else ''}://{node.address}/etcdserverpb.KV/Put")
    assert f"{count} succeeded, 0 failed, 0 errored, 0 timeout" in out, out
    assert f"Application protocol: h2{'' if secure else 'c'}\n" in out, out
    assert node.put(b"last", b"v") == count + 2
    assert node.end() == 0


def test_nghttp(served: Served, framed: Callable[[bytes], str]) -> None:
    nghttp = tool("nghttp", "nghttp2-client")
    served.node.put(b"k", b"found-by-nghttp")
    own = ["--cert", str(served.own.cert), "--key", str(served.own.key)] if served.own is not None else []
    headers = [part for header in GRPC for part in ("-H", header)]
    request = ("-d", framed(bytes_field(1, b"k")), served.url("/etcdserverpb.KV/Range"))
    assert "found-by-nghttp" in run(nghttp, *own, *headers, *request)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", run(nghttp, "-nv", *own, *headers, *request))
    assert ":status: 200" in shown and "grpc-status: 0" in shown, shown


@pytest.fixture
def curl(served: Served) -> list[str]:
    command = [tool("curl", "curl"), "-sS", "--noproxy", "*", "--max-time", str(DEADLINE_S)]
    if served.own is not None:
        command += ["--cacert", str(served.authority.ca), "--cert", str(served.own.cert), "--key", str(served.own.key)]
    return command


def test_curl_speaks_grpc_over_http2(served: Served, curl: list[str], framed: Callable[[bytes], str]) -> None:
    served.node.put(b"k", b"found-by-curl")
    version = "--http2-prior-knowledge" if served.own is None else "--http2"
    if served.own is not None:
        # Who offers HTTP/1.1 too gets that; curl cannot be told to offer h2 alone.
        assert "HTTP/1.1 " in run(*curl, version, "-D", "-", served.url("/health"))
        return
    headers = [part for header in GRPC for part in ("-H", header)]
    body = ("--data-binary", "@" + framed(bytes_field(1, b"k")))
    out = run(*curl, version, "-D", "-", "--output", "-", *headers, *body, served.url("/etcdserverpb.KV/Range"))
    assert out.startswith("HTTP/2 200") and "found-by-curl" in out and "grpc-status: 0" in out, out


def test_curl_over_http1(served: Served, curl: list[str]) -> None:
    urls = [served.url(path) for path in ("/health", "/version", "/readyz")]
    out = run(*curl, "--http1.1", "-w", "[%{http_code} %{num_connects}]", *urls)
    assert out.startswith('{"health":"true","reason":""}[200 1]{"etcdserver":"3.7.'), out
    assert out.endswith("[200 0]ok\n[200 0]"), "one connection carries them all"
    assert "grpc_server_started_total{" in run(*curl, "--http1.1", served.url("/metrics"))
