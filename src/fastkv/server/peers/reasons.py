"""Why a connection could not be had or ended, in words that tell an operator which file or flag to look at; and the log
that says a sentence once in a while instead of ten times a second."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Protocol

SENTENCES_MAX = 1024  # what is remembered of the sentences said; hostile peers vary them


class Log(Protocol):
    def info(self, message: str, **fields: object) -> None: ...
    def warn(self, message: str, **fields: object) -> None: ...


class QuietLog:
    """Each sentence at most once in interval_s. `now` is the clock."""

    def __init__(self, log: Log, interval_s: float, now: Callable[[], float]) -> None:
        self._log = log
        self._interval_s = interval_s
        self._now = now
        self._said: dict[tuple[str, object], tuple[float, int]] = {}

    def info(self, message: str, **fields: object) -> None:
        self._log.info(message, **fields)

    def warn(self, message: str, who: object = None, **fields: object) -> None:
        """`who`: the same sentence about somebody else is another one."""
        now = self._now()
        last, held_back = self._said.get((message, who), (now - self._interval_s, 0))
        if now - last < self._interval_s:
            self._said[message, who] = (last, held_back + 1)
            return
        if len(self._said) >= SENTENCES_MAX:
            self._said.clear()
        self._said[message, who] = (now, 0)
        if held_back:
            fields["said_more_often"] = held_back
        self._log.warn(message, **fields)


# OpenSSL's reason -> what it means for whoever connects or accepts. An alert names the other side's reason.
_NO_TLS = {
    "WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG",
    "BAD_RECORD_TYPE", "UNKNOWN_PROTOCOL",
}  # fmt: skip
_ALERTS = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust our certificate's issuer",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it requires a client certificate and was given none",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it finds our certificate expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it found no TLS settings in common, or misses a client certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it does not speak our version of TLS",
    "UNSUPPORTED_PROTOCOL": "it does not speak our version of TLS",
    "NO_SHARED_CIPHER": "no cipher in common",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it sent no certificate, and one is required",
}


def describe(error: str | BaseException | None) -> str:
    """What ended a connection."""
    if error is None:
        return "it closed the connection"
    if isinstance(error, str):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        if reason in _NO_TLS:
            return "it does not speak TLS"
        return _ALERTS.get(reason, f"TLS failed: {reason.lower().replace('_', ' ') or error}")
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno).lower()
    if isinstance(error, ConnectionError):
        return "it closed the connection"
    return str(error) or type(error).__name__


def looks_like_tls(data: bytes) -> bool:
    """Whether these first bytes are a TLS record: a handshake or an alert."""
    return len(data) >= 2 and data[0] in (0x15, 0x16) and data[1] == 3
