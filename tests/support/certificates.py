"""
Certificates for tests of TLS, made by trustme and written as the files that flags name.

    authority = Authority(tmp_path)          ca.pem
    server = authority.issue("server")       server.pem, server.key; for 127.0.0.1, ::1 and localhost
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import NamedTuple

import grpc
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

HOSTS = ("127.0.0.1", "::1", "localhost")


class Pair(NamedTuple):
    """A certificate and its key."""

    cert: Path
    key: Path

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.cert.read_bytes()).serial_number


class Authority:
    """A CA of its own in a directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._ca = trustme.CA(organization_name=name)
        self._directory = directory
        self.ca = directory / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, *hosts: str, expired: bool = False) -> Pair:
        """For the hosts (HOSTS if none is given), with `name` as its common name."""
        now = datetime.datetime.now(datetime.UTC)
        leaf = self._ca.issue_cert(
            *(hosts or HOSTS),
            common_name=name,
            not_before=now - datetime.timedelta(days=2),
            not_after=now + datetime.timedelta(days=-1 if expired else 1),
        )
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        pair.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        pair.key.write_bytes(leaf.private_key_pem.bytes())
        return pair

    def revoke(self, *pairs: Pair, path: Path) -> None:
        """Write a revocation list in DER."""
        now = datetime.datetime.now(datetime.UTC)
        issuer = x509.load_pem_x509_certificate(self._ca.cert_pem.bytes())
        builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
        builder = builder.last_update(now).next_update(now + datetime.timedelta(days=1))
        for pair in pairs:
            entry = x509.RevokedCertificateBuilder().serial_number(pair.serial).revocation_date(now).build()
            builder = builder.add_revoked_certificate(entry)
        key = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        crl = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
        path.write_bytes(crl.public_bytes(serialization.Encoding.DER))

    def credentials(self, own: Pair | None = None) -> grpc.ChannelCredentials:
        """Of a client that trusts this CA and shows `own`."""
        if own is None:
            return grpc.ssl_channel_credentials(self.ca.read_bytes())
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), own.key.read_bytes(), own.cert.read_bytes())
