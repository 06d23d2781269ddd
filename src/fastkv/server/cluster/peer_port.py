"""
The peer port of a node: its sockets, its TLS, and the transport that is made of them.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastkv.server import peers, self_signed
from fastkv.server.config import Config, ConfigError
from fastkv.server.identity import Identity
from fastkv.server.log import Log
from fastkv.server.peers import LocalIdentity, Peers
from fastkv.server.tls import Contexts, TlsError, san_refusal
from fastkv.server.version import API_VERSION


def bind(config: Config) -> list[peers.Listener]:
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


def contexts(config: Config, log: Log) -> Contexts | None:
    """What TLS is spoken with to peers; None: it is not spoken. ConfigError names the file that is no good."""
    if not config.peer_tls.given:
        return None
    fixtures = Path(config.data_dir, "fixtures", "peer")
    hosts = [peers.parse(url).host for url in config.listen_peer_urls]
    try:
        return Contexts(self_signed.complete(config.peer_tls, fixtures, hosts, log), (), log)
    except TlsError as reason:
        raise ConfigError("the peer port cannot speak TLS", "fatal", error=str(reason)) from None


def client_tls(tls: Contexts | None) -> ssl.SSLContext | None:
    return None if tls is None else tls.client()


def _check_of(tls: Contexts) -> Callable[[ssl.SSLObject, str], Awaitable[str]]:
    async def check(session: ssl.SSLObject, address: str) -> str:
        """Why a peer is not let in: what its certificate says, and where it comes from."""
        if why_not := tls.refusal(session):
            return why_not
        certificate = session.getpeercert()
        if not certificate or tls.config.skip_san_verification:
            return ""
        return await san_refusal(certificate, address)

    return check


def open_peers(
    identity: Identity,
    listeners: list[peers.Listener],
    tls: Contexts | None,
    events: peers.PeerEvents,
    http: peers.Http,
    log: Log,
) -> Peers:
    """The transport, not started yet."""
    return Peers(
        LocalIdentity(identity.cluster_id, identity.member_id, API_VERSION, identity.peer_urls),
        listeners,
        events,
        log,
        client_tls=None if tls is None else tls.client,
        server_tls=None if tls is None else tls.server,
        check_certificate=None if tls is None else _check_of(tls),
        http=http,
    )
