"""
Three members of fastkv beside three of a real etcd 3.7, in one run on one machine.

    python bench/cluster.py                          3 rounds of everything, some ten minutes
    python bench/cluster.py --rounds 1 --seconds 3   a first look

    put          at the leader, 100 connections x 10 streams, 8 B + 256 B, durable on a majority
    put_spread   the same load shared by generators at all three members
    range_spread linearizable ranges of one key, shared alike
    put1         one connection, one stream at the leader: p50
    outage       kill -9 of the leader under closed-loop writers at the other two: longest that one stood still

The clusters take turns within a round, each on fresh directories; a round's order is the reverse of the one before. The
load generator (bench/load) checks every answer. Only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from loadgen import Generator, WorkloadFailed
from servers import absence, environment, etcd_binary, fastkv_command, free_ports

from fastkv.rpc.wire import Message, bytes_field

NAMES = ("etcd", "native")
MEMBERS = ("a", "b", "c")
READY_S = 30.0
WRITERS = 4  # at each surviving member
OUTAGE_S = 12.0  # watched after the kill: longer than etcd's request timeout


class Measure(NamedTuple):
    """wanted: fastkv to etcd, at least; at most if lower is better."""

    title: str
    unit: str
    wanted: float | None
    lower_is_better: bool = False


MEASURES = {
    "put": Measure("put at the leader", "/s", 4.0),
    "put_spread": Measure("put, spread over all members", "/s", 4.0),
    "range_spread": Measure("linearizable range, spread over all members", "/s", 4.0),
    "put1": Measure("put, one stream at the leader: p50", "ms", 1.0, True),
    "outage": Measure("kill -9 of the leader: longest that a writer stood still", "s", None, True),
}


class Cluster:
    """Three members in a directory."""

    def __init__(self, name: str, base: Path) -> None:
        self.name, self.base = name, base
        ports = free_ports(6)
        self.targets = [f"127.0.0.1:{port}" for port in ports[:3]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[3:]]
        cluster = ",".join(f"{member}={url}" for member, url in zip(MEMBERS, peers, strict=True))
        self.processes: list[subprocess.Popen[bytes]] = []
        for member, target, peer in zip(MEMBERS, self.targets, peers, strict=True):
            (base / member).mkdir(parents=True)
            words = [
                f"--name={member}",
                f"--data-dir={base / member / 'data'}",
                f"--listen-client-urls=http://{target}",
                f"--advertise-client-urls=http://{target}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster={cluster}",
                "--log-level=error",
            ]
            command = [str(etcd_binary()), *words] if name == "etcd" else fastkv_command("serve", *words)
            with (base / member / "log").open("ab") as log:
                self.processes.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(name))
                )

    def leader(self) -> int:
        """Its place, once all three members name the same one."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            seen = [_status(target) for target in self.targets]
            if all(seen) and len({leader for _, leader in filter(None, seen)}) == 1:
                found = [place for place, status in enumerate(seen) if status and status[0] == status[1]]
                if found:
                    return found[0]
            time.sleep(0.1)
        raise WorkloadFailed(f"no leader of three within {READY_S} s: {seen}\n{self.log_tail()}")

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(READY_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log_tail(self) -> str:
        return "\n".join((self.base / member / "log").read_text(errors="replace")[-1000:] for member in MEMBERS)


def _status(target: str) -> tuple[int, int] | None:
    """(member id, leader's id); None if it does not answer or knows none."""
    with grpc.insecure_channel(target) as channel:
        try:
            answer = Message(channel.unary_unary("/etcdserverpb.Maintenance/Status")(b"", timeout=1))
        except grpc.RpcError:
            return None
    leader = answer.unsigned(4)
    return (Message(answer.data(1)).unsigned(2), leader) if leader else None


@contextmanager
def serving(name: str, base: Path) -> Iterator[Cluster]:
    cluster = Cluster(name, base)
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(base, ignore_errors=True)


def spread(generator: Generator, cluster: Cluster, workload: str, **options: int) -> float:
    """The sum of the rates of a generator at each member."""
    with ThreadPoolExecutor(len(MEMBERS)) as pool:
        runs = [
            pool.submit(generator.run, workload, target, connections=33, shared=1, **options)
            for target in cluster.targets
        ]
        return sum(run.result()["rate"] for run in runs)


def outage(cluster: Cluster) -> float:
    """Seconds: the longest between two acknowledged writes of one writer at a member that survives."""
    leader = cluster.leader()
    killed = threading.Event()
    ended = threading.Event()
    gaps: list[float] = []
    failures: list[str] = []

    def write(target: str, number: int) -> None:
        put = bytes_field(1, b"outage/%d" % number) + bytes_field(2, bytes(64))
        last, longest, written = time.monotonic(), 0.0, 0
        with grpc.insecure_channel(target) as channel:
            call = channel.unary_unary("/etcdserverpb.KV/Put")
            while not ended.is_set():
                try:
                    call(put, timeout=OUTAGE_S)
                except grpc.RpcError:
                    continue  # tried again at once, as a client would
                now = time.monotonic()
                if killed.is_set():
                    longest = max(longest, now - last)
                    written += 1
                last = now
        gaps.append(longest)
        if written < 10:
            failures.append(f"a writer at {target} wrote {written} times after the kill")

    others = [target for place, target in enumerate(cluster.targets) if place != leader]
    writers = [
        threading.Thread(target=write, args=(target, number))
        for number, target in enumerate(target for target in others for _ in range(WRITERS))
    ]
    for writer in writers:
        writer.start()
    time.sleep(1.0)
    killed.set()
    cluster.processes[leader].kill()
    time.sleep(OUTAGE_S)
    ended.set()
    for writer in writers:
        writer.join()
    if failures:
        raise WorkloadFailed("; ".join(failures))
    return max(gaps)


def measure(name: str, base: Path, seconds: int, generator: Generator) -> dict[str, float]:
    timed = {"seconds": seconds, "warmup": 1}
    with serving(name, base) as cluster:
        leading = cluster.targets[cluster.leader()]
        values = {"put": generator.run("put", leading, **timed)["rate"]}
        values["put1"] = generator.run("put", leading, connections=1, streams=1, **timed)["p50_us"] / 1e3
        values["put_spread"] = spread(generator, cluster, "put", **timed)
        generator.run("load", leading, keys=10_000, connections=4, streams=4)
        values["range_spread"] = spread(generator, cluster, "range", keys=10_000, **timed)
        values["outage"] = outage(cluster)
    return values


def table(rounds: list[dict[str, dict[str, float]]], names: list[str]) -> str:
    """Markdown: medians, the median of the rounds' ratios, the goal."""
    lines = [["", *names, "native / etcd", "wanted"], ["---", *["--:"] * (len(names) + 1), "---"]]
    for key, spec in MEASURES.items():
        line = [f"{spec.title}, {spec.unit}"]
        line += [f"{statistics.median(values[name][key] for values in rounds):,.4g}" for name in names]
        if set(names) >= set(NAMES):
            ratio = statistics.median(values["native"][key] / values["etcd"][key] for values in rounds)
            line.append(f"{ratio:.2f}x")
            if spec.wanted is not None:
                reached = ratio <= spec.wanted if spec.lower_is_better else ratio >= spec.wanted
                line.append(
                    f"{'<=' if spec.lower_is_better else '>='} {spec.wanted:g}x" + ("" if reached else ": **missed**")
                )
        lines.append(line + [""] * (len(names) + 3 - len(line)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default=",".join(NAMES), help=f"clusters, comma-separated (default {','.join(NAMES)})"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--seconds", type=int, default=5, help="measured in each closed loop (default 5)")
    parser.add_argument("--dir", type=Path, default=None, help="where the data goes (default: a temporary directory)")
    parser.add_argument("--json", type=Path, help="write every single result here")
    args = parser.parse_args()
    names = args.only.split(",")
    for name in names:
        if name not in NAMES:
            parser.error(f"{name}: not among {', '.join(NAMES)}")
        if reason := absence(name):
            raise SystemExit(f"{name}: cannot be measured, {reason}")
    say: Callable[[str], Any] = lambda text: print(f"\r{text:60}", end="", file=sys.stderr, flush=True)  # noqa: E731
    if not sys.stderr.isatty():
        say = len
    generator = Generator()
    base = Path(tempfile.mkdtemp(prefix="fastkv-bench-", dir=args.dir))
    rounds = []
    try:
        for turn in range(args.rounds):
            values = {}
            for name in names if turn % 2 == 0 else names[::-1]:
                say(f"round {turn + 1} of {args.rounds}: {name}")
                values[name] = measure(name, base / f"{name}-{turn}", args.seconds, generator)
            rounds.append(values)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    say("")
    title = f"three members, {args.rounds} rounds of {args.seconds} s, {os.cpu_count()} CPUs"
    print(f"{title}, Python {platform.python_version()}\n\n{table(rounds, names)}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"title": title, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
