"""
Who is a member: added, promoted, updated, removed; a member alone becomes several; one that is far behind gets a
snapshot. With the real etcdctl, as in test_cluster.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.client import Client
from support.cluster import Cluster, Member, etcdctl
from support.fronts import FRONTS
from support.processes import free_ports
from support.protos import rpc

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(not etcdctl(), reason="no etcdctl here: set FASTKV_ETCD37 or install etcd-client"),
]

MakeCluster = Callable[..., Cluster]


@pytest.fixture(params=FRONTS[:1])  # what is tested here is behind both front ends alike
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeCluster]:
    """make(names, *flags): a running cluster of these."""
    made: list[Cluster] = []

    def start(names: str, *flags: str) -> Cluster:
        made.append(Cluster(tmp_path / str(len(made)), request.param, names, flags))
        return made[-1].start()

    yield start
    for cluster in made:
        cluster.close()


def join(cluster: Cluster, name: str, *flags: str) -> Member:
    """Add a member, then start it, as operators do. strict-reconfig-check refuses what comes too early: tried again."""
    member = cluster.member(name)
    arguments = ("member", "add", name, f"--peer-urls={member.peer_url}", *flags)
    done = cluster.wait(
        lambda: run if (run := cluster.run(*arguments, at=cluster.leader().name)).returncode == 0 else None, "addition"
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("ETCD_INITIAL_CLUSTER="))
    member.initial_cluster = line.partition("=")[2].strip('"')
    member.state = "existing"
    member.start()
    return member


def rows(cluster: Cluster, at: str = "a") -> dict[str, dict[str, object]]:
    return {row.get("name", ""): row for row in cluster.json("member", "list", at=at)["members"]}


def test_a_member_alone_becomes_three(make: MakeCluster) -> None:
    cluster = make("a", "--strict-reconfig-check=false")
    cluster.ctl("put", "before", "1")
    join(cluster, "b").wait_ready()
    cluster.ctl("put", "between", "2", at="b")
    join(cluster, "c").wait_ready()
    assert set(rows(cluster, "c")) == set("abc")
    assert cluster.ctl("get", "be", "--prefix", "--print-value-only", at="c").split() == ["1", "2"]
    cluster["a"].kill()
    cluster.ctl("put", "after", "3", at="b")
    cluster["a"].start()
    cluster["a"].wait_ready()
    assert cluster.ctl("get", "after", "--print-value-only", at="a") == "3"
    cluster.assert_equal()


def test_a_learner_is_no_voter_until_it_is_promoted(make: MakeCluster) -> None:
    cluster = make("a", "--strict-reconfig-check=false")
    for number in range(20):
        cluster.ctl("put", f"k{number}", "x", at="a")
    learner = cluster.member("b")
    added = cluster.json("member", "add", "b", "--learner", f"--peer-urls={learner.peer_url}", at="a")["member"]
    assert added["isLearner"]
    # It has not started: one voter is a quorum, and promotion is refused.
    cluster.ctl("put", "quorum", "one", at="a")
    id = f"{added['ID']:x}"
    assert cluster.error("member", "promote", id, at="a").endswith(
        "etcdserver: can only promote a learner member which is in sync with leader"
    )
    other = cluster.member("c")
    assert cluster.error("member", "add", "c", "--learner", f"--peer-urls={other.peer_url}", at="a").endswith(
        "etcdserver: too many learner members in cluster"
    )
    del cluster.members["c"]
    learner.initial_cluster, learner.state = f"{cluster['a'].initial_cluster},b={learner.peer_url}", "existing"
    learner.start()
    cluster.wait(lambda: learner.logged("ready to serve client requests"), "learner")
    assert cluster.ctl("get", "k1", "--consistency=s", "--print-value-only", at="b") == "x"
    for refused in (("get", "k1"), ("put", "k1", "y"), ("member", "list")):
        assert cluster.error(*refused, at="b").endswith("etcdserver: rpc not supported for learner"), refused
    assert cluster.json("endpoint", "status", at="b")[0]["Status"]["isLearner"]
    cluster.wait(lambda: cluster.run("member", "promote", id, at="a").returncode == 0, "promotion")
    assert cluster.error("member", "promote", id, at="a").endswith("etcdserver: can only promote a learner member")
    learner.wait_ready()
    cluster.ctl("put", "k1", "y", at="b")


def test_changes_that_make_no_sense_are_refused_in_etcds_words(make: MakeCluster) -> None:
    cluster = make("a")
    own = cluster.ids()["a"]
    assert cluster.error("member", "remove", "1234", at="a").endswith("etcdserver: member not found")
    assert cluster.error("member", "promote", "1234", at="a").endswith("etcdserver: member not found")
    assert cluster.error("member", "update", "1234", "--peer-urls=http://127.0.0.1:1", at="a").endswith(
        "etcdserver: member not found"
    )
    assert cluster.error("member", "promote", f"{own:x}", at="a").endswith(
        "etcdserver: can only promote a learner member"
    )
    taken = rows(cluster)["a"]["peerURLs"][0]  # type: ignore[index]
    assert cluster.error("member", "add", "x", f"--peer-urls={taken}", at="a").endswith(
        "etcdserver: Peer URLs already exists"
    )
    added = cluster.json("member", "add", "x", "--peer-urls=http://127.0.0.1:1", at="a")["member"]["ID"]
    # Two members of which one never started: nobody else may come, and the one that runs may not go.
    assert (
        "not enough started members" in cluster.error("member", "remove", f"{own:x}", "--command-timeout=2s", at="a")
        or added
    )


def test_a_removed_member_ends_and_stays_away(make: MakeCluster) -> None:
    cluster = make("abc", "--strict-reconfig-check=false")
    leader = cluster.leader()
    removed = cluster.followers()[0]
    id = f"{cluster.ids()[removed.name]:x}"
    cluster.ctl("member", "remove", id, at=leader.name)
    assert removed.wait_exit() == 0
    assert removed.logged("the member has been permanently removed from the cluster")
    assert len(cluster.ids()) == 2
    removed.start()
    assert removed.wait_exit() == 0
    assert cluster.error("member", "remove", id, at=leader.name).endswith("etcdserver: member not found")
    # A member of another name and id comes in its place.
    del cluster.members[removed.name]
    join(cluster, "d").wait_ready()
    cluster.ctl("put", "still", "there", at="d")


def test_a_removed_leader_is_followed_by_another(make: MakeCluster) -> None:
    cluster = make("abc", "--strict-reconfig-check=false")
    leader, follower = cluster.leader(), cluster.followers()[0]
    cluster.ctl("member", "remove", f"{cluster.ids()[leader.name]:x}", at=follower.name)
    assert leader.wait_exit() == 0
    cluster.ctl("put", "k", "v", at=follower.name)
    assert cluster.leader() in cluster.alive()


def test_peer_urls_are_updated(make: MakeCluster) -> None:
    cluster = make("abc")
    moved = cluster.followers()[0]
    id = f"{cluster.ids()[moved.name]:x}"
    moved.kill()
    [moved.peer_port] = free_ports(1)
    cluster.ctl("member", "update", id, f"--peer-urls={moved.peer_url}", at=cluster.leader().name)
    moved.start()
    moved.wait_ready()
    cluster.ctl("put", "k", "v", at=moved.name)
    assert rows(cluster, cluster.leader().name)[moved.name]["peerURLs"] == [moved.peer_url]


def test_one_far_behind_gets_a_snapshot(make: MakeCluster) -> None:
    # The log drops whole segments, the first of them of 1 MiB, once two checkpoints are ahead of them: hence the sizes.
    cluster = make("abc", "--snapshot-count=5", "--snapshot-catchup-entries=2")
    behind = cluster.followers()[0]
    lease = cluster.ctl("lease", "grant", "300", at=behind.name).split()[1]
    behind.kill()
    leader = cluster.leader().name
    client = Client(cluster[leader].endpoint)
    for number in range(40):
        answer = client.call("Put", rpc.PutRequest(key=b"k%d" % (number % 3), value=b"x" * 500_000))
        assert answer.code == 0, answer
    client.close()
    cluster.ctl("put", "last", "one", f"--lease={lease}", at=leader)
    behind.start()
    behind.wait_ready()
    assert cluster.ctl("get", "last", "--print-value-only", at=behind.name) == "one"
    assert behind.logged("installed database snapshot"), cluster.tails()
    cluster.assert_equal()
    assert "attached keys([last])" in cluster.ctl("lease", "timetolive", lease, "--keys", at=behind.name)
    assert set(rows(cluster, behind.name)) == set("abc")
    # It holds the snapshot durably, and what came behind it.
    cluster.ctl("put", "more", "1", at=behind.name)
    behind.kill()
    behind.start()
    behind.wait_ready()
    assert cluster.ctl("get", "more", "--print-value-only", at=behind.name) == "1"


def test_joining_with_wrong_flags_is_refused(make: MakeCluster) -> None:
    cluster = make("a")
    stranger = cluster.member("b")
    stranger.state = "existing"
    stranger.initial_cluster = f"{cluster['a'].initial_cluster},b={stranger.peer_url}"
    # A member alone that nobody was added to does not listen for peers.
    stranger.start()
    assert stranger.wait_exit() == 1
    assert stranger.logged("cannot fetch cluster info from peer urls")
    other = cluster.member("c")
    cluster.ctl("member", "add", "c", f"--peer-urls={other.peer_url}", at="a")
    stranger.start()
    assert stranger.wait_exit() == 1
    assert stranger.logged("error validating peerURLs")


def test_force_new_cluster_keeps_the_data_and_drops_the_others(make: MakeCluster) -> None:
    cluster = make("abc")
    for number in range(10):
        cluster.ctl("put", f"k{number}", "x", at="abc"[number % 3])
    for member in cluster.alive():
        member.kill()
    survivor = cluster["b"]
    flags = survivor.flags
    survivor.flags = (*flags, "--force-new-cluster")
    survivor.start()
    survivor.wait_ready()
    assert set(rows(cluster, "b")) == {"b"}
    assert len(cluster.ctl("get", "k", "--prefix", "--keys-only", at="b").split()) == 10
    cluster.ctl("put", "new", "life", at="b")
    survivor.kill()
    survivor.flags = flags
    survivor.start()
    survivor.wait_ready()
    assert cluster.ctl("get", "new", "--print-value-only", at="b") == "life"
    for name in "ac":
        del cluster.members[name]
    join(cluster, "d").wait_ready()
    assert cluster.ctl("get", "new", "--print-value-only", at="d") == "life"
    assert set(rows(cluster, "d")) == set("bd")
