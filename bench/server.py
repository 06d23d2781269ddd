"""
fastkv's server beside a real etcd 3.7, in one run on one machine: speed, latency, memory, time to restart.

    python bench/server.py                                     3 rounds of everything, an hour or so
    python bench/server.py --quick --only etcd,native          one round with little data, minutes
    python bench/server.py --groups puts,ranges --rounds 5 --svg out.svg --json out.json

Each group of measurements (rows.py) gets a fresh server in a temporary directory; the servers take turns within a
round, and a round's order is the reverse of the one before, so that a slow minute of the machine hits all of them. The
table shows medians and the median of the rounds' ratios. Only ratios of one run mean anything.

The slow columns (grpcio, python) run in the first round only, with a tenth of the data and of the paced puts: rates and
bytes a key compare, their list and compaction latencies and restart are flattered, which the table marks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chart import draw
from loadgen import Generator, WorkloadFailed
from rows import GROUPS, MEASURES, Plan
from servers import NAMES, absence, serving

SLOW = ("grpcio", "python")
SIZED = ("put_list", "put_compact", "restart")  # what depends on how much data there is

Row = dict[str, Any]  # round, server, group, values, and what the generator said or why it failed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NAMES), help=f"servers, comma-separated (default {','.join(NAMES)})")
    parser.add_argument(
        "--groups", default=",".join(GROUPS), help=f"groups of measurements (default {','.join(GROUPS)})"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--seconds", type=int, default=5, help="measured in each closed loop (default 5)")
    parser.add_argument("--quick", action="store_true", help="one round, 2 seconds, a twentieth of the data")
    parser.add_argument("--dir", type=Path, default=None, help="where the data goes (default: a temporary directory)")
    parser.add_argument("--json", type=Path, help="write every single result here")
    parser.add_argument("--svg", type=Path, help="write a plot here")
    args = parser.parse_args()
    args.only, args.groups = args.only.split(","), args.groups.split(",")
    for name, known in ((args.only, NAMES), (args.groups, GROUPS)):
        if unknown := [one for one in name if one not in known]:
            parser.error(f"{', '.join(unknown)}: not among {', '.join(known)}")
    if args.quick:
        args.rounds, args.seconds = 1, 2
    return args


def plan_for(server: str, args: argparse.Namespace) -> Plan:
    size = 0.05 if args.quick else 1.0
    if server in SLOW:
        return Plan(seconds=args.seconds, size=min(size, 0.1), rate=100, inflights=(4,))
    return Plan(seconds=args.seconds, size=size)


def measure(server: str, group: str, base: Path, plan: Plan, generator: Generator) -> Row:
    """One group on one fresh server."""
    try:
        with serving(server, base, generator) as running:
            try:
                values, details = GROUPS[group](running, plan)
            except WorkloadFailed as failure:
                return {"failure": f"{failure}\n{running.log_tail()}", "values": {}}
        return {"values": values, "details": details}
    except WorkloadFailed as failure:
        log = base / "log"
        return {"failure": f"{failure}\n{log.read_text(errors='replace')[-2000:]}", "values": {}}
    finally:
        shutil.rmtree(base, ignore_errors=True)


def run(args: argparse.Namespace, base: Path, generator: Generator, say: Callable[[str], None]) -> list[Row]:
    rows = []
    for turn in range(args.rounds):
        servers = args.only if turn % 2 == 0 else args.only[::-1]
        for group in args.groups:
            for server in servers:
                if turn > 0 and server in SLOW:
                    continue
                say(f"round {turn + 1} of {args.rounds}: {group}, {server}")
                plan = plan_for(server, args)
                row = measure(server, group, base / f"{server}-{group}-{turn}", plan, generator)
                rows.append({"round": turn, "server": server, "group": group, "size": plan.size, **row})
    return rows


def median_of(rows: list[Row], server: str, name: str) -> float | None:
    values = [row["values"][name] for row in rows if row["server"] == server and name in row["values"]]
    return statistics.median(values) if values else None


def ratio_of(rows: list[Row], server: str, name: str) -> float | None:
    """The median of the rounds' ratios to etcd."""
    by_round: dict[int, dict[str, float]] = {}
    for row in rows:
        if name in row["values"]:
            by_round.setdefault(row["round"], {})[row["server"]] = row["values"][name]
    ratios = [both[server] / both["etcd"] for both in by_round.values() if server in both and both.get("etcd")]
    return statistics.median(ratios) if ratios else None


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: list[Row], servers: list[str]) -> str:
    """Markdown: a row a measure; values of all servers, ratios to etcd, the wanted ratio and whether it was reached."""
    ours = next((name for name in ("native", "grpcio", "python") if name in servers), None)
    peers = [name for name in servers if name != "etcd"] if "etcd" in servers else []
    head = ["", *servers, *(f"{name} / etcd" for name in peers), "wanted"]
    lines = [head, ["---", *["--:"] * (len(head) - 2), "---"]]
    failed = {(row["server"], row["group"]) for row in rows if "failure" in row}
    for name, spec in MEASURES.items():
        if not any(name in row["values"] for row in rows):
            continue
        line = [f"{spec.title}, {spec.unit}"]
        for server in servers:
            value = median_of(rows, server, name)
            mark = "*" if server in SLOW and name in SIZED else ""
            line.append("-" if value is None else number(value) + mark)
        line += ["-" if (ratio := ratio_of(rows, peer, name)) is None else f"{ratio:.2f}x" for peer in peers]
        line.append(verdict(ratio_of(rows, ours, name) if ours else None, name))
        lines.append(line)
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    if any(cell.endswith("*") for line in lines[2:] for cell in line[1 : len(servers) + 1]):
        text += "\n\n\\* with a tenth of the data or less"
    if failed:
        text += "\n\nfailed: " + ", ".join(f"{group} on {server}" for server, group in sorted(failed))
    return text


def verdict(ratio: float | None, name: str) -> str:
    spec = MEASURES[name]
    if spec.wanted is None:
        return ""
    bound = f"{'<=' if spec.lower_is_better else '>='} {spec.wanted:g}x"
    if ratio is None:
        return bound
    reached = ratio <= spec.wanted if spec.lower_is_better else ratio >= spec.wanted
    return bound if reached else f"{bound}: **missed**"


def cpu_report(rows: list[Row], servers: list[str]) -> list[str]:
    """Who used the CPU in the closed loops: if the generator's share were large, it would be what was measured."""
    lines = []
    for server in servers:
        for workload in ("put", "range", "txn-create", "keepalive", "watch", "list", "range-stream"):
            runs = [
                one
                for row in rows
                if row["server"] == server
                for one in row.get("details", [])
                if one["workload"] == workload and (one["count"] > 0 or one.get("received_rate", 0) > 0)
                # a lone stream uses CPU for its wake-ups, which is another question
                if one["options"].get("connections", 100) > 1 or workload == "range-stream"
            ]
            if runs:
                own, theirs = (sum(one[f"{who}_cpu_s"] for one in runs) for who in ("generator", "server"))
                seconds = sum(one["seconds"] for one in runs)
                if workload in ("list", "range-stream"):
                    received = sum(one["received_rate"] * one["seconds"] for one in runs)
                    each = f"{own / received * 1e9:.3f} s per GB"
                else:
                    each = f"{own / sum(one['count'] for one in runs) * 1e5:.3f} s per 100,000"
                shares = f"server {theirs / seconds:5.2f} CPUs, generator {own / seconds:5.2f} ({each})"
                lines.append(f"{server:8} {workload:13} {shares}")
    return lines


def plot(title: str, rows: list[Row], servers: list[str]) -> str:
    """Every measure as so many times better than etcd."""
    found: dict[str, dict[str, float]] = {}
    for server in servers:
        for name, spec in MEASURES.items():
            if value := median_of(rows, server, name):
                found.setdefault(server, {})[name] = 1 / value if spec.lower_is_better else value

    def label(name: str, goodness: float) -> str:
        spec = MEASURES[name]
        return f"{number(1 / goodness if spec.lower_is_better else goodness)} {spec.unit}"

    titles = {name: spec.title for name, spec in MEASURES.items()}
    return draw(title, found, servers, titles, unit="etcd", label=label)


def main() -> None:
    args = arguments()
    for server in list(args.only):
        if reason := absence(server):
            print(f"{server}: left out, {reason}")
            args.only.remove(server)
    if not args.only:
        raise SystemExit("nothing is left to measure")
    say = (
        (lambda text: print(f"\r{text:60}", end="", file=sys.stderr, flush=True))
        if sys.stderr.isatty()
        else lambda text: None
    )
    generator = Generator()
    base = Path(tempfile.mkdtemp(prefix="fastkv-bench-", dir=args.dir))
    try:
        rows = run(args, base, generator, say)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    say("")
    title = (
        f"server, {args.rounds} rounds of {args.seconds} s, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    )
    if args.quick:
        title += ", quick: a twentieth of the data"
    print(title + "\n\n" + table(rows, args.only))
    print("\nCPU\n" + "\n".join(f"  {line}" for line in cpu_report(rows, args.only)))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"title": title, "rows": rows}, indent=1) + "\n")
    if args.svg:
        args.svg.parent.mkdir(parents=True, exist_ok=True)
        args.svg.write_text(plot(title, rows, args.only))
    failures = [row for row in rows if "failure" in row]
    for row in failures:
        print(f"\n{row['group']} on {row['server']}, round {row['round'] + 1}: {row['failure']}", file=sys.stderr)
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
