"""The lessor by itself: time is an argument, so nothing waits."""

from __future__ import annotations

from fastkv.server.lessor import Lessor


def test_a_lease_expires_once_and_stays_until_it_is_revoked() -> None:
    lessor = Lessor()
    lessor.grant(1, 10, now=0)
    assert lessor.next_deadline() == 10
    assert lessor.expired(9.9, 100) == []
    assert lessor.expired(10, 100) == [1]
    assert lessor.expired(11, 100) == [], "it was named twice"
    assert lessor.is_expired(1, 11)
    lessor.revoke(1)
    assert 1 not in lessor and lessor.next_deadline() is None


def test_a_renewed_lease_is_not_due() -> None:
    lessor = Lessor()
    lessor.grant(1, 10, now=0)
    assert lessor.renew(1, now=5) == 10
    assert lessor.expired(14.9, 100) == []
    assert lessor.remaining(1, now=5) == (10, 10)
    assert lessor.expired(15, 100) == [1]
    assert lessor.renew(1, now=15) == 0, "an expired lease was renewed"


def test_the_limit_leaves_the_rest_for_later() -> None:
    lessor = Lessor()
    for lease in range(1, 8):
        lessor.grant(lease, lease, now=0)
    assert lessor.expired(100, 5) == [1, 2, 3, 4, 5]
    assert lessor.expired(100, 5) == [6, 7]


def test_a_failed_revocation_is_named_again() -> None:
    lessor = Lessor()
    lessor.grant(1, 10, now=0)
    assert lessor.expired(10, 1) == [1]
    lessor.retry(1)
    assert lessor.expired(10, 1) == [1]
    lessor.revoke(1)
    lessor.retry(1)
    assert lessor.expired(10, 1) == []


def test_restored_leases_get_their_time_again() -> None:
    lessor = Lessor()
    lessor.restore([(1, 100, 0), (2, 100, 30)], now=50, grace_s=1)
    assert lessor.remaining(1, now=50) == (101, 100)
    assert lessor.remaining(2, now=50) == (31, 100)
    assert lessor.ids() == [2, 1]


def test_renewing_for_ever_does_not_grow_the_heap() -> None:
    lessor = Lessor()
    lessor.grant(1, 10, now=0)
    for now in range(1, 10_000):
        assert lessor.renew(1, now=now % 5) == 10
    assert len(lessor._heap) < 200
