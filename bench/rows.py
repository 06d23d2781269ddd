"""
What bench/server.py measures, in groups. A group gets a fresh server and gives the value of each of its measures.

    group    on the server                            measures
    puts     nothing                                  put, put1
    creates  nothing                                  txn
    ranges   100,000 keys of 8 B + 256 B              range, serializable, range1
    leases   1,000 leases                             keepalive
    lists    10,000 keys of 1 KiB                     list
    bulk     1,000,000 keys of 1 KiB                  stream, put_list
    compact  500,000 superseded revisions             put_compact
    watch    1,000 watchers of one key                watch, watch_p50, watch_p99
    memory   1,000,000 keys of 40 B + 256 B           memory, memory_peak, restart
    idle     1,000 connections with a watcher each    idle

The load generator checks every answer (status, revisions, keys, counts, bytes; see bench/load) and fails the workload
at the first that is wrong. Checked here: that durable puts reached the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadgen import WorkloadFailed
from machine import device_counts, resident
from servers import Server

SETTLE_S = 3.0  # after loading, before memory is read and the server killed


@dataclass(frozen=True)
class Measure:
    """wanted: the ratio of fastkv to etcd that was set as the goal; at least that, or at most if lower is better."""

    title: str
    unit: str
    wanted: float | None = None
    lower_is_better: bool = False


MEASURES = {
    "put": Measure("put, 100 connections x 10 streams, 8 B + 256 B, durable", "/s", 5.0),
    "range": Measure("linearizable range of one key, same load", "/s", 4.0),
    "serializable": Measure("serializable range of one key, same load", "/s", 4.0),
    "txn": Measure("txn create (If mod==0 Then put), same load", "/s", 5.0),
    "put1": Measure("put, one connection, one stream: p50", "ms", 1.0, True),
    "range1": Measure("range, one connection, one stream: p50", "ms", 1.0, True),
    "list": Measure("list of 10,000 x 1 KiB", "MB/s", 2.0),
    "stream": Measure("RangeStream of 1 GB", "MB/s", 2.5),
    "put_list": Measure("put p99 while another client lists 500 MB", "ms", 0.5, True),
    "put_compact": Measure("put p99 while 500,000 revisions are compacted", "ms", 0.5, True),
    "watch": Measure("events to 1,000 watchers of one key", "/s", 5.0),
    "watch_p50": Measure("put to event, 100 puts/s, 1,000 watchers: p50", "ms", None, True),
    "watch_p99": Measure("put to event, 100 puts/s, 1,000 watchers: p99", "ms", 0.5, True),
    "keepalive": Measure("lease keepalives, 1,000 streams", "/s", 4.0),
    "memory": Measure("resident memory, 1,000,000 keys of 40 B + 256 B", "B/key", 0.5, True),
    "memory_peak": Measure("the same, peak while loading", "B/key", None, True),
    "restart": Measure("kill -9 to the first linearizable get on that data", "s", 0.2, True),
    "idle": Measure("1,000 idle connections with a watcher each: CPU", "ms/s", 1.0, True),
}


@dataclass(frozen=True)
class Plan:
    """
    seconds: measured in each closed loop. size: factor on how much data there is. rate: paced puts per second.
    inflights: how many puts may have watchers waiting for their events; the best counts.
    """

    seconds: int = 5
    warmup: int = 1
    size: float = 1.0
    rate: int = 1000
    inflights: tuple[int, ...] = (64, 256)

    def sized(self, count: int, least: int = 1) -> int:
        return max(least, int(count * self.size))

    @property
    def timed(self) -> dict[str, int]:
        return {"seconds": self.seconds, "warmup": self.warmup}


Results = tuple[dict[str, float], list[dict[str, Any]]]  # the measures, and everything that the generator said


def load(server: Server, **options: int) -> dict[str, Any]:
    """Fills the store; few transactions at a time, so that the server is not asked to hold them all."""
    return server.run("load", **({"connections": 4, "streams": 4} | options))


def durable(server: Server, workload: str, outstanding: int, **options: int) -> dict[str, Any]:
    """A workload of writes, with the proof that the disk saw them: a flush serves at most all that were outstanding."""
    before = device_counts(server.pid)
    result = server.run(workload, **options)
    after = device_counts(server.pid)
    used = {name: after[name] - before[name] for name in after}
    payload = result["writes"] * (options.get("key_bytes", 8) + options.get("value_bytes", 256))
    if used["process_bytes"] < payload:
        raise WorkloadFailed(
            f"{workload}: {payload:,.0f} bytes acknowledged, {used['process_bytes']:,} sent to storage"
        )
    if used["flushes"] * outstanding < 0.98 * result["writes"]:
        raise WorkloadFailed(f"{workload}: {result['writes']:,.0f} durable writes with {used['flushes']:,} flushes")
    return result | {"device": used}


def puts(server: Server, plan: Plan) -> Results:
    many = durable(server, "put", 1000, **plan.timed)
    one = durable(server, "put", 1, connections=1, streams=1, **plan.timed)
    return {"put": many["rate"], "put1": one["p50_us"] / 1e3}, [many, one]


def creates(server: Server, plan: Plan) -> Results:
    many = durable(server, "txn-create", 1000, **plan.timed)
    return {"txn": many["rate"]}, [many]


def ranges(server: Server, plan: Plan) -> Results:
    keys = plan.sized(100_000)
    load(server, keys=keys)
    linearizable = server.run("range", keys=keys, **plan.timed)
    serializable = server.run("range", keys=keys, serializable=1, **plan.timed)
    one = server.run("range", keys=keys, connections=1, streams=1, **plan.timed)
    values = {"range": linearizable["rate"], "serializable": serializable["rate"], "range1": one["p50_us"] / 1e3}
    return values, [linearizable, serializable, one]


def leases(server: Server, plan: Plan) -> Results:
    many = server.run("keepalive", **plan.timed)
    return {"keepalive": many["rate"]}, [many]


def lists(server: Server, plan: Plan) -> Results:
    data = {"keys": 10_000, "value_bytes": 1024}
    load(server, **data)
    many = server.run("list", connections=10, streams=1, **data, **plan.timed)
    return {"list": many["received_rate"] / 1e6}, [many]


def bulk(server: Server, plan: Plan) -> Results:
    data = {"keys": plan.sized(1_000_000), "value_bytes": 1024, "key_bytes": 16}
    load(server, **data)
    stream = server.run("range-stream", connections=1, streams=1, **data, **plan.timed)
    busy = server.run("put-during-list", connections=10, rate=plan.rate, limit=data["keys"] // 2, repeat=3, **data)
    return {"stream": stream["received_rate"] / 1e6, "put_list": busy["busy_p99_us"] / 1e3}, [stream, busy]


def compact(server: Server, plan: Plan) -> Results:
    revisions, keys = plan.sized(500_000), 5000
    load(server, keys=keys, puts=revisions + keys)
    busy = server.run("put-during-compaction", connections=10, rate=plan.rate)
    return {"put_compact": busy["busy_p99_us"] / 1e3}, [busy]


def watch(server: Server, plan: Plan) -> Results:
    shape = {"connections": 100, "watchers": 10, "value_bytes": 16}
    # With many puts on their way a server may put several events into one message; how many are best is the server's.
    runs = [server.run("watch", **shape, **plan.timed, inflight=inflight) for inflight in plan.inflights]
    paced = server.run("watch", **shape, **plan.timed, rate=100)
    best = max(run["rate"] for run in runs)
    values = {"watch": best, "watch_p50": paced["p50_us"] / 1e3, "watch_p99": paced["p99_us"] / 1e3}
    return values, [*runs, paced]


def memory(server: Server, plan: Plan) -> Results:
    keys = plan.sized(1_000_000)
    empty = resident(server.pid)
    # Eight puts a transaction: as many log entries as make etcd take its snapshots, at an eighth of the time.
    loaded = load(server, keys=keys, key_bytes=40, ops=8, connections=16)
    time.sleep(SETTLE_S)
    full = resident(server.pid)
    server.kill()
    restart = server.start(revision=int(loaded["revision"]))
    values = {"memory": full["VmRSS"] / keys, "memory_peak": full["VmHWM"] / keys, "restart": restart}
    return values, [loaded | {"empty": empty, "full": full, "restarted": resident(server.pid)}]


def idle(server: Server, plan: Plan) -> Results:
    asleep = server.run("idle", connections=1000, warmup=2, seconds=max(plan.seconds, 5))
    return {"idle": asleep["server_cpu_s"] / asleep["seconds"] * 1e3}, [asleep]


GROUPS: dict[str, Callable[[Server, Plan], Results]] = {
    "puts": puts,
    "creates": creates,
    "ranges": ranges,
    "leases": leases,
    "lists": lists,
    "bulk": bulk,
    "compact": compact,
    "watch": watch,
    "memory": memory,
    "idle": idle,
}
