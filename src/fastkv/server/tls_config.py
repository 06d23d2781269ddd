"""
What the TLS flags ask for, of the client port and of the peer port: one TlsConfig each.

Owns which flags go together and etcd's texts for those that do not. Reads no file: server/tls.py does, and for the
native front end cpp/front/tls.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

VERSIONS = ("TLS1.2", "TLS1.3")

# Go's name of a suite -> OpenSSL's. Those of TLS 1.3 are always on, in Go too, and naming them is allowed.
CIPHER_SUITES = {
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
}


class TlsConfig(NamedTuple):
    """One port's. Paths are "" where none was given."""

    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    crl_file: str = ""
    client_cert_auth: bool = False
    allowed_cn: tuple[str, ...] = ()
    allowed_hostname: tuple[str, ...] = ()
    # What this member shows where it is the client; its server pair if not given.
    client_cert_file: str = ""
    client_key_file: str = ""
    auto: bool = False  # a certificate is made if none was given
    skip_san_verification: bool = False
    validity_years: int = 1
    cipher_suites: tuple[str, ...] = ()  # of TLS 1.2, as Go names them; (): OpenSSL's choice
    min_version: str = "TLS1.2"
    max_version: str = ""

    @property
    def given(self) -> bool:
        """Whether there is a certificate to serve with: named, or to be made."""
        return bool(self.cert_file or self.key_file or self.auto)

    @property
    def asks_for_certificate(self) -> bool:
        return self.client_cert_auth or bool(self.ca_file)


def common(min_version: str, max_version: str, suites: Sequence[str] | None) -> TlsConfig:
    """What both ports share; suites: Go's names, None if the flag was not given. ValueError with etcd's text."""
    for version in filter(None, (min_version, max_version)):
        if version not in VERSIONS:
            raise ValueError(f'unexpected TLS version "{version}" (must be one of: TLS1.2, TLS1.3)')
    if max_version and min_version > max_version:
        raise ValueError(f"min version ({min_version}) is greater than max version ({max_version})")
    if suites is not None and min_version == "TLS1.3":
        raise ValueError("cipher suites cannot be configured when only TLS1.3 is enabled")
    for suite in suites or ():
        if suite not in CIPHER_SUITES:
            raise ValueError(f'unexpected TLS cipher suite "{suite}"')
    named = tuple(suite for suite in suites or () if CIPHER_SUITES[suite])
    return TlsConfig(cipher_suites=named, min_version=min_version or "TLS1.2", max_version=max_version)


def client_port(
    shared: TlsConfig, text: Callable[[str], str], on: Callable[[str], bool], validity_years: int
) -> TlsConfig:
    """`text` and `on` read a flag's value."""
    return _checked(
        shared._replace(
            cert_file=text("cert-file"),
            key_file=text("key-file"),
            ca_file=text("trusted-ca-file"),
            crl_file=text("client-crl-file"),
            client_cert_auth=on("client-cert-auth"),
            allowed_hostname=_words(text("client-cert-allowed-hostname")),
            client_cert_file=text("client-cert-file"),
            client_key_file=text("client-key-file"),
            auto=on("auto-tls"),
            validity_years=validity_years,
        )
    )


def peer_port(
    shared: TlsConfig, text: Callable[[str], str], on: Callable[[str], bool], validity_years: int
) -> TlsConfig:
    """As client_port."""
    return _checked(
        shared._replace(
            cert_file=text("peer-cert-file"),
            key_file=text("peer-key-file"),
            ca_file=text("peer-trusted-ca-file"),
            crl_file=text("peer-crl-file"),
            client_cert_auth=on("peer-client-cert-auth"),
            allowed_cn=_words(text("peer-cert-allowed-cn")),
            allowed_hostname=_words(text("peer-cert-allowed-hostname")),
            client_cert_file=text("peer-client-cert-file"),
            client_key_file=text("peer-client-key-file"),
            auto=on("peer-auto-tls"),
            skip_san_verification=on("peer-skip-client-san-verification"),
            validity_years=validity_years,
        )
    )


def check_url(url: str, config: TlsConfig, flags: str, kind: str) -> tuple[str, ...]:
    """
    Warnings about serving the URL ("https://...", "unix://..."). ValueError: it cannot be. flags: "--cert-file,
    --key-file" or the peers'; kind: "client" or "peer".
    """
    if url.startswith(("https:", "unixs:")):
        if not config.given:
            raise ValueError(f"TLS key/cert ({flags}) must be provided for {kind} url {url} with HTTPS scheme")
        return ()
    warnings = []
    if config.given:
        warnings.append("scheme is http or unix while key and cert files are present; ignoring key and cert files")
    if config.client_cert_auth:
        warnings.append(
            "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL"
        )
    return tuple(warnings)


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (word.strip() for word in text.split(","))))


def _checked(config: TlsConfig) -> TlsConfig:
    if bool(config.cert_file) != bool(config.key_file):
        raise ValueError(f"KeyFile and CertFile must both be present[key: {config.key_file}, cert: {config.cert_file}]")
    if bool(config.client_cert_file) != bool(config.client_key_file):
        raise ValueError(
            f"ClientKeyFile and ClientCertFile must both be present or both absent: "
            f"key: {config.client_key_file}, cert: {config.client_cert_file}]"
        )
    if config.allowed_cn and config.allowed_hostname:
        raise ValueError(
            f"AllowedCN and AllowedHostname are mutually exclusive (cns={list(config.allowed_cn)}, "
            f"hostnames={list(config.allowed_hostname)})"
        )
    if config.auto and not config.cert_file and config.validity_years == 0:
        raise ValueError("selfSignedCertValidity is invalid,it should be greater than 0")
    return config
