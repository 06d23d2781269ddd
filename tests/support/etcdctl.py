"""
The real etcdctl as a subprocess, and its output made comparable: ids, addresses and running times replaced by names.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from typing import NamedTuple

from support.client import Client
from support.processes import Server
from support.protos import rpc

RUN_TIMEOUT_S = 20.0


class Ran(NamedTuple):
    """What one run said, normalised."""

    status: int
    stdout: str
    stderr: str


class Etcdctl:
    """One etcdctl binary talking to one server."""

    def __init__(self, binary: str, server: Server) -> None:
        self.binary = binary
        self.server = server
        client = Client(server.endpoint)
        try:
            answer = client.call("MemberList", rpc.MemberListRequest())
        finally:
            client.close()
        assert answer.code == 0 and len(answer.response.members) == 1, answer
        header, [member] = answer.response.header, answer.response.members
        self._names = [
            (f"{number:{base}}", name)
            for number, name in ((member.ID, "MEMBER"), (header.cluster_id, "CLUSTER"))
            for base in ("x", "d")
        ]
        self._names += [(url.removeprefix("http://"), "PEER") for url in member.peerURLs]
        self._names += [(server.endpoint, "ENDPOINT")]

    def command(self, arguments: tuple[str, ...]) -> list[str]:
        return [self.binary, "--endpoints", self.server.endpoint, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("ETCD_", "ETCDCTL_"))}
        return clean | {"ETCDCTL_API": "3"}

    def run(self, *arguments: str, stdin: str = "") -> Ran:
        done = subprocess.run(
            self.command(arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            env=self.environment,
            check=False,
        )
        return Ran(done.returncode, self.normal(done.stdout), self.normal(done.stderr))

    def watch(self, *arguments: str, lines: int, stdin: str = "") -> list[str]:
        """Run a command that does not end by itself until it has printed so many lines; then end it."""
        process = subprocess.Popen(
            self.command(arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment
        )
        assert process.stdin is not None and process.stdout is not None
        guard = threading.Timer(RUN_TIMEOUT_S, process.kill)
        guard.start()
        try:
            process.stdin.write(stdin)
            process.stdin.flush()
            got = []
            for line in process.stdout:
                got.append(self.normal(line.rstrip("\n")))
                if len(got) == lines:
                    break
            assert len(got) == lines, f"etcdctl {arguments} ended or hung after {got}"
            return got
        finally:
            guard.cancel()
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def normal(self, text: str) -> str:
        for found, name in self._names:
            text = text.replace(found, name)
        # The client's own log: it tells of retries, addresses and times.
        text = re.sub(r'^\{"level":.*\n', "", text, flags=re.M)
        text = re.sub(r"took( =|:)? \S+", r"took\1 TIME", text)
        text = re.sub(r'"took":"\S+?"', '"took":"TIME"', text)
        # A table is as wide as its ids and addresses.
        text = re.sub(r"─+", "─", re.sub(r"-{3,}", "-", text)) if "│" in text or "---+" in text else text
        text = re.sub(r"(?<=[│|]) +| +(?=[│|])", " ", text)
        text = re.sub(r"remaining\(\d+s\)", "remaining(TIME)", text)
        return re.sub(r'"raft_term":\d+', '"raft_term":TERM', text)
