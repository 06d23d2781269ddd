"""
The certificate of --auto-tls and --peer-auto-tls: made once, kept in the data directory, as etcd's.

    <data-dir>/fixtures/client/{cert,key}.pem      ECDSA P-256, O=etcd, names = the hosts that are listened on

(etcd's is P-521, which BoringSSL, and so Chrome and every grpcio client, does not take.)

Invariants:
* What is there is used, never made anew: clients may have pinned it.
* The key is readable for its owner only.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path

from fastkv.server.log import Log
from fastkv.server.tls import TlsError
from fastkv.server.tls_config import TlsConfig


def complete(config: TlsConfig, directory: Path, hosts: Iterable[str], log: Log) -> TlsConfig:
    """The config with a made certificate where one is wanted and none given. TlsError if it cannot be made."""
    if not config.auto:
        return config
    if config.cert_file:
        log.warn("ignoring client auto TLS since certs given")
        return config._replace(auto=False)
    cert, key = directory / "cert.pem", directory / "key.pem"
    if not (cert.exists() and key.exists()):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make(cert, key, list(hosts), config.validity_years)
        except OSError as reason:
            raise TlsError(f"cannot write the certificate in {directory}: {reason.strerror or reason}") from None
        log.info("created a self-signed certificate", cert_file=str(cert), key_file=str(key), hosts=list(hosts))
    return config._replace(cert_file=str(cert), key_file=str(key))


def _make(cert: Path, key: Path, hosts: list[str], years: int) -> None:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError:
        raise TlsError("--auto-tls needs the package cryptography: pip install 'fastkv[server]'") from None
    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "etcd")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=365 * years))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_encipherment=True,
                content_commitment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(secret, hashes.SHA256())
    pem = serialization.Encoding.PEM
    clear = serialization.NoEncryption()
    _write(key, secret.private_bytes(pem, serialization.PrivateFormat.PKCS8, clear), 0o600)
    _write(cert, certificate.public_bytes(pem), 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
