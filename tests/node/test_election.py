"""Election over the wire: campaigns, values, observers, and a leader that is none any more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from node.harness import (
    DEADLINE_S,
    LEASE,
    Message,
    NodeProcess,
    bytes_field,
    grant,
    int_field,
    message_field,
    revision_of,
)

ELECTION = "v3electionpb.Election"
UNKNOWN = 2


def request(name: bytes, lease: int, value: bytes) -> bytes:
    return bytes_field(1, name) + int_field(2, lease) + bytes_field(3, value)


def new_lease(node: NodeProcess) -> int:
    return grant(node, 60).number(2)


def campaign(node: NodeProcess, name: bytes, value: bytes) -> bytes:
    """The LeaderKey of one who wins at once."""
    return node.ok(ELECTION, "Campaign", request(name, new_lease(node), value)).data(2)


def begin(node: NodeProcess, name: bytes, lease: int, value: bytes) -> Any:
    """A Campaign under way: its key is there."""
    call = node.channel.unary_unary(f"/{ELECTION}/Campaign").future(request(name, lease, value), timeout=DEADLINE_S)
    wait_for(lambda: node.value(b"%s/%x" % (name, lease)) == value)
    return call


def wait_for(is_so: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, is_so


def leader_value(node: NodeProcess, name: bytes) -> bytes:
    return Message(node.ok(ELECTION, "Leader", bytes_field(1, name)).data(2)).data(5)


def proclaim(leader: bytes, value: bytes) -> bytes:
    return message_field(1, leader) + bytes_field(2, value)


class Observed:
    """A call of Observe."""

    def __init__(self, node: NodeProcess, name: bytes) -> None:
        self._call = node.channel.unary_stream(f"/{ELECTION}/Observe")(bytes_field(1, name), timeout=DEADLINE_S)
        self._responses: Iterator[bytes] = iter(self._call)

    def next(self) -> tuple[bytes, int]:
        """(value, the header's revision)."""
        response = Message(next(self._responses))
        return Message(response.data(2)).data(5), revision_of(response)

    def close(self) -> None:
        self._call.cancel()


def test_the_first_to_campaign_leads_and_the_next_when_he_resigns(node: NodeProcess) -> None:
    lease = new_lease(node)
    won = node.ok(ELECTION, "Campaign", request(b"e1", lease, b"a"))
    leader = Message(won.data(2))
    assert (leader.data(1), leader.data(2)) == (b"e1", b"e1/%x" % lease)
    assert (leader.number(3), leader.number(4)) == (revision_of(won), lease)
    second = begin(node, b"e1", new_lease(node), b"b")
    assert leader_value(node, b"e1") == b"a" and not second.done()
    node.ok(ELECTION, "Resign", message_field(1, won.data(2)))
    assert Message(Message(second.result(DEADLINE_S)).data(2)).number(3) == revision_of(won) + 1
    assert leader_value(node, b"e1") == b"b"


def test_a_leader_proclaims_and_one_who_was_cannot(node: NodeProcess) -> None:
    leader = campaign(node, b"e2", b"a")
    told = node.ok(ELECTION, "Proclaim", proclaim(leader, b"b"))
    assert leader_value(node, b"e2") == b"b"
    assert revision_of(told) == revision_of(node.get(b"any"))
    node.ok(ELECTION, "Resign", message_field(1, leader))
    assert node.call(ELECTION, "Proclaim", proclaim(leader, b"c"))[:2] == (UNKNOWN, "election: not leader")
    assert node.call(ELECTION, "Leader", bytes_field(1, b"e2"))[:2] == (UNKNOWN, "election: no leader")
    before = revision_of(node.get(b"any"))
    again = node.ok(ELECTION, "Resign", message_field(1, leader))
    assert revision_of(again) == before, "who does not lead has resigned from something"


def test_to_campaign_again_is_to_proclaim(node: NodeProcess) -> None:
    lease = new_lease(node)
    first = node.ok(ELECTION, "Campaign", request(b"e3", lease, b"a"))
    second = node.ok(ELECTION, "Campaign", request(b"e3", lease, b"b"))
    assert second.data(2) == first.data(2)
    assert leader_value(node, b"e3") == b"b"


def test_refusals(node: NodeProcess) -> None:
    for method in ("Proclaim", "Resign"):
        assert node.call(ELECTION, method)[:2] == (UNKNOWN, '"leader" field must be provided')
        empty = node.call(ELECTION, method, message_field(1, b""))
        assert empty[:2] == (UNKNOWN, "etcdserver: key is not provided")
    gone = node.call(ELECTION, "Campaign", request(b"e4", 4711, b"a"))
    assert gone[:2] == (UNKNOWN, "etcdserver: requested lease not found")
    assert node.call(ELECTION, "Campaign", b"\xff").code == 13


def test_one_whose_lease_has_ended_while_he_waited_does_not_lead(node: NodeProcess) -> None:
    leader = campaign(node, b"e5", b"a")
    waiting = begin(node, b"e5", lease := new_lease(node), b"b")
    node.ok(LEASE, "LeaseRevoke", int_field(1, lease))
    node.ok(ELECTION, "Resign", message_field(1, leader))
    with pytest.raises(grpc.RpcError, match="etcdserver: requested lease not found"):
        waiting.result(DEADLINE_S)


def test_one_whose_key_was_taken_away_while_he_waited_does_not_lead(node: NodeProcess) -> None:
    leader = campaign(node, b"e6", b"a")
    waiting = begin(node, b"e6", lease := new_lease(node), b"b")
    node.ok("etcdserverpb.KV", "DeleteRange", bytes_field(1, b"e6/%x" % lease))
    node.ok(ELECTION, "Resign", message_field(1, leader))
    with pytest.raises(grpc.RpcError, match="election: not leader"):
        waiting.result(DEADLINE_S)


def test_a_campaign_that_is_cancelled_leaves_no_key(node: NodeProcess) -> None:
    campaign(node, b"e7", b"a")
    waiting = begin(node, b"e7", lease := new_lease(node), b"b")
    waiting.cancel()
    wait_for(lambda: node.value(b"e7/%x" % lease) is None)


def test_an_observer_sees_the_leader_his_values_and_who_follows_him(node: NodeProcess) -> None:
    observed = Observed(node, b"e8")
    leader = campaign(node, b"e8", b"a")
    first = Message(leader).number(3)
    assert observed.next() == (b"a", first)
    late = Observed(node, b"e8")
    assert late.next()[0] == b"a"
    node.ok(ELECTION, "Proclaim", proclaim(leader, b"b"))
    assert observed.next() == (b"b", first + 1)
    assert late.next() == (b"b", first + 1)
    second = begin(node, b"e8", new_lease(node), b"c")
    node.ok(ELECTION, "Resign", message_field(1, leader))
    assert observed.next()[0] == b"c"
    node.ok(ELECTION, "Resign", message_field(1, Message(second.result(DEADLINE_S)).data(2)))
    last = campaign(node, b"e8", b"d")
    assert observed.next() == (b"d", Message(last).number(3))
    observed.close()
    late.close()


def test_an_observer_outlives_a_compaction(node: NodeProcess) -> None:
    leader = campaign(node, b"e9", b"a")
    observed = Observed(node, b"e9")
    assert observed.next()[0] == b"a"
    node.ok("etcdserverpb.KV", "Compact", int_field(1, node.put(b"other", b"v")))
    node.ok(ELECTION, "Proclaim", proclaim(leader, b"b"))
    assert observed.next()[0] == b"b"
    observed.close()
