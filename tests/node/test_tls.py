"""
TLS on the client port, on both front ends: who is let in, who is refused and with which word in the log, and files that
change while the node runs.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from fastkv.rpc.wire import bytes_field
from node.harness import CHANNEL_OPTIONS, DEADLINE_S, INSECURELY, KV, SECURELY, NodeProcess, run_cli
from support.certificates import Authority, Pair
from support.processes import etcd_binaries

REJECTED = "rejected connection on client endpoint"
StartNode = Callable[..., NodeProcess]
GET = bytes_field(1, b"k")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> tuple[str, ...]:
    """The flags of a node with a certificate."""
    pair = authority.issue("server")
    return (f"--cert-file={pair.cert}", f"--key-file={pair.key}")


def client_context(authority: Authority, own: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca))
    if own is not None:
        context.load_cert_chain(own.cert, own.key)
    return context


def connect(node: NodeProcess) -> socket.socket:
    if "/" in node.address:
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(DEADLINE_S)
        plain.connect(node.address)
        return plain
    host, _, port = node.address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=DEADLINE_S)


def health(node: NodeProcess, context: ssl.SSLContext) -> bytes:
    """The answer to GET /health over TLS, b"" if the connection was refused."""
    try:
        with connect(node) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            received = b""
            while piece := secure.recv(65536):
                received += piece
            return received
    except (ssl.SSLError, ConnectionError):
        return b""


def serial_of(node: NodeProcess, context: ssl.SSLContext) -> int:
    """Of the certificate that the node shows now."""
    with connect(node) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
        certificate: Any = secure.getpeercert()
        return int(certificate["serialNumber"], 16)


def refused(node: NodeProcess, context: ssl.SSLContext, *words: str) -> None:
    """The client gets nothing, and a new line of the log names it and says why."""
    before = len(node.lines)
    assert health(node, context) == b""
    line = node.wait_log(REJECTED, since=before)
    assert all(word in line["error"].lower() for word in words), line
    assert line["remote-addr"].startswith("127.0.0.1:")


def test_grpc_and_http_over_tls(start_node: StartNode, authority: Authority, server: tuple[str, ...]) -> None:
    node = start_node(*server, credentials=authority.credentials())
    assert node.put(b"k", b"v" * 100_000) == 2
    assert node.value(b"k") == b"v" * 100_000
    assert health(node, client_context(authority)).startswith(b"HTTP/1.1 200 OK\r\n")
    assert not any(line["msg"] == INSECURELY for line in node.lines)


@pytest.mark.parametrize(("offered", "chosen"), [(["h2"], "h2"), (["h2", "http/1.1"], "http/1.1"), ([], None)])
def test_the_protocol_is_what_the_client_offers(
    start_node: StartNode, authority: Authority, server: tuple[str, ...], offered: list[str], chosen: str | None
) -> None:
    node = start_node(*server, credentials=authority.credentials())
    context = client_context(authority)
    if offered:
        context.set_alpn_protocols(offered)
    with connect(node) as plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
        assert secure.selected_alpn_protocol() == chosen


def test_only_clients_with_a_good_certificate_are_let_in(
    start_node: StartNode, authority: Authority, server: tuple[str, ...], tmp_path: Path
) -> None:
    good = authority.issue("good")
    flags = ("--client-cert-auth", f"--trusted-ca-file={authority.ca}")
    node = start_node(*server, *flags, credentials=authority.credentials(good))
    assert node.put(b"k", b"v") == 2
    assert b"200 OK" in health(node, client_context(authority, good))
    stranger = Authority(tmp_path, "other").issue("stranger")
    refused(node, client_context(authority), "certificate")
    refused(node, client_context(authority, stranger), "certificate verify failed")
    refused(node, client_context(authority, authority.issue("late", expired=True)), "certificate verify failed")
    assert node.value(b"k") == b"v", "the others go on"


def test_plain_text_on_a_tls_port_is_closed_without_a_reply(
    start_node: StartNode, authority: Authority, server: tuple[str, ...]
) -> None:
    node = start_node(*server, credentials=authority.credentials())
    for said in (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        before = len(node.lines)
        with connect(node) as client:
            client.sendall(said)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
        line = node.wait_log(REJECTED, since=before)
        assert "does not speak TLS" in line["error"]


def test_revoked_certificates_are_refused_from_the_moment_the_list_names_them(
    start_node: StartNode, authority: Authority, server: tuple[str, ...], tmp_path: Path
) -> None:
    good, bad, crl = authority.issue("good"), authority.issue("bad"), tmp_path / "crl.der"
    authority.revoke(path=crl)
    flags = ("--client-cert-auth", f"--trusted-ca-file={authority.ca}", f"--client-crl-file={crl}")
    node = start_node(*server, *flags, credentials=authority.credentials(good))
    assert b"200 OK" in health(node, client_context(authority, bad))
    authority.revoke(bad, path=crl)
    refused(node, client_context(authority, bad), "revoked")
    assert b"200 OK" in health(node, client_context(authority, good))


def test_only_allowed_host_names_are_let_in(
    start_node: StartNode, authority: Authority, server: tuple[str, ...]
) -> None:
    flags = (
        "--client-cert-auth",
        f"--trusted-ca-file={authority.ca}",
        "--client-cert-allowed-hostname=a.example.org,b.example.org",
    )
    node = start_node(*server, *flags, credentials=authority.credentials(authority.issue("b", "b.example.org")))
    assert node.put(b"k", b"v") == 2
    assert b"200 OK" in health(node, client_context(authority, authority.issue("star", "*.example.org")))
    # The common name is no host name.
    for own in (authority.issue("a.example.org", "c.example.net"), authority.issue("deep", "x.a.example.org")):
        refused(node, client_context(authority, own), "not valid for", "b.example.org")


def test_certificates_are_renewed_without_a_restart(
    start_node: StartNode, authority: Authority, server: tuple[str, ...], tmp_path: Path
) -> None:
    node = start_node(*server, credentials=authority.credentials())
    context = client_context(authority)
    first = serial_of(node, context)
    renewed = authority.issue("server")
    assert serial_of(node, context) == renewed.serial != first
    renewed.key.write_text("no key")
    assert serial_of(node, context) == renewed.serial, "what cannot be read takes nothing away"
    text = "TLS files have changed and cannot be used; the ones before stay: "
    line = node.wait_line(lambda line: line["msg"].startswith(text) and str(renewed.key) in line["msg"])
    assert line["level"] == "warn"


def test_http_and_https_share_a_port(
    start_node: StartNode, authority: Authority, server: tuple[str, ...], free_port: int
) -> None:
    urls = f"--listen-client-urls=http://127.0.0.1:{free_port},https://127.0.0.1:{free_port}"
    node = start_node(*server, urls, credentials=authority.credentials())
    node.wait_log(INSECURELY)
    assert node.put(b"k", b"v") == 2
    with grpc.insecure_channel(node.address, CHANNEL_OPTIONS) as channel:
        assert channel.unary_unary(f"/{KV}/Range")(GET, timeout=DEADLINE_S)
    assert node.http("GET", "/health").status == 200


@pytest.mark.parametrize("scheme", ["unix", "unixs"])
def test_unix_sockets(
    start_node: StartNode, authority: Authority, server: tuple[str, ...], tmp_path: Path, scheme: str
) -> None:
    path = tmp_path / "s"
    credentials = authority.credentials() if scheme == "unixs" else None
    node = start_node(*server, f"--listen-client-urls={scheme}://{path}", credentials=credentials)
    assert node.address == str(path)
    if scheme == "unix":
        assert node.put(b"k", b"v") == 2
    else:
        assert b"200 OK" in health(node, client_context(authority))
    assert node.end() == 0 and not path.exists()


def test_ipv6(start_node: StartNode, authority: Authority, server: tuple[str, ...]) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as reason:
        pytest.skip(f"no IPv6 here: {reason}")
    node = start_node(*server, "--listen-client-urls=https://[::1]:0", credentials=authority.credentials())
    assert node.address.startswith("[::1]:") and node.put(b"k", b"v") == 2


def test_a_made_certificate_is_kept(start_node: StartNode, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    made = data_dir / "fixtures" / "client"
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    no_one = grpc.ssl_channel_credentials()
    node = start_node("--auto-tls", data_dir=data_dir, credentials=no_one)
    assert b"200 OK" in health(node, unverified)
    assert node.end() == 0
    assert (made / "key.pem").stat().st_mode & 0o777 == 0o600
    first = (made / "cert.pem").read_bytes()
    node = start_node("--auto-tls", data_dir=data_dir, credentials=grpc.ssl_channel_credentials(first))
    assert (made / "cert.pem").read_bytes() == first
    assert node.put(b"k", b"v") == 2, "it is valid for the host that is listened on"


def test_versions_and_cipher_suites(start_node: StartNode, authority: Authority, server: tuple[str, ...]) -> None:
    suite = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
    flags = ("--tls-max-version=TLS1.2", f"--cipher-suites={suite},TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256")
    node = start_node(*server, *flags, credentials=authority.credentials())
    with connect(node) as plain, client_context(authority).wrap_socket(plain, server_hostname="localhost") as secure:
        assert secure.version() == "TLSv1.2"
        cipher = secure.cipher()
        assert cipher is not None and "CHACHA20" in cipher[0]
    new = client_context(authority)
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    refused(node, new, "protocol")


def test_a_lowest_version_refuses_older_clients(
    start_node: StartNode, authority: Authority, server: tuple[str, ...]
) -> None:
    node = start_node(*server, "--tls-min-version=TLS1.3", credentials=authority.credentials())
    old = client_context(authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    refused(node, old, "protocol")


def test_files_that_cannot_be_used_stop_the_start(authority: Authority, tmp_path: Path, front: str) -> None:
    pair, other = authority.issue("server"), authority.issue("other")
    encrypted = tmp_path / "encrypted.key"
    openssl = shutil.which("openssl")
    assert openssl, "no openssl command here"
    command = [openssl, "pkey", "-in", str(pair.key), "-aes256", "-passout", "pass:x", "-out", str(encrypted)]
    subprocess.run(command, check=True, timeout=DEADLINE_S)
    no = tmp_path / "no.pem"
    for flags, named in [
        ((f"--cert-file={no}", f"--key-file={pair.key}"), f"open {no}: no such file or directory"),
        ((f"--cert-file={pair.cert}", f"--key-file={no}"), f"open {no}: no such file or directory"),
        ((f"--cert-file={pair.cert}", f"--key-file={other.key}"), str(other.key)),
        ((f"--cert-file={pair.cert}", f"--key-file={encrypted}"), str(encrypted)),
        ((f"--cert-file={pair.cert}", f"--key-file={pair.key}", f"--trusted-ca-file={pair.key}"), str(pair.key)),
        ((f"--cert-file={pair.cert}", f"--key-file={pair.key}", f"--client-crl-file={pair.key}"), str(pair.key)),
    ]:
        ran = run_cli(
            "serve",
            f"--front={front}",
            f"--data-dir={tmp_path / 'data'}",
            "--listen-client-urls=https://127.0.0.1:0",
            "--advertise-client-urls=https://127.0.0.1:1",
            *flags,
        )
        assert ran.returncode == 1, flags
        assert '"msg":"listener failed"' in ran.stderr and named in ran.stderr, (flags, ran.stderr)
        assert not (tmp_path / "data").exists(), "nothing was made before the refusal"


ETCDCTLS = [(binary.name, tool) for binary in etcd_binaries() if (tool := binary.tool("etcdctl"))]


@pytest.mark.etcd
@pytest.mark.parametrize("tool", [pytest.param(path, id=name) for name, path in ETCDCTLS] or [
    pytest.param("", marks=pytest.mark.skip(reason="no etcd and etcdctl here: `make peers` fetches them"))
])  # fmt: skip
def test_etcdctl_over_tls(start_node: StartNode, authority: Authority, server: tuple[str, ...], tool: str) -> None:
    own = authority.issue("root")
    flags = ("--client-cert-auth", f"--trusted-ca-file={authority.ca}")
    node = start_node(*server, *flags, credentials=authority.credentials(own))
    ours = ("--cacert", str(authority.ca), "--cert", str(own.cert), "--key", str(own.key))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [tool, "--endpoints", f"https://{node.address}", "--dial-timeout=2s", "--command-timeout=3s"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=DEADLINE_S)

    assert run(*ours, "put", "k", "v").stdout == "OK\n"
    assert run(*ours, "get", "k").stdout == "k\nv\n"
    checked = run(*ours, "endpoint", "health")
    assert "is healthy" in checked.stdout + checked.stderr
    assert run("--cacert", str(authority.ca), "get", "k").returncode != 0
    assert SECURELY in {line["msg"] for line in node.lines}


def test_curl_over_tls(start_node: StartNode, authority: Authority, server: tuple[str, ...]) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl here: install curl")
    own = authority.issue("own")
    flags = ("--client-cert-auth", f"--trusted-ca-file={authority.ca}")
    node = start_node(*server, *flags, credentials=authority.credentials(own))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [curl, "-sS", "--noproxy", "*", "--cacert", str(authority.ca), *arguments]
        return subprocess.run(
            [*command, f"https://{node.address}/health"], capture_output=True, text=True, timeout=DEADLINE_S
        )

    ours = ("--cert", str(own.cert), "--key", str(own.key))
    for version in ("--http1.1", "--http2"):
        assert run(*ours, version).stdout == '{"health":"true","reason":""}'
    assert run().returncode != 0
