"""What every part of Peers shares."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from fastkv.server.peers.reasons import QuietLog
from fastkv.server.peers.types import CheckCertificate, Limits, LocalIdentity, PeerEvents, TlsContext


@dataclass(frozen=True, slots=True)
class Context:
    loop: asyncio.AbstractEventLoop
    identity: LocalIdentity
    limits: Limits
    events: PeerEvents
    log: QuietLog
    rng: random.Random
    client_tls: TlsContext | None
    server_tls: TlsContext | None
    check_certificate: CheckCertificate | None
