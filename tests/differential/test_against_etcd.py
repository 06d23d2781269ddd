"""
An engine answers as a real etcd does: the same random requests to both, code, text and message compared.

Ids, raft terms and the running time of leases are zeroed; everything else must be equal. What releases differ in
(hashes, keys_only leases, sort options, RangeStream, watch progress) is asked only of an etcd >= 3.7: set FASTKV_ETCD37
to its binary.

A failure prints its seed. FASTKV_SEED=N replays a run, FASTKV_REQUESTS=N makes it longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random, SystemRandom
from typing import Any

import pytest

from fastkv import engine as protocol
from support.client import Answer
from support.engines import load_engine
from support.fronts import NODES
from support.generate import Requests
from support.processes import etcd_binaries
from support.protos import rpc, strip_headers
from support.targets import LIMITS, EngineTarget, GrpcTarget, Taken

SEED = int(os.environ.get("FASTKV_SEED") or SystemRandom().randrange(1 << 32))
REQUESTS = int(os.environ.get("FASTKV_REQUESTS") or 3000)
WATCHERS_MAX = 4
BINARIES = etcd_binaries()

METHODS = (
    *(("Put", "put"),) * 30,
    *(("DeleteRange", "delete"),) * 8,
    *(("Range", "range"),) * 30,
    *(("Txn", "txn"),) * 25,
    ("Compact", "compaction"),
    *(("LeaseGrant", "lease_grant"),) * 3,
    *(("LeaseRevoke", "lease_revoke"),) * 2,
    *(("LeaseTimeToLive", "time_to_live"),) * 3,
    ("LeaseLeases", ""),
)
MODERN = (
    ("HashKV", "hash_kv"),
    ("Alarm", "alarm"),
    *(("RangeStream", "range"),) * 4,
    *(("watch", ""),) * 3,
    *(("take", ""),) * 4,
    ("cancel", ""),
)


def _targets() -> list[Any]:
    if not BINARIES:
        reason = "no etcd here: install etcd-server, or set FASTKV_ETCD37 to a binary"
        return [pytest.param("native", None, marks=pytest.mark.skip(reason=reason))]
    places = [("native", binary) for binary in BINARIES] + [("python", BINARIES[0])]
    return [pytest.param(place, binary, id=f"{place}-{binary.name}") for place, binary in places] + [
        pytest.param(node, BINARIES[0], id=f"{node}-{BINARIES[0].name}", marks=pytest.mark.node) for node in NODES
    ]


@pytest.mark.etcd
@pytest.mark.random
@pytest.mark.parametrize(("place", "binary"), _targets())
def test_answers_equal_etcds(place: str, binary: Any, warm_servers: Callable[[str], Any]) -> None:
    """Goal: no difference in any answer. Method: one random session, request by request."""
    modern = binary.version >= (3, 7, 0)
    etcd = GrpcTarget(warm_servers(binary.name))
    ours = _ours(place, warm_servers)
    session = Session(ours, etcd, Random(SEED), modern)
    try:
        for number in range(REQUESTS):
            difference = session.step()
            assert not difference, (
                f"request {number} on {place} and {binary.name}:\n{difference}\n"
                f"replay: FASTKV_SEED={SEED} FASTKV_REQUESTS={REQUESTS} pytest {__file__} -k {place}"
            )
    finally:
        ours.close()
        etcd.close()


def _ours(place: str, warm_servers: Callable[[str], Any]) -> EngineTarget | GrpcTarget:
    if place in NODES:
        return GrpcTarget(warm_servers(place))
    engine_class = load_engine(place)
    return EngineTarget(lambda where: engine_class(where, protocol.Options(**LIMITS)), None)


class Session:
    """The same requests to both sides."""

    def __init__(self, ours: EngineTarget | GrpcTarget, etcd: GrpcTarget, rng: Random, modern: bool) -> None:
        self.ours = ours
        self.etcd = etcd
        self.rng = rng
        self.requests = Requests(rng, peer=True, modern=modern)
        self.methods = METHODS + (MODERN if modern else ())
        self.watchers: list[str] = []
        self.watches = 0

    def step(self) -> str:
        """One random request; empty, or what differs."""
        self.requests.revision = self.etcd.revision
        method, kind = self.rng.choice(self.methods)
        if method in ("watch", "take", "cancel"):
            return getattr(self, f"_{method}")()
        if method == "Compact":
            # etcd has already sent what an engine still holds for its watchers: compaction must not come in between.
            for name in [*self.watchers]:
                if difference := self._take_from(name):
                    return difference
        request = getattr(self.requests, kind)() if kind else rpc.LeaseLeasesRequest()
        if method == "RangeStream":
            if request.sort_order == 0 and request.sort_target != 0:
                # etcd sorts each chunk alone and calls that the answer.
                request.sort_target = 0
            return self._compare(method, request, self.ours.range_stream(request), self.etcd.range_stream(request))
        return self._compare(method, request, self.ours.call(method, request), self.etcd.call(method, request))

    def _compare(self, method: str, request: Any, ours: Answer, etcd: Answer) -> str:
        if _normal(ours) == _normal(etcd):
            return ""
        return f"{method} {{\n{request}}}\nours: {_normal(ours)}\netcd: {_normal(etcd)}"

    def _watch(self) -> str:
        if len(self.watchers) == WATCHERS_MAX:
            return self._cancel()
        create = self.requests.watch()
        name = f"w{self.watches}"
        self.watches += 1
        self.watchers.append(name)
        return self._compare("Watch", create, self.ours.watch(name, create), self.etcd.watch(name, create))

    def _take(self) -> str:
        return self._take_from(self.rng.choice(self.watchers)) if self.watchers else ""

    def _take_from(self, name: str) -> str:
        ours, etcd = (_flat(side.take(name)) for side in (self.ours, self.etcd))
        if etcd and isinstance(etcd[-1], int):
            self.watchers.remove(name)
            for side in (self.ours, self.etcd):
                side.watchers.pop(name)
        return "" if ours == etcd else f"watch {name}\nours: {ours}\netcd: {etcd}"

    def _cancel(self) -> str:
        if self.watchers:
            name = self.watchers.pop(self.rng.randrange(len(self.watchers)))
            for side in (self.ours, self.etcd):
                side.cancel(name)
        return ""


def _flat(batches: list[Taken]) -> list[str | int]:
    """All events, then the compact revision if that ended the watch. Where a batch ends is free while catching up."""
    flat: list[str | int] = []
    for batch in batches:
        flat += map(str, batch.events)
        flat += [batch.compact_revision] if batch.compact_revision else []
    return flat


def _normal(answer: Answer) -> tuple[int, str, str]:
    if answer.code:
        return answer.code, answer.message, ""
    response = strip_headers(answer.response)
    if hasattr(response, "grantedTTL"):
        # The remaining time runs; gone or not does not.
        response.TTL = min(response.TTL, 0)
        response.keys.sort()
    if hasattr(response, "alarms"):
        response.alarms.sort(key=lambda alarm: alarm.memberID)
    if hasattr(response, "leases"):
        response.leases.sort(key=lambda lease: lease.ID)
    if hasattr(response, "watch_id"):
        # An engine's ids are its own.
        response.watch_id = 0
    return 0, "", str(response)
