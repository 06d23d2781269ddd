"""Leases: granted, renewed, revoked, expired by a clock that the test moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastkv
from fastkv import EventType
from fastkv.engine import ALARM
from fastkv.python.wire import int_field

WAIT_S = 20.0


def lessor_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "fastkv-lessor"]


def expect_deletes(watch: fastkv.Watch) -> list[bytes]:
    batch = watch.poll(WAIT_S)
    assert batch is not None, "nothing expired"
    assert {event.type for event in batch} == {EventType.DELETE}
    return [event.kv.key for event in batch]


def test_a_key_put_with_a_lease_goes_with_it(db: fastkv.DB) -> None:
    lease = db.lease(60)
    assert lease.ttl == 60 and 59 < lease.remaining <= 60 and lease.id > 0
    db.put("b", "1", lease=lease)
    db.put("a", "1", lease=lease.id)
    assert lease.keys == (b"a", b"b")
    kv = db.get_kv("a")
    assert kv is not None and kv.lease == lease.id
    watch = db.watch(prefix="")
    lease.revoke()
    assert expect_deletes(watch) == [b"a", b"b"]  # one revision
    assert len(db) == 0 and lease.remaining == 0.0 and lease.keys == ()
    for call in (lease.revoke, lease.keepalive, lambda: db.put("a", "1", lease=lease)):
        with pytest.raises(fastkv.LeaseNotFoundError):
            call()


def test_a_put_without_the_lease_takes_the_key_off_it(db: fastkv.DB) -> None:
    lease = db.lease(60)
    db.put("a", "1", lease=lease)
    db.put("a", "2")
    lease.revoke()
    assert db["a"] == b"2"


def test_granting_a_lease_makes_no_revision(db: fastkv.DB) -> None:
    db.lease(60)
    assert db.revision == 1


def test_put_many_with_a_lease(db: fastkv.DB) -> None:
    lease = db.lease(60)
    db.put_many({"a": "1", "b": "2"}, lease=lease)
    assert lease.keys == (b"a", b"b")


def test_leases_lists_them(db: fastkv.DB) -> None:
    db.lease(60, id=9)
    db.lease(30, id=3)
    assert [(lease.id, lease.ttl) for lease in db.leases()] == [(3, 30), (9, 60)]
    assert db.leases()[0] == db.leases()[0] != db.leases()[1]
    with pytest.raises(fastkv.LeaseExistsError):
        db.lease(1, id=9)
    db.leases()[1].revoke()
    assert [lease.id for lease in db.leases()] == [3]


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
def test_impossible_ttls(db: fastkv.DB, ttl: float) -> None:
    with pytest.raises(fastkv.InvalidRequestError, match="ttl"):
        db.lease(ttl)
    with pytest.raises(fastkv.InvalidRequestError, match="ttl"):
        db.put("a", "1", ttl=ttl)
    assert db.revision == 1


def test_wrong_arguments(db: fastkv.DB) -> None:
    with pytest.raises(TypeError):
        db.lease("60")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        db.put("a", "1", ttl=5, lease=1)
    with pytest.raises(fastkv.LeaseTtlTooLargeError):
        db.lease(9_000_000_001)
    with pytest.raises(fastkv.LeaseNotFoundError):
        db.put("a", "1", lease=5)
    assert db.leases() == []


def test_fractions_of_seconds_are_rounded_up(db: fastkv.DB) -> None:
    assert db.lease(0.2).ttl == 1
    assert db.lease(1.5).ttl == 2


def test_an_expired_lease_deletes_its_keys_in_one_revision(open_db: Any, clock: Any) -> None:
    db = open_db(_clock=clock)
    lease = db.lease(10)
    for key in ("z", "y", "x"):
        db.put(key, "1", lease=lease)
    watch = db.watch(prefix="")
    clock.advance(9.9)
    assert lease.remaining == pytest.approx(0.1)
    assert watch.poll(0.02) is None
    clock.advance(0.2)
    assert expect_deletes(watch) == [b"x", b"y", b"z"]
    assert db.revision == 5 and db.leases() == []
    with pytest.raises(fastkv.LeaseNotFoundError):
        lease.keepalive()


def test_keepalive_starts_the_time_anew(open_db: Any, clock: Any) -> None:
    db = open_db(_clock=clock)
    lease, other = db.lease(10), db.lease(15)
    db.put("a", "1", lease=lease)
    db.put("b", "1", lease=other)
    watch = db.watch(prefix="")
    clock.advance(8)
    assert lease.keepalive() == 10
    assert lease.remaining == 10
    clock.advance(8)
    assert expect_deletes(watch) == [b"b"]
    assert "a" in db
    clock.advance(2.1)
    assert expect_deletes(watch) == [b"a"]


def test_many_keepalives_do_not_pile_up(open_db: Any, clock: Any) -> None:
    db = open_db(_clock=clock)
    leases = [db.lease(10) for _ in range(3)]
    for _ in range(1000):
        for lease in leases:
            lease.keepalive()
    assert len(db._lessor._order) < 200


def test_a_held_lease_lives_as_long_as_its_block(open_db: Any, clock: Any) -> None:
    db = open_db(_clock=clock)
    other = db.lease(1)
    db.put("other", "1", lease=other)
    watch = db.watch(prefix="", puts=False)
    with db.lease(10) as lease:
        db.put("a", "1", lease=lease)
        for seconds in (1.5, 10, 10):
            clock.advance(seconds)
        assert expect_deletes(watch) == [b"other"]
        assert "a" in db
    assert expect_deletes(watch) == [b"a"]
    assert lease.remaining == 0.0


def test_a_block_that_raises_or_revokes_leaves_no_lease(db: fastkv.DB) -> None:
    with pytest.raises(ZeroDivisionError), db.lease(10):
        raise ZeroDivisionError
    with db.lease(10) as lease:
        lease.revoke()
    assert db.leases() == []


def test_a_key_with_a_ttl_is_deleted_when_it_has_passed(open_db: Any, clock: Any) -> None:
    db = open_db(_clock=clock)
    assert db.put("a", "1", ttl=10) == 2
    assert db.put("b", "1", ttl=10, prev=True).prev_kv is None
    watch = db.watch(prefix="")
    clock.advance(10.1)
    assert sorted(expect_deletes(watch) + expect_deletes(watch)) == [b"a", b"b"]


def test_putting_again_with_a_ttl_renews_it_without_a_new_lease(open_db: Any, clock: Any) -> None:
    db = open_db(_clock=clock)
    for number in range(20):
        db.put("a", str(number), ttl=10)
        clock.advance(7)
    assert db["a"] == b"19" and len(db.leases()) == 1
    db.put("a", "longer", ttl=100)
    watch = db.watch(prefix="")
    clock.advance(50)
    assert watch.poll(0.02) is None and db["a"] == b"longer"
    db.put("a", "for ever")
    clock.advance(100)
    assert watch.poll(0.02) is not None and db["a"] == b"for ever"


def test_a_lease_in_real_time(db: fastkv.DB) -> None:
    watch = db.watch("a", puts=False)
    began = time.monotonic()
    db.put("a", "1", ttl=1)
    assert expect_deletes(watch) == [b"a"]
    assert time.monotonic() - began >= 1.0


def test_there_is_a_thread_only_while_there_are_leases(open_db: Any, clock: Any) -> None:
    db = open_db(_clock=clock)
    db.put("a", "1")
    assert lessor_threads() == []
    lease = db.lease(10)
    thread = db._lessor._thread
    assert lessor_threads() == ["fastkv-lessor"]
    lease.revoke()
    thread.join(WAIT_S)
    assert lessor_threads() == []
    db.put("b", "1", ttl=10)
    thread = db._lessor._thread
    watch = db.watch("b")
    clock.advance(11)
    assert expect_deletes(watch) == [b"b"]
    thread.join(WAIT_S)
    assert lessor_threads() == []
    db.lease(10)
    db.close()
    assert lessor_threads() == []


def test_leases_start_anew_when_the_store_is_opened(open_db: Any, path: Path, clock: Any) -> None:
    db = open_db(path, _clock=clock)
    db.put("a", "1", lease=db.lease(10))
    clock.advance(8)
    db.close()
    clock.advance(100)  # nobody counts while it is closed
    db = open_db(path, _clock=clock)
    (lease,) = db.leases()
    assert lease.remaining == 10 and lease.keys == (b"a",)
    watch = db.watch("a")
    clock.advance(10.1)
    assert expect_deletes(watch) == [b"a"]


def test_a_checkpointed_lease_goes_on_with_what_remained(open_db: Any, path: Path, clock: Any) -> None:
    from fastkv.engine import LEASE_CHECKPOINT
    from fastkv.messages import int_field, message_field

    db = open_db(path, _clock=clock)
    lease = db.lease(100)
    request = message_field(1, int_field(1, lease.id) + int_field(2, 30))
    assert db._engine.commit([(LEASE_CHECKPOINT, request)])[0][0] == 0
    db.close()
    db = open_db(path, _clock=clock)
    assert [(lease.ttl, lease.remaining) for lease in db.leases()] == [(100, 30)]
    assert db.leases()[0].keepalive() == 100
    assert db.leases()[0].remaining == 100


def test_nothing_expires_in_a_readonly_store(open_db: Any, path: Path, clock: Any) -> None:
    db = open_db(path, _clock=clock)
    db.put("a", "1", lease=db.lease(10))
    reader = open_db(path, readonly=True, _clock=clock)
    assert lessor_threads() == ["fastkv-lessor"]  # the writer's
    clock.advance(11)
    assert [lease.remaining for lease in reader.leases()] == [0.0]
    assert "a" in reader
    with pytest.raises(fastkv.ReadOnlyError):
        reader.lease(10)


class Disk:
    """The engine under a lessor; while `full`, its commits find no space. before: called ahead of each commit."""

    def __init__(self, db: fastkv.DB, before: Callable[[], object] = lambda: None) -> None:
        self.full = False
        self.tried = threading.Event()
        self._real = db._lessor._engine
        self._before = before
        db._lessor._engine = self  # type: ignore[assignment]

    def commit(self, commands: Any) -> Any:
        self._before()
        self.tried.set()
        if self.full:
            raise fastkv.QuotaError("no space")
        return self._real.commit(commands)


def test_a_revocation_that_finds_no_space_leaves_the_lease_as_it_was(open_db: Any, clock: Any) -> None:
    db = open_db(_clock=clock)
    disk = Disk(db)
    lease = db.lease(10)
    db.put("a", "1", lease=lease)
    clock.advance(4)
    disk.full = True
    with pytest.raises(fastkv.QuotaError):
        lease.revoke()
    assert lease.remaining == 6 and "a" in db
    assert lease.keepalive() == 10
    disk.full = False
    lease.revoke()
    assert lease.remaining == 0 and "a" not in db


def test_a_block_that_cannot_revoke_its_lease_leaves_it_to_expire(open_db: Any, clock: Any) -> None:
    db = open_db(_clock=clock)
    disk = Disk(db)
    with pytest.raises(fastkv.QuotaError), db.lease(10) as lease:
        db.put("a", "1", lease=lease)
        disk.full = True
    disk.full = False
    watch = db.watch("a")
    clock.advance(11)
    assert expect_deletes(watch) == [b"a"]


def test_a_key_keeps_its_own_lease_when_the_disk_was_full_as_it_expired(open_db: Any, clock: Any) -> None:
    db = open_db(_clock=clock)
    db.put("a", "1", ttl=10)
    (lease,) = db.leases()
    disk = Disk(db)
    disk.full = True
    clock.advance(11)
    assert disk.tried.wait(WAIT_S)
    until = time.monotonic() + WAIT_S
    while not lease.remaining:  # until the thread has put it back, to try again
        assert time.monotonic() < until
    disk.full = False
    db.put("a", "2", ttl=10)
    assert [known.id for known in db.leases()] == [lease.id], "another lease was made for the key"
    assert lease.remaining == 10


def test_an_overdue_lease_goes_when_there_is_space_again(open_db: Any, clock: Any) -> None:
    db = open_db(_clock=clock)
    db.put("a", "1", ttl=10)
    disk = Disk(db)
    disk.full = True
    watch = db.watch("a")
    clock.advance(11)
    assert disk.tried.wait(WAIT_S)
    disk.full = False
    until = time.monotonic() + WAIT_S
    while (batch := watch.poll(0.01)) is None:
        clock.advance(1)
        assert time.monotonic() < until
    assert [event.type for event in batch] == [EventType.DELETE]


def test_a_lease_that_is_being_revoked_cannot_be_renewed(open_db: Any, clock: Any) -> None:
    db = open_db(_clock=clock)
    lease = db.lease(10)
    refused: list[bool] = []

    def renew() -> None:
        with pytest.raises(fastkv.LeaseNotFoundError):
            lease.keepalive()
        refused.append(True)

    Disk(db, renew)
    lease.revoke()
    assert refused == [True]


def test_a_lease_outlives_the_corrupt_alarm(open_db: Any, clock: Any) -> None:
    """While the alarm is on no lease ends, by hand or by time; when it is off the overdue one does."""
    db = open_db(_clock=clock)
    corrupt = int_field(3, 2)
    db.put("a", "1", ttl=10)
    (lease,) = db.leases()
    db._engine.commit([(ALARM, int_field(1, 1) + corrupt)])
    with pytest.raises(fastkv.ClusterCorruptError):
        lease.revoke()
    tried = Disk(db).tried
    clock.advance(11)
    assert tried.wait(WAIT_S)
    db._engine.commit([(ALARM, int_field(1, 2) + corrupt)])
    watch = db.watch("a")
    until = time.monotonic() + WAIT_S
    while "a" in db:
        clock.advance(1)
        watch.poll(0.01)
        assert time.monotonic() < until


def test_a_lease_of_a_closed_store_raises(open_db: Any) -> None:
    db = open_db()
    lease = db.lease(10)
    db.close()
    for call in (lease.keepalive, lease.revoke, lambda: lease.remaining, lambda: lease.keys):
        with pytest.raises(fastkv.ClosedError):
            call()
    assert str(lease.id) in repr(lease)
