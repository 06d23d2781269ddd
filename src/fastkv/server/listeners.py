"""The sockets that clients and peers connect to: a port that is taken is told before anything is begun."""

from __future__ import annotations

import socket
from pathlib import Path

from fastkv.server import peers
from fastkv.server.config import Config, ConfigError
from fastkv.server.flags import split_url


def bind(config: Config) -> list[socket.socket]:
    """A bound socket per client URL; OSError names the address that cannot be had."""
    bound: list[socket.socket] = []
    try:
        for url in config.listen_client_urls:
            bound.append(_bind(url, config.reuse_port))
    except OSError:
        for listener in bound:
            listener.close()
        raise
    return bound


def bind_peers(config: Config) -> list[peers.Listener]:
    """A bound socket per peer URL to listen on. ConfigError names the address that cannot be had."""
    bound: list[peers.Listener] = []
    try:
        for url in config.listen_peer_urls:
            bound.append(peers.bind(url, config.reuse_port))
    except (OSError, ValueError) as reason:
        for listener in bound:
            listener.socket.close()
        raise ConfigError("the peer port cannot be opened", "fatal", error=str(reason)) from None
    return bound


def _bind(url: str, reuse_port: bool) -> socket.socket:
    parts = split_url(url)
    if parts.scheme == "unix":
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address: str | tuple[str, int] = parts.netloc + parts.path
        Path(parts.netloc + parts.path).unlink(missing_ok=True)
    else:
        host, _, port = parts.netloc.rpartition(":")
        host = host.strip("[]").replace("localhost", "127.0.0.1")
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        address = (host, int(port))
    try:
        listener.bind(address)
    except OSError as reason:
        listener.close()
        raise OSError(
            reason.errno, f"listen {parts.netloc or parts.path}: {(reason.strerror or str(reason)).lower()}"
        ) from None
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """host:port or the path."""
    name = listener.getsockname()
    if isinstance(name, str):
        return name
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
