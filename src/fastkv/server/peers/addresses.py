"""Peer URLs and the sockets behind them."""

from __future__ import annotations

import errno
import socket
from typing import NamedTuple

from fastkv.server.flags import split_url


class Address(NamedTuple):
    """Of a peer URL. `tls`: its scheme is https."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Listener(NamedTuple):
    """A bound socket and whether TLS is spoken on it."""

    socket: socket.socket
    tls: bool


def parse(url: str) -> Address:
    """http://host:port or https://host:port; the host may be a name, IPv4 or [IPv6]. ValueError otherwise."""
    parts = split_url(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"peer URL scheme must be http or https: {url}")
    host, _, port = parts.netloc.rpartition(":")
    host = host.strip("[]")
    if not host or "@" in host:
        raise ValueError(f"peer URL has no host: {url}")
    return Address(host, int(port), parts.scheme == "https")


def bind(url: str, reuse_port: bool = False) -> Listener:
    """A bound socket for a URL to listen on; OSError names the address that cannot be had."""
    address = parse(url)
    host = "127.0.0.1" if address.host == "localhost" else address.host
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, address.port))
    except OSError as error:
        listener.close()
        number = error.errno or errno.EADDRNOTAVAIL  # a name that cannot be resolved has none of errno's
        raise OSError(number, f"listen {address}: {(error.strerror or str(error)).lower()}") from None
    listener.setblocking(False)
    return Listener(listener, address.tls)
