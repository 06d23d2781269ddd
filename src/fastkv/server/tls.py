"""
TLS in Python: ssl.SSLContexts from a TlsConfig, and the checks that OpenSSL does not make. Used by the grpcio front
end, the metrics port and the peer port; the native front end does the same in cpp/front/tls.cc.

    contexts = Contexts(config, alpn=("h2",), log=log)
    transport = await loop.connect_accepted_socket(..., ssl=contexts.server())
    if why_not := contexts.refusal(transport.get_extra_info("ssl_object")): ...

Invariants:
* Files are looked at for each handshake and read again when one has changed; what cannot be read is logged once, and
  what was read before stays. (etcd reads the CA only once; here it may be rotated like the rest.)
* A client without a verified certificate gets no further where one is asked for.
* No passphrase is ever asked for: an encrypted key is refused.

Thread safety: none; one event loop owns it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fastkv.server.log import Log
from fastkv.server.tls_config import CIPHER_SUITES, TlsConfig

if TYPE_CHECKING:
    from cryptography.x509 import CertificateRevocationList

HANDSHAKE_TIMEOUT_S = 10.0
VERSIONS = {"": ssl.TLSVersion.MAXIMUM_SUPPORTED, "TLS1.2": ssl.TLSVersion.TLSv1_2, "TLS1.3": ssl.TLSVersion.TLSv1_3}


class TlsError(Exception):
    """A file that cannot be used: its name, and what is wrong with it."""


class _Loaded(NamedTuple):
    server: ssl.SSLContext
    client: ssl.SSLContext
    crl: CertificateRevocationList | None


class Contexts:
    """The contexts of one port. TlsError from the constructor only."""

    def __init__(self, config: TlsConfig, alpn: Sequence[str] = (), log: Log | None = None) -> None:
        self.config = config
        self._alpn = list(alpn)
        self._log = log
        self._stamps = self._look()
        self._loaded = self._load()

    def server(self) -> ssl.SSLContext:
        """For the next handshake with who has connected."""
        self._refresh()
        return self._loaded.server

    def client(self) -> ssl.SSLContext:
        """For the next connection to another member. The name is checked against the certificate, unless it is made
        by --peer-auto-tls: then nothing is, as in etcd."""
        self._refresh()
        return self._loaded.client

    def refusal(self, session: ssl.SSLObject | ssl.SSLSocket) -> str:
        """Why the peer's verified certificate is not let in; "" if it is, or if none was asked for."""
        self._refresh()
        certificate = session.getpeercert()
        if not certificate:
            return ""
        if (crl := self._loaded.crl) is not None:
            serial = int(str(certificate["serialNumber"]), 16)
            if crl.get_revoked_certificate_by_serial_number(serial) is not None:
                return f"the client's certificate is revoked (serial {serial})"
        if self.config.allowed_cn and (name := common_name(certificate)) not in self.config.allowed_cn:
            return f'client certificate authentication failed: CommonName "{name}" is not allowed'
        allowed = self.config.allowed_hostname
        if allowed and not any(is_valid_for(certificate, host) for host in allowed):
            return f"client certificate authentication failed: it is not valid for {', '.join(allowed)}"
        return ""

    def _files(self) -> tuple[str, ...]:
        c = self.config
        return (c.cert_file, c.key_file, c.ca_file, c.crl_file, c.client_cert_file, c.client_key_file)

    def _look(self) -> list[tuple[int, int, int] | None]:
        """What tells two versions of the files apart."""
        stamps: list[tuple[int, int, int] | None] = []
        for path in self._files():
            try:
                found = os.stat(path) if path else None
            except OSError:
                found = None
            stamps.append(None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino))
        return stamps

    def _refresh(self) -> None:
        stamps = self._look()
        if stamps == self._stamps:
            return
        self._stamps = stamps
        try:
            self._loaded = self._load()
        except TlsError as reason:
            if self._log is not None:
                self._log.warn(f"TLS files have changed and cannot be used; the ones before stay: {reason}")

    def _load(self) -> _Loaded:
        config = self.config
        server = self._bare(ssl.PROTOCOL_TLS_SERVER)
        _load_pair(server, config.cert_file, config.key_file)
        if config.asks_for_certificate:
            server.verify_mode = ssl.CERT_REQUIRED
            _load_ca(server, config.ca_file, ssl.Purpose.CLIENT_AUTH)
        client = self._bare(ssl.PROTOCOL_TLS_CLIENT)
        if config.auto:
            client.check_hostname = False
            client.verify_mode = ssl.CERT_NONE
        else:
            _load_ca(client, config.ca_file, ssl.Purpose.SERVER_AUTH)
        _load_pair(client, config.client_cert_file or config.cert_file, config.client_key_file or config.key_file)
        return _Loaded(server, client, read_crl(config.crl_file) if config.crl_file else None)

    def _bare(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = VERSIONS[self.config.min_version]
        context.maximum_version = VERSIONS[self.config.max_version]
        context.options |= ssl.OP_NO_RENEGOTIATION
        if self.config.cipher_suites:
            context.set_ciphers(":".join(CIPHER_SUITES[suite] for suite in self.config.cipher_suites))
        if self._alpn:
            context.set_alpn_protocols(self._alpn)
        return context


def check_files(config: TlsConfig) -> None:
    """TlsError if a server could not be started with them. A certificate that is still to be made is no reason."""
    if config.cert_file:
        Contexts(config)


def read_crl(path: str) -> CertificateRevocationList:
    """A revocation list, DER or PEM."""
    try:
        from cryptography import x509
    except ImportError:
        raise TlsError("a revocation list needs the package cryptography: pip install 'fastkv[server]'") from None
    data = _read(path)
    try:
        return x509.load_pem_x509_crl(data) if data.startswith(b"-----") else x509.load_der_x509_crl(data)
    except ValueError as reason:
        raise TlsError(f"read the CRL {path}: {reason}") from None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as reason:
        raise TlsError(f"open {path}: {(reason.strerror or str(reason)).lower()}") from None


def _load_pair(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    _read(cert_file)
    _read(key_file)
    try:
        context.load_cert_chain(cert_file, key_file, password=b"")
    except (ssl.SSLError, ValueError) as reason:
        raise TlsError(f"read the certificate {cert_file} with the key {key_file}: {reason}") from None


def _load_ca(context: ssl.SSLContext, path: str, purpose: ssl.Purpose) -> None:
    if not path:
        context.load_default_certs(purpose)
        return
    _read(path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as reason:
        raise TlsError(f"read the CA certificates {path}: {reason}") from None


# -- names in certificates: what ssl.SSLObject.getpeercert returns --------------------------------------------------
Certificate = dict[str, Any]


def common_name(certificate: Certificate) -> str:
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""


def alternative_names(certificate: Certificate, kind: str) -> list[str]:
    """kind: "DNS" or "IP Address"."""
    return [value for key, value in certificate.get("subjectAltName", ()) if key == kind]


def is_valid_for(certificate: Certificate, host: str) -> bool:
    """Whether a subjectAltName covers the host name or address, as Go's VerifyHostname: the CommonName never counts."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return any(_covers(name, host) for name in alternative_names(certificate, "DNS"))
    return any(ipaddress.ip_address(name) == address for name in alternative_names(certificate, "IP Address"))


def _covers(pattern: str, host: str) -> bool:
    labels, wanted = pattern.lower().rstrip(".").split("."), host.lower().rstrip(".").split(".")
    if len(labels) != len(wanted) or not all(wanted):
        return False
    return (labels[0] == "*" or labels[0] == wanted[0]) and labels[1:] == wanted[1:]


async def san_refusal(certificate: Certificate, address: str) -> str:
    """
    Why a peer that connects from the IP `address` does not own its certificate, "" if it does: one of its IP names is
    the address, or one of its DNS names leads there. (`--peer-skip-client-san-verification` leaves this out.)
    """
    ips, names = alternative_names(certificate, "IP Address"), alternative_names(certificate, "DNS")
    if not ips and not names:
        return ""
    if is_valid_for(certificate, address):
        return ""
    if not names:
        return f"x509: certificate is valid for {', '.join(ips)}, not {address}"
    if await _is_host_in_dns(address, names):
        return ""
    listed = " ".join(f'"{name}"' for name in names)
    return f'tls: "{address}" does not match any of DNSNames [{listed}]'


async def _is_host_in_dns(address: str, names: Sequence[str]) -> bool:
    loop = asyncio.get_running_loop()
    wanted = ipaddress.ip_address(address)
    wildcards = [name for name in names if name.startswith("*.")]
    for name in names:
        if name in wildcards:
            continue
        try:
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except socket.gaierror:
            continue
        if any(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) == wanted for entry in found):
            return True
    if not wildcards:
        return False
    try:
        host, _ = await loop.getnameinfo((address, 0), socket.NI_NAMEREQD)
    except socket.gaierror:
        return False
    return any(_covers(wildcard, host) for wildcard in wildcards)
