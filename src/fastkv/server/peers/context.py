"""What every part of Peers shares."""

from __future__ import annotations

import asyncio
import random
import ssl
from dataclasses import dataclass

from fastkv.server.peers.reasons import QuietLog
from fastkv.server.peers.types import Limits, LocalIdentity, PeerEvents


@dataclass(frozen=True, slots=True)
class Context:
    loop: asyncio.AbstractEventLoop
    identity: LocalIdentity
    limits: Limits
    events: PeerEvents
    log: QuietLog
    rng: random.Random
    client_tls: ssl.SSLContext | None
    server_tls: ssl.SSLContext | None
