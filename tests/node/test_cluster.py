"""
Three members as operators see them: the real etcdctl with three endpoints, members that die and come back.

The members are real processes on loopback; etcdctl is the one beside FASTKV_ETCD37.
"""

from __future__ import annotations

import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from support.cluster import CTL_TIMEOUT_S, Cluster, etcdctl
from support.fronts import FRONTS

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(not etcdctl(), reason="no etcdctl here: set FASTKV_ETCD37 or install etcd-client"),
]


@pytest.fixture(scope="module", params=FRONTS)
def front(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def cluster(front: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Started once; a test leaves all three running."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), front)
    try:
        yield cluster.start()
        cluster.assert_equal()
    finally:
        cluster.close()


def test_every_member_lists_all_three(cluster: Cluster) -> None:
    lists = [cluster.json("member", "list", at=name)["members"] for name in "abc"]
    assert lists[0] == lists[1] == lists[2]
    assert {row["name"] for row in lists[0]} == set("abc")
    for row in lists[0]:
        member = cluster[row["name"]]
        assert row["peerURLs"] == [member.peer_url] and row["clientURLs"] == [f"http://{member.endpoint}"]


def test_statuses_agree_on_one_leader_and_term(cluster: Cluster) -> None:
    cluster.leader()
    statuses = cluster.statuses()
    assert set(statuses) == set("abc")
    assert len({status["raftTerm"] for status in statuses.values()}) == 1
    assert {status["version"] for status in statuses.values()} == {"3.7.3"}
    assert not any(status.get("isLearner") for status in statuses.values())


def test_metrics_tell_the_leader_from_the_others(cluster: Cluster) -> None:
    leader = cluster.leader()
    for member in cluster.alive():
        with urllib.request.urlopen(f"http://{member.endpoint}/metrics", timeout=CTL_TIMEOUT_S) as response:
            text = response.read().decode()
        told = {sample.name: sample.value for family in parse(text) for sample in family.samples if not sample.labels}
        assert told["etcd_server_has_leader"] == 1 and told["etcd_server_is_learner"] == 0
        assert told["etcd_server_is_leader"] == (member is leader)
        assert told["etcd_server_leader_changes_seen_total"] >= 1
        assert told["etcd_server_proposals_committed_total"] >= told["etcd_server_proposals_applied_total"] > 0


def test_a_put_through_any_member_is_read_at_once_through_any_other(cluster: Cluster) -> None:
    for number, writer in enumerate("abcabc"):
        cluster.ctl("put", "everywhere", str(number), at=writer)
        for reader in "abc":
            assert cluster.ctl("get", "everywhere", "--print-value-only", at=reader) == str(number)


def test_a_txn_on_a_follower_compares_and_changes(cluster: Cluster) -> None:
    follower = cluster.followers()[0].name
    cluster.ctl("put", "txn", "old", at=follower)
    done = subprocess.run(
        [etcdctl(), "--endpoints", cluster[follower].endpoint, "txn"],
        input='value("txn") = "old"\n\nput txn new\n\nput txn other\n\n',
        capture_output=True, text=True, timeout=20, env=cluster[follower].environment(),
    )  # fmt: skip
    assert done.stdout.startswith("SUCCESS"), done
    assert cluster.ctl("get", "txn", "--print-value-only", at="a") == "new"


def test_a_watch_on_a_follower_sees_what_others_write(cluster: Cluster) -> None:
    leader, follower = cluster.leader(), cluster.followers()[0]
    watch = subprocess.Popen(
        [etcdctl(), "--endpoints", follower.endpoint, "watch", "seen", "--rev=1"],
        stdout=subprocess.PIPE, text=True, env=follower.environment(),
    )  # fmt: skip
    try:
        for number in range(3):
            cluster.ctl("put", "seen", str(number), at=leader.name)
        assert watch.stdout is not None
        assert [watch.stdout.readline().strip() for _ in range(9)] == [
            line for number in range(3) for line in ("PUT", "seen", str(number))
        ]
    finally:
        watch.kill()
        watch.wait()
        assert watch.stdout is not None
        watch.stdout.close()


def test_a_lease_is_kept_alive_and_seen_through_followers_and_expires(cluster: Cluster) -> None:
    one, other = (member.name for member in cluster.followers())
    lease = cluster.ctl("lease", "grant", "2", at=one).split()[1]
    cluster.ctl("put", "leased", "x", f"--lease={lease}", at=other)
    deadline = time.monotonic() + 3.5
    while time.monotonic() < deadline:
        assert "keepalived with TTL(2)" in cluster.ctl("lease", "keep-alive", lease, "--once", at=one)
        assert "attached keys([leased])" in cluster.ctl("lease", "timetolive", lease, "--keys", at=other)
    cluster.wait(lambda: not cluster.ctl("get", "leased", at=other), "expiry", 6)
    assert "already expired" in cluster.ctl("lease", "timetolive", lease, at=one)
    assert "already expired" in cluster.ctl("lease", "timetolive", lease, at=cluster.leader().name)


def test_an_alarm_raised_through_one_is_seen_and_obeyed_by_all(cluster: Cluster) -> None:
    assert cluster.ctl("alarm", "list", at="a") == ""
    # etcdctl raises none; deactivating what is not there goes the same way through the log.
    cluster.ctl("alarm", "disarm", at="b")
    assert cluster.ctl("alarm", "list", at="c") == ""


def test_leadership_moves_where_it_is_asked_to(cluster: Cluster) -> None:
    leader, follower = cluster.leader(), cluster.followers()[0]
    target = f"{cluster.ids()[follower.name]:x}"
    assert "no leader endpoint given" in cluster.error("move-leader", target, at=follower.name)
    assert "bad leader transferee" in cluster.error("move-leader", "1234", at=leader.name)
    cluster.ctl("move-leader", target, at=leader.name)
    assert cluster.leader() is follower
    cluster.ctl("put", "moved", "1", at=leader.name)


def test_a_killed_leader_is_replaced_and_comes_back(cluster: Cluster) -> None:
    leader = cluster.leader()
    cluster.ctl("put", "kept", "before", at=leader.name)
    leader.kill()
    other = cluster.alive()[0].name
    began = time.monotonic()
    cluster.ctl("put", "kept", "after", at=other)
    took_s = time.monotonic() - began
    assert took_s < 5, f"no write for {took_s} s"
    assert cluster.leader() is not leader
    leader.start()
    leader.wait_ready()
    assert cluster.ctl("get", "kept", "--print-value-only", at=leader.name) == "after"
    cluster.assert_equal()


def test_a_killed_follower_misses_nothing(cluster: Cluster) -> None:
    follower = cluster.followers()[0]
    follower.kill()
    for number in range(5):
        cluster.ctl("put", f"missed{number}", "x", at=cluster.leader().name)
    follower.start()
    follower.wait_ready()
    assert cluster.ctl("get", "missed", "--prefix", "--keys-only", at=follower.name).split() == [
        f"missed{number}" for number in range(5)
    ]


def test_without_a_quorum_nothing_is_written_and_serializable_reads_go_on(cluster: Cluster) -> None:
    cluster.ctl("put", "quorum", "there", at="a")
    survivor = cluster.followers()[0]
    gone = [member for member in cluster.alive() if member is not survivor]
    for member in gone:
        member.kill()
    assert "there" in cluster.ctl("get", "quorum", "--consistency=s", at=survivor.name)
    failed = cluster.run("put", "quorum", "lost", "--command-timeout=2s", at=survivor.name)
    assert failed.returncode != 0
    for member in gone:
        member.start()
    for member in gone:
        member.wait_ready()
    # What timed out may have been done or not; nothing else may stand there.
    assert cluster.ctl("get", "quorum", "--print-value-only", at=gone[0].name) in ("there", "lost")


def test_all_three_killed_at_once_come_back_with_everything(cluster: Cluster) -> None:
    for number in range(5):
        cluster.ctl("put", f"all{number}", "x", at="abc"[number % 3])
    for member in cluster.alive():
        member.kill()
    cluster.start()
    assert len(cluster.ctl("get", "all", "--prefix", "--keys-only", at="a").split()) == 5


def test_a_leader_that_is_told_to_stop_hands_over_first(cluster: Cluster) -> None:
    leader = cluster.leader()
    assert leader.stop(signal.SIGTERM) == 0
    other = cluster.alive()[0].name
    began = time.monotonic()
    cluster.ctl("put", "handed", "over", at=other)
    assert time.monotonic() - began < 0.8, "a write waited for an election"
    assert leader.logged("leadership transfer starting")
    leader.start()
    leader.wait_ready()


def test_a_paused_leader_is_replaced_and_answers_nothing_old(cluster: Cluster) -> None:
    leader = cluster.leader()
    other = cluster.followers()[0].name
    cluster.ctl("put", "paused", "before", at=other)
    assert leader.process is not None
    leader.process.send_signal(signal.SIGSTOP)
    try:
        cluster.ctl("put", "paused", "after", "--command-timeout=10s", at=other)
    finally:
        leader.process.send_signal(signal.SIGCONT)
    assert cluster.ctl("get", "paused", "--print-value-only", at=leader.name) == "after"
    cluster.leader()


def test_a_wiped_member_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    follower = cluster.followers()[0]
    follower.kill()
    kept, follower.data_dir = follower.data_dir, tmp_path / "wiped"
    follower.start()
    assert follower.wait_exit() == 1
    assert follower.logged("has already been bootstrapped")
    follower.data_dir = kept
    follower.start()
    follower.wait_ready()
