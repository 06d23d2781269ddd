"""
Clusters of real `fastkv serve` processes on loopback, and the real etcdctl beside them.

Every wait polls a running process and has a deadline; who waits in vain is shown the members' logs. Processes are ended
by `close`, by their own pids.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from support.processes import FastkvNode, etcd_binaries

CTL_TIMEOUT_S = 20.0
WAIT_S = 20.0
POLL_S = 0.05


def etcdctl() -> str:
    """The newest one; "" if there is none."""
    return next((tool for binary in etcd_binaries() if (tool := binary.tool("etcdctl"))), "")


class Member(FastkvNode):
    """One member; its flags but for --initial-cluster come from its name and ports."""

    def __init__(self, name: str, directory: Path, front: str, flags: tuple[str, ...] = ()) -> None:
        super().__init__(directory / name, (f"--front={front}", *flags))
        self.name = name
        self.initial_cluster = ""
        self.state = "new"
        self.peer_scheme = "https" if any(flag.startswith("--peer-") for flag in flags) else "http"

    @property
    def peer_url(self) -> str:
        return f"{self.peer_scheme}://127.0.0.1:{self.peer_port}"

    def command(self) -> list[str]:
        command = super().command()
        command[command.index("--name") + 1] = self.name
        peer = ("--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url)
        return [*command, *peer, "--initial-cluster", self.initial_cluster, "--initial-cluster-state", self.state]

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait_exit(self, timeout_s: float = WAIT_S) -> int:
        """The status of a process that ends by itself."""
        assert self.process is not None
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end\n{self.log_tail()}") from None
        self.process = None
        return status

    def logged(self, text: str) -> bool:
        return text in self.log_path.read_text(errors="replace")


class Cluster:
    """`members` by name, those that were stopped included."""

    def __init__(self, directory: Path, front: str, names: str = "abc", flags: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.front = front
        self.flags = flags
        self.members: dict[str, Member] = {}
        for name in names:
            self.member(name)
        initial = ",".join(f"{member.name}={member.peer_url}" for member in self.members.values())
        for member in self.members.values():
            member.initial_cluster = initial

    def member(self, name: str) -> Member:
        """One more, not started yet."""
        self.members[name] = Member(name, self.directory, self.front, self.flags)
        return self.members[name]

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    def start(self) -> Cluster:
        for member in self.members.values():
            member.start()
        for member in self.members.values():
            member.wait_ready()
        return self

    def alive(self) -> list[Member]:
        return [member for member in self.members.values() if member.alive()]

    def close(self) -> None:
        for member in self.alive():
            member.kill()

    # -- etcdctl ----------------------------------------------------------------------------------------------
    def run(self, *arguments: str, at: str | Iterable[Member] = "") -> subprocess.CompletedProcess[str]:
        """etcdctl with the endpoints of one member, of some, or of all that run."""
        members = [self.members[at]] if isinstance(at, str) and at else list(at or self.alive())
        assert not isinstance(members[0], str)
        endpoints = ",".join(member.endpoint for member in members)
        return subprocess.run(
            [etcdctl(), "--endpoints", endpoints, *arguments],
            capture_output=True,
            text=True,
            timeout=CTL_TIMEOUT_S,
            env=members[0].environment(),
        )

    def ctl(self, *arguments: str, at: str | Iterable[Member] = "") -> str:
        """What it printed; it must succeed."""
        done = self.run(*arguments, at=at)
        assert done.returncode == 0, f"etcdctl {arguments}: {done.stderr}\n{self.tails()}"
        return done.stdout.strip()

    def error(self, *arguments: str, at: str = "") -> str:
        """The last line of what it complained about; it must fail."""
        done = self.run(*arguments, at=at)
        assert done.returncode != 0, f"etcdctl {arguments} succeeded: {done.stdout}"
        return done.stderr.strip().splitlines()[-1]

    def json(self, *arguments: str, at: str | Iterable[Member] = "") -> Any:
        return json.loads(self.ctl(*arguments, "-w", "json", at=at))

    def statuses(self) -> dict[str, dict[str, Any]]:
        """By name: the Status of every member that runs."""
        by_endpoint = {member.endpoint: member.name for member in self.alive()}
        return {by_endpoint[row["Endpoint"]]: row["Status"] for row in self.json("endpoint", "status")}

    def ids(self) -> dict[str, int]:
        """By name; of those that have started."""
        return {row["name"]: row["ID"] for row in self.json("member", "list")["members"] if "name" in row}

    def leader(self) -> Member:
        """The one that all agree on; waited for."""

        def agreed() -> Member | None:
            statuses = self.statuses()
            leaders = {status.get("leader", 0) for status in statuses.values()}
            return next(
                (self.members[name] for name, status in statuses.items() if leaders == {status["header"]["member_id"]}),
                None,
            )

        found = self.wait(agreed, "one leader")
        assert isinstance(found, Member)
        return found

    def followers(self) -> list[Member]:
        leader = self.leader()
        return [member for member in self.alive() if member is not leader]

    def assert_equal(self) -> None:
        """Every member that runs comes to hold the same."""

        def equal() -> bool:
            rows = self.json("endpoint", "hashkv")
            return len({(row["HashKV"]["hash"], row["HashKV"]["hash_revision"]) for row in rows}) == 1

        self.wait(equal, "equal states")

    def wait(self, probe: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
        """What the probe returns once it is true."""
        deadline = time.monotonic() + timeout_s
        while not (found := probe()):
            assert time.monotonic() < deadline, f"no {what} in {timeout_s} s\n{self.tails()}"
            time.sleep(POLL_S)
        return found

    def tails(self) -> str:
        started = [member for member in self.members.values() if member.log_path.exists()]
        return "\n".join(f"--- {member.name}\n{member.log_tail(12)}" for member in started)
