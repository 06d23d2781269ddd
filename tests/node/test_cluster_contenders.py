"""
Locks and elections in a cluster: contenders at different members, owners whose lease ends, a leader that is killed
while others wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from fastkv.rpc.wire import Message, bytes_field, int_field, message_field
from support.cluster import Cluster, Member, etcdctl
from support.fronts import FRONTS

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(not etcdctl(), reason="no etcdctl here: set FASTKV_ETCD37 or install etcd-client"),
]
WAIT_S = 30.0
Call = Callable[..., Any]


@pytest.fixture(params=FRONTS)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, request.param)
    yield made.start()
    made.close()


@pytest.fixture
def begin() -> Iterator[Call]:
    """begin(member, method, *fields): a unary call under way."""
    channels: list[grpc.Channel] = []

    def start(member: Member, method: str, *fields: bytes) -> Any:
        channels.append(grpc.insecure_channel(member.endpoint, options=[("grpc.enable_http_proxy", 0)]))
        return channels[-1].unary_unary(method).future(b"".join(fields), timeout=WAIT_S)

    yield start
    for channel in channels:
        channel.close()


def grant(cluster: Cluster, ttl_s: int) -> int:
    return int(cluster.json("lease", "grant", str(ttl_s))["ID"])


def wait_key(cluster: Cluster, key: str) -> None:
    cluster.wait(lambda: cluster.ctl("get", key, "--keys-only"), key)


def lock(begin: Call, cluster: Cluster, member: Member, lease: int) -> Any:
    """A Lock of "m" at that member; its key is there."""
    call = begin(member, "/v3lockpb.Lock/Lock", bytes_field(1, b"m"), int_field(2, lease))
    wait_key(cluster, f"m/{lease:x}")
    return call


def owner(call: Any) -> bytes:
    return Message(call.result(WAIT_S)).data(2)


def test_a_lock_goes_from_member_to_member(cluster: Cluster, begin: Call) -> None:
    leases = [grant(cluster, 60) for _ in range(3)]
    calls = [lock(begin, cluster, member, lease) for member, lease in zip(cluster.alive(), leases, strict=True)]
    for place, call in enumerate(calls):
        assert owner(call) == b"m/%x" % leases[place]
        assert not any(later.done() for later in calls[place + 1 :])
        begin(cluster["a"], "/v3lockpb.Lock/Unlock", bytes_field(1, owner(call))).result(WAIT_S)


def test_a_lock_outlives_the_leader_and_not_its_owners_lease(cluster: Cluster, begin: Call) -> None:
    """Who waits at a follower gets it: after the election the owner, whom nobody keeps alive, is out of time."""
    follower = cluster.followers()[0]
    dying, waiting = grant(cluster, 2), grant(cluster, 60)
    assert owner(lock(begin, cluster, follower, dying)) == b"m/%x" % dying
    call = lock(begin, cluster, follower, waiting)
    cluster.leader().kill()
    assert owner(call) == b"m/%x" % waiting
    assert cluster.ctl("get", "m/", "--prefix", "--keys-only", at=follower.name).split() == [f"m/{waiting:x}"]


def test_an_observer_at_a_follower_sees_leaders_come_and_go(cluster: Cluster, begin: Call) -> None:
    """Of the election, while the cluster's own leader is killed."""
    follower, other = cluster.followers()
    observed = iter(
        grpc.insecure_channel(follower.endpoint, options=[("grpc.enable_http_proxy", 0)]).unary_stream(
            "/v3electionpb.Election/Observe"
        )(bytes_field(1, b"e"), timeout=WAIT_S)
    )

    def value() -> bytes:
        return Message(Message(next(observed)).data(2)).data(5)

    def campaign(member: Member, text: bytes) -> Any:
        fields = (bytes_field(1, b"e"), int_field(2, grant(cluster, 60)), bytes_field(3, text))
        return begin(member, "/v3electionpb.Election/Campaign", *fields)

    first = Message(campaign(other, b"first").result(WAIT_S)).data(2)
    assert value() == b"first"
    cluster.leader().kill()
    cluster.leader()
    second = campaign(other, b"second")
    begin(follower, "/v3electionpb.Election/Resign", message_field(1, first)).result(WAIT_S)
    second.result(WAIT_S)
    assert value() == b"second"
