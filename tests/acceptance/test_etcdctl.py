"""
The real etcdctl operates a fastkv node as it operates an etcd: the same commands to both, status and output compared.

Every etcdctl found takes part: Debian's (etcd-client) and the one beside FASTKV_ETCD37. The etcd to compare with is the
newest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.etcdctl import Etcdctl
from support.fronts import NODES
from support.processes import etcd_binaries

BINARIES = etcd_binaries()
TOOLS = [(binary.name, binary.tool("etcdctl")) for binary in BINARIES if binary.tool("etcdctl")]
PARAMS = [pytest.param(path, id=f"etcdctl-{name}") for name, path in TOOLS] or [
    pytest.param("", marks=pytest.mark.skip(reason="no etcd and etcdctl here: install etcd-server and etcd-client"))
]
pytestmark = [pytest.mark.etcd, pytest.mark.node]

# One story a test: (arguments, standard input). All of it runs on both servers, step by step.
Step = tuple[tuple[str, ...], str]


def step(line: str, stdin: str = "") -> Step:
    return tuple(word.replace("~", " ") for word in line.split()), stdin


STORIES: dict[str, list[Step]] = {
    "put_get_del": [
        step("put foo bar"),
        step("put foo bar2 --prev-kv"),
        step("put fool from~stdin"),
        step("put fooz", "from stdin"),
        step("get foo"),
        step("get foo --print-value-only"),
        step("get --prefix foo"),
        step("get --prefix foo --keys-only"),
        step("get --prefix foo --limit 2 -w json"),
        step("get --prefix foo --order=DESCEND --sort-by=VALUE"),
        step("get foo fooz"),
        step("get --from-key fool"),
        step("get foo --rev=2"),
        step("get foo --rev=99"),
        step("get --prefix foo -w fields"),
        step("get foo -w json --hex"),
        step("get missing"),
        step("put foo --ignore-value"),
        step("put nothere --ignore-value"),
        step("put foo x --ignore-lease"),
        step("del foo --prev-kv"),
        step("del foo"),
        step("del --prefix f --prev-kv -w json"),
        step("del --from-key a"),
        step("get"),
        step("put k v --lease=1234"),
    ],
    "txn": [
        step("put key old"),
        step("txn --interactive=false", 'value("key") = "old"\n\nput key new\nget key\n\nput key other\n\n'),
        step("txn", 'value("key") = "old"\n\nput key newer\n\nget key\nput other 1\n\n'),
        step("txn -w json", 'mod("key") > "1"\ncreate("key") = "2"\nversion("key") = "2"\n\ndel key\n\n\n'),
        step("txn", '\nput a 1\nput b 2\nget --prefix ""\n\n\n'),
        step("txn", "\nput a 1\nput a 2\n\n\n"),
        step("txn", 'value("missing") != "x"\n\nget a\n\nget b\n\n'),
        step("get --prefix --keys-only a"),
    ],
    "lease": [
        step("lease list"),
        step("put plain 1"),
        step("lease timetolive 7b"),
        step("lease timetolive 7b --keys"),
        step("lease revoke 7b"),
        step("lease keep-alive --once 7b"),
        step("get --prefix p -w json"),
    ],
    "compaction": [
        step("put a 1"),
        step("put a 2"),
        step("put a 3"),
        step("get a --rev=2"),
        step("compaction 3"),
        step("get a --rev=2"),
        step("get a --rev=3"),
        step("compaction 3"),
        step("compaction 99"),
        step("compaction 4 --physical"),
        step("get a"),
    ],
    "cluster": [
        step("member list"),
        step("member list -w json"),
        step("member list -w table"),
        step("endpoint health"),
        step("endpoint health -w json"),
        step("endpoint hashkv"),
        step("put a 1"),
        step("endpoint hashkv"),
        step("alarm list"),
        step("defrag"),
        step("check no-such-check"),
    ],
}


@pytest.fixture(params=NODES)
def node(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=PARAMS)
def pair(
    request: pytest.FixtureRequest, node: str, warm_servers: Callable[[str], Any]
) -> Iterator[tuple[Etcdctl, Etcdctl]]:
    """(on fastkv, on etcd), both empty."""
    servers = [warm_servers(node), warm_servers(BINARIES[0].name)]
    try:
        ours, etcd = (Etcdctl(request.param, server) for server in servers)
        yield ours, etcd
    finally:
        for server in servers:
            server.stop()


@pytest.mark.parametrize("story", STORIES)
def test_commands_answer_alike(story: str, pair: tuple[Etcdctl, Etcdctl]) -> None:
    ours, etcd = pair
    for arguments, stdin in STORIES[story]:
        got, wanted = ours.run(*arguments, stdin=stdin), etcd.run(*arguments, stdin=stdin)
        assert got == wanted, f"etcdctl {' '.join(arguments)}"


def test_leases_live_and_die(pair: tuple[Etcdctl, Etcdctl]) -> None:
    """grant picks an id; keep-alive, timetolive and revoke know it; revoke deletes its keys."""
    for ctl in pair:
        granted = ctl.run("lease", "grant", "100")
        assert granted.status == 0, granted
        _, lease, *rest = granted.stdout.split()
        assert rest == ["granted", "with", "TTL(100s)"]
        assert ctl.run("put", "leased", "1", f"--lease={lease}").stdout == "OK\n"
        assert ctl.run("lease", "timetolive", lease, "--keys").stdout == (
            f"lease {lease} granted with TTL(100s), remaining(TIME), attached keys([leased])\n"
        )
        assert ctl.run("lease", "keep-alive", "--once", lease).stdout == f"lease {lease} keepalived with TTL(100)\n"
        assert ctl.run("lease", "list").stdout == f"found 1 leases\n{lease}\n"
        assert ctl.run("lease", "revoke", lease).stdout == f"lease {lease} revoked\n"
        assert ctl.run("get", "leased").stdout == ""
        assert ctl.run("lease", "timetolive", lease).stdout == f"lease {lease} already expired\n"


def test_watch_shows_past_and_live_events(pair: tuple[Etcdctl, Etcdctl]) -> None:
    """History from a revision, a prefix with previous values, JSON, and several watches on one interactive stream."""
    answers = []
    for ctl in pair:
        for arguments in (("put", "w1", "1"), ("put", "w1", "2"), ("put", "w2", "1"), ("del", "w1")):
            assert ctl.run(*arguments).status == 0
        answers.append(
            [
                ctl.watch("watch", "w1", "--rev=2", lines=8),
                ctl.watch("watch", "--prefix", "w", "--rev=3", "--prev-kv", lines=12),
                [_json(line) for line in ctl.watch("watch", "w2", "--rev=1", "-w", "json", lines=1)],
                ctl.watch("watch", "-i", lines=6, stdin="watch w1 --rev=2\n"),
            ]
        )
    assert answers[0] == answers[1]


def _json(line: str) -> Any:
    """A watch response of the past, without the batch's own header."""
    return json.loads(line.replace("TERM", "0").replace("MEMBER", "0").replace("CLUSTER", "0"))["Events"]


def test_endpoint_status_has_what_etcds_has(pair: tuple[Etcdctl, Etcdctl]) -> None:
    """Sizes and indexes differ; the member, the leader, the revision and the shape of the answer do not."""
    statuses = []
    for ctl in pair:
        assert ctl.run("put", "a", "1").status == 0
        ran = ctl.run("endpoint", "status", "-w", "json")
        assert ran.status == 0, ran
        [entry] = json.loads(ran.stdout.replace("TERM", "1").replace(":MEMBER", ":1").replace(":CLUSTER", ":2"))
        statuses.append(entry)
    ours, etcd = statuses
    assert ours["Endpoint"] == etcd["Endpoint"] == "ENDPOINT"
    assert ours["Status"]["header"]["revision"] == etcd["Status"]["header"]["revision"] == 2
    assert ours["Status"]["leader"] == etcd["Status"]["leader"] == ours["Status"]["header"]["member_id"]
    assert ours["Status"]["dbSize"] > 0
    assert ours["Status"]["raftIndex"] >= ours["Status"]["raftAppliedIndex"] > 0
    assert set(etcd["Status"]) <= set(ours["Status"]) or set(ours["Status"]) <= set(etcd["Status"])
    for text in ("simple", "table"):
        ran = pair[0].run("endpoint", "status", "-w", text)
        assert ran.status == 0 and "ENDPOINT" in ran.stdout, ran


def test_a_restarted_node_has_everything(pair: tuple[Etcdctl, Etcdctl]) -> None:
    """SIGTERM ends the node; started again on its directory it answers as before."""
    ours, _ = pair
    assert ours.run("put", "kept", "1").status == 0
    before = ours.run("get", "kept", "-w", "json")
    ours.server.restart()
    assert ours.run("get", "kept", "-w", "json") == before
