"""Lease over the wire: golden rows 26-31, and what a lease's end does."""

from __future__ import annotations

from node.harness import (
    KV,
    LEASE,
    WATCH,
    Message,
    NodeProcess,
    bytes_field,
    grant,
    int_field,
    message_field,
    revision_of,
)

SHORT = ("--heartbeat-interval=10", "--election-timeout=50")  # leases of one second


def time_to_live(node: NodeProcess, lease: int) -> Message:
    return node.ok(LEASE, "LeaseTimeToLive", int_field(1, lease) + int_field(2, 1))


def test_grant_raises_short_ttls_and_refuses_long_ones(node: NodeProcess) -> None:
    """Rows 26 and 27."""
    before = revision_of(node.get(b"any"))
    for ttl in (0, -5):
        answer = grant(node, ttl)
        assert answer.number(3) == 2
        assert answer.number(2) > 0
        assert revision_of(answer) == before
    assert grant(node, 10, lease=77).number(2) == 77
    assert grant(node, 10, lease=-3).number(2) == -3
    exists = node.call(LEASE, "LeaseGrant", int_field(1, 10) + int_field(2, 77))
    assert exists[:2] == (9, "etcdserver: lease already exists")
    too_long = node.call(LEASE, "LeaseGrant", int_field(1, 9_000_000_001))
    assert too_long[:2] == (11, "etcdserver: too large lease TTL")


def test_keys_follow_their_lease(node: NodeProcess) -> None:
    """Row 28."""
    lease = grant(node, 100).number(2)
    node.put(b"l1", b"v", int_field(3, lease))
    node.put(b"l2", b"v", int_field(3, lease))
    node.put(b"l1", b"v")
    left = time_to_live(node, lease)
    assert left.all(5) == [b"l2"]
    assert left.number(4) == 100
    assert 98 <= left.number(3) <= 100


def test_unknown_leases(node: NodeProcess) -> None:
    """Row 29."""
    gone = time_to_live(node, 7777)
    assert (gone.number(2), gone.number(3), gone.number(4)) == (7777, -1, 0)
    assert node.call(LEASE, "LeaseRevoke", int_field(1, 7777))[:2] == (5, "etcdserver: requested lease not found")
    stream = node.stream(LEASE, "LeaseKeepAlive")
    stream.send(int_field(1, 7777))
    answer = stream.receive()
    assert (answer.number(2), answer.number(3)) == (7777, 0)
    lease = grant(node, 60).number(2)
    stream.send(int_field(1, lease))
    answer = stream.receive()
    assert (answer.number(2), answer.number(3)) == (lease, 60)
    assert revision_of(answer) == revision_of(node.get(b"any"))
    stream.close()


def test_revoke_deletes_the_keys_in_one_revision(node: NodeProcess) -> None:
    lease = grant(node, 100).number(2)
    for key in (b"r/z", b"r/y", b"r/x"):
        revision = node.put(key, b"v", int_field(3, lease))
    assert revision_of(node.ok(LEASE, "LeaseRevoke", int_field(1, lease))) == revision + 1
    assert node.get(b"r/", bytes_field(2, b"r0")).number(4) == 0
    assert time_to_live(node, lease).number(3) == -1


def test_leases_are_listed_by_their_end(start_node) -> None:
    node = start_node()
    for ttl, lease in ((300, 1), (100, 2), (200, 3)):
        grant(node, ttl, lease)
    listed = node.ok(LEASE, "LeaseLeases").all(2)
    assert [Message(status).number(1) for status in listed] == [2, 3, 1]


def test_expiry_deletes_in_key_order_in_one_revision(start_node) -> None:
    """Row 31."""
    node = start_node(*SHORT)
    lease = grant(node, 1).number(2)
    for key in (b"z", b"y", b"x"):
        revision = node.put(key, b"v", int_field(3, lease))
    watch = node.stream(WATCH, "Watch")
    watch.send(message_field(1, bytes_field(1, b"a") + bytes_field(2, b"\0")))
    watch.receive()
    response = watch.receive()
    deletions = [Message(event) for event in response.all(11)]
    assert [event.number(1) for event in deletions] == [1, 1, 1]
    assert [Message(event.data(2)).data(1) for event in deletions] == [b"x", b"y", b"z"]
    assert {Message(event.data(2)).number(3) for event in deletions} == {revision + 1}
    assert time_to_live(node, lease).number(3) == -1
    watch.close()


def test_a_kept_alive_lease_outlives_its_ttl(start_node) -> None:
    """One that nobody renews, granted later with the same TTL, ends first; the renewed one is still there."""
    node = start_node(*SHORT)
    kept, stream = grant(node, 1).number(2), node.stream(LEASE, "LeaseKeepAlive")
    left = grant(node, 1).number(2)
    while time_to_live(node, left).number(3) != -1:
        stream.send(int_field(1, kept))
        assert stream.receive().number(3) == 1
    assert time_to_live(node, kept).number(4) == 1
    stream.close()


def test_leases_survive_a_restart_with_their_full_time(start_node) -> None:
    node = start_node()
    lease = grant(node, 500).number(2)
    node.put(b"kept", b"v", int_field(3, lease))
    assert node.end() == 0
    node = start_node()
    left = time_to_live(node, lease)
    assert (left.number(4), left.all(5)) == (500, [b"kept"])
    assert left.number(3) >= 499
    assert node.ok(KV, "Range", bytes_field(1, b"kept")).number(4) == 1
