"""The TLS of the peer port: who may connect, whom a member trusts, and whose name an address has."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from fastkv.server.config import from_command_line
from fastkv.server.tls import Contexts, TlsError, check_files, is_valid_for, san_refusal
from fastkv.server.tls_config import TlsConfig
from support.certificates import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def peer(authority: Authority, pair: Pair, **more: Any) -> TlsConfig:
    config = TlsConfig(
        cert_file=str(pair.cert), key_file=str(pair.key), ca_file=str(authority.ca), client_cert_auth=True
    )
    return config._replace(**more)


def shake_hands(
    server: Contexts, client: ssl.SSLContext, name: str = "127.0.0.1"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends after a handshake in memory; ssl.SSLError if it fails."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=name)
    far = server.server().wrap_bio(to_server, to_client, server_side=True)
    waiting = [near, far, near, far]
    while waiting:
        try:
            waiting[0].do_handshake()
            waiting = [end for end in waiting if end is not waiting[0]]
        except ssl.SSLWantReadError:
            waiting.append(waiting.pop(0))
    return near, far


def test_members_of_one_authority_take_each_other(authority: Authority) -> None:
    contexts = Contexts(peer(authority, authority.issue("a")))
    near, far = shake_hands(contexts, Contexts(peer(authority, authority.issue("b"))).client())
    assert contexts.refusal(far) == ""
    assert near.getpeercert() and far.getpeercert()


def test_a_member_shows_its_client_pair_where_it_has_one(authority: Authority) -> None:
    mine = authority.issue("as-client")
    config = peer(authority, authority.issue("a"), client_cert_file=str(mine.cert), client_key_file=str(mine.key))
    _, far = shake_hands(Contexts(config), Contexts(config).client())
    certificate: Any = far.getpeercert()
    assert int(certificate["serialNumber"], 16) == mine.serial


def test_strangers_are_refused_on_both_sides(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    ours, theirs = peer(authority, authority.issue("a")), peer(other, other.issue("b"))
    for server, client in ((ours, theirs), (theirs, ours)):
        with pytest.raises(ssl.SSLError):
            shake_hands(Contexts(server), Contexts(client).client())


def test_names_are_checked(authority: Authority) -> None:
    elsewhere = peer(authority, authority.issue("a", "elsewhere.example.org"))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(Contexts(elsewhere), Contexts(elsewhere).client())
    only_b = Contexts(peer(authority, authority.issue("b"), allowed_cn=("b", "c")))
    assert only_b.refusal(shake_hands(only_b, only_b.client())[1]) == ""
    _, far = shake_hands(only_b, Contexts(peer(authority, authority.issue("d"))).client())
    assert only_b.refusal(far) == 'client certificate authentication failed: CommonName "d" is not allowed'


def test_made_certificates_are_not_verified(authority: Authority) -> None:
    pair = authority.issue("a", "elsewhere.example.org")
    made = Contexts(TlsConfig(cert_file=str(pair.cert), key_file=str(pair.key), auto=True))
    _, far = shake_hands(made, made.client())
    assert made.refusal(far) == ""


def test_revoked_peers_are_refused(authority: Authority, tmp_path: Path) -> None:
    bad, crl = authority.issue("bad"), tmp_path / "crl"
    authority.revoke(bad, path=crl)
    contexts = Contexts(peer(authority, authority.issue("a"), crl_file=str(crl)))
    assert "revoked" in contexts.refusal(shake_hands(contexts, Contexts(peer(authority, bad)).client())[1])
    assert contexts.refusal(shake_hands(contexts, contexts.client())[1]) == ""


@pytest.mark.parametrize(
    ("name", "host", "covered"),
    [
        ("a.example.org", "A.example.org.", True),
        ("*.example.org", "a.example.org", True),
        ("*.example.org", "a.b.example.org", False),
        ("*.example.org", "example.org", False),
        ("a.*.org", "a.example.org", False),
        ("a.example.org", "", False),
    ],
)
def test_host_names(name: str, host: str, covered: bool) -> None:
    assert is_valid_for({"subjectAltName": (("DNS", name),)}, host) is covered


def test_addresses() -> None:
    certificate = {"subjectAltName": (("IP Address", "10.0.0.1"), ("IP Address", "0:0:0:0:0:0:0:1"))}
    assert is_valid_for(certificate, "10.0.0.1") and is_valid_for(certificate, "[::1]")
    assert not is_valid_for(certificate, "10.0.0.2")
    assert not is_valid_for({"subject": ((("commonName", "a"),),)}, "a"), "the common name is no host name"


def test_a_peer_owns_its_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = {"a.example.org": "10.0.0.1", "b.example.org": "10.0.0.2"}

    def addresses(name: str, *_: object, **__: object) -> list[Any]:
        if name not in hosts:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (hosts[name], 0))]

    def names(address: tuple[str, int], _: int) -> tuple[str, str]:
        for name, found in hosts.items():
            if found == address[0]:
                return name, "0"
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", addresses)
    monkeypatch.setattr(socket, "getnameinfo", names)

    def refusal(address: str, *alternatives: tuple[str, str]) -> str:
        return asyncio.run(san_refusal({"subjectAltName": alternatives}, address))

    assert refusal("10.0.0.9") == "", "a certificate without names is anybody's"
    assert refusal("10.0.0.1", ("IP Address", "10.0.0.1")) == ""
    assert refusal("10.0.0.2", ("IP Address", "10.0.0.1")) == "x509: certificate is valid for 10.0.0.1, not 10.0.0.2"
    assert refusal("10.0.0.1", ("DNS", "a.example.org")) == ""
    assert refusal("10.0.0.1", ("DNS", "*.example.org")) == ""
    assert refusal("10.0.0.2", ("IP Address", "10.0.0.1"), ("DNS", "b.example.org")) == ""
    assert refusal("10.0.0.2", ("DNS", "gone.example.org"), ("DNS", "a.example.org")) == (
        'tls: "10.0.0.2" does not match any of DNSNames ["gone.example.org" "a.example.org"]'
    )
    assert "does not match" in refusal("10.0.0.9", ("DNS", "*.example.org"))


def test_files_are_named_when_they_cannot_be_read(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("a")
    check_files(peer(authority, pair))
    check_files(TlsConfig(auto=True))
    missing = tmp_path / "missing"
    for wrong in ({"cert_file": str(missing)}, {"ca_file": str(missing)}, {"crl_file": str(missing)}):
        with pytest.raises(TlsError, match=f"open {missing}: no such file or directory"):
            check_files(peer(authority, pair)._replace(**wrong))


def test_flags_of_both_ports_reach_the_config() -> None:
    flags = {
        "cert-file": "c",
        "key-file": "k",
        "trusted-ca-file": "t",
        "client-crl-file": "r",
        "client-cert-allowed-hostname": "x, y",
        "peer-cert-file": "pc",
        "peer-key-file": "pk",
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": "pt",
        "peer-cert-allowed-cn": "a,b",
        "peer-crl-file": "pr",
        "peer-skip-client-san-verification": "true",
        "peer-client-cert-file": "pcc",
        "peer-client-key-file": "pck",
        "tls-max-version": "TLS1.2",
        "cipher-suites": "TLS_RSA_WITH_AES_128_GCM_SHA256,TLS_AES_128_GCM_SHA256",
    }
    config = from_command_line(flags, {"ETCD_AUTO_TLS": "true", "ETCD_SELF_SIGNED_CERT_VALIDITY": "3"})
    assert config.client_tls == TlsConfig(
        cert_file="c",
        key_file="k",
        ca_file="t",
        crl_file="r",
        allowed_hostname=("x", "y"),
        auto=True,
        validity_years=3,
        cipher_suites=("TLS_RSA_WITH_AES_128_GCM_SHA256",),
        max_version="TLS1.2",
    )
    assert config.peer_tls == TlsConfig(
        cert_file="pc",
        key_file="pk",
        ca_file="pt",
        crl_file="pr",
        client_cert_auth=True,
        allowed_cn=("a", "b"),
        client_cert_file="pcc",
        client_key_file="pck",
        skip_san_verification=True,
        validity_years=3,
        cipher_suites=("TLS_RSA_WITH_AES_128_GCM_SHA256",),
        max_version="TLS1.2",
    )
