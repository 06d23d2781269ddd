"""
The embedded store beside its peers, in one run on one machine: speed, memory, time to open.

    python bench/embedded.py                        1 million keys of 16 B in scattered order, 100 B values, 3 rounds
    python bench/embedded.py --keys 100000 --rounds 1 --only fastkv,lmdb --svg out.svg --json out.json

Every measurement runs in a process of its own (measures.py says which and how each is verified); the stores take turns
within a round, and a round's order is the reverse of the one before, so that a slow minute of the machine hits all of
them. The table shows medians. Only ratios of one run mean anything: machines differ by 2x, and so do minutes of one
machine.

The pure-Python engine is measured in the first round only, because it takes minutes (--python-keys gives it fewer keys,
which is in its favour).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chart import draw
from measures import GROUPS
from stores import PERSISTENT, STORES

HERE = Path(__file__).resolve().parent
MODULES = {"fastkv": "fastkv", "python": "fastkv"}  # store -> module, where the names differ

# measure -> (title, unit)
MEASURES = {
    "get": ("get (lmdb: within one read transaction)", "/s"),
    "scan100": ("scan of 100 items", "items/s"),
    "scan": ("scan of everything", "items/s"),
    "batch": ("puts in batches of 1,000", "/s"),
    "put": ("autocommit put, sync=False", "/s"),
    "durable": ("durable autocommit put", "/s"),
    "threads4": ("durable put, 4 threads", "/s"),
    "threads8": ("durable put, 8 threads", "/s"),
    "memory": ("resident memory of the data", "MB"),
    "open": ("open after a clean close", "s"),
}

# measure, peer, factor: fastkv does at least `factor` times what the peer does.
RATIO_TARGETS = [
    ("get", "lmdb", 2.0),
    ("get", "python", 10.0),
    ("scan100", "lmdb", 1.0),
    ("scan100", "python", 10.0),
    ("scan", "lmdb", 1.0),
    ("batch", "lmdb", 4.0),
    ("batch", "rocksdict", 1.0),
    ("put", "lmdb", 5.0),
    ("put", "rocksdict", 1.0),
    ("put", "python", 10.0),
    ("durable", "lmdb", 1.8),
    ("threads4", "lmdb", 4.0),
]
# measure, at most so much for a million keys: bytes, seconds.
LIMIT_TARGETS = [("memory", 250e6), ("open", 0.5)]

Medians = dict[str, dict[str, float]]  # store -> measure -> median


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000, help="keys in the store (default 1,000,000)")
    parser.add_argument(
        "--ops", type=int, default=200_000, help="gets and puts a measurement (default 200,000; gets: --keys)"
    )
    parser.add_argument("--durable-ops", type=int, default=3000, help="durable puts a measurement (default 3,000)")
    parser.add_argument("--python-keys", type=int, help="keys for the pure-Python engine (default: --keys)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    parser.add_argument(
        "--only", default=",".join(STORES), help=f"stores, comma-separated (default {','.join(STORES)})"
    )
    parser.add_argument(
        "--groups", default=",".join(GROUPS), help=f"groups of measurements (default {','.join(GROUPS)})"
    )
    parser.add_argument("--dir", type=Path, default=None, help="where the data goes (default: a temporary directory)")
    parser.add_argument("--json", type=Path, help="write every single result here")
    parser.add_argument("--svg", type=Path, help="write a plot here")
    args = parser.parse_args()
    args.python_keys = args.python_keys or args.keys
    args.only, args.groups = args.only.split(","), args.groups.split(",")
    for name, known in ((args.only, STORES), (args.groups, GROUPS)):
        if unknown := [one for one in name if one not in known]:
            parser.error(f"{', '.join(unknown)}: not among {', '.join(known)}")
    if "read" in args.groups and "load" not in args.groups:
        parser.error("read needs load")
    return args


def applies(group: str, store: str) -> bool:
    """A dict has nothing to load, to sync or to share; everything else is measured for every store."""
    return store in PERSISTENT or group in ("load", "read", "put", "memory")


def measure(group: str, store: str, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One group for one store in a process of its own."""
    keys = min(args.keys, args.python_keys) if store == "python" else args.keys
    spec = {
        "group": group,
        "store": store,
        "path": str(path),
        "keys": keys,
        "ops": keys if group == "read" else min(keys, args.ops),
        "durable_ops": args.durable_ops,
    }
    engine = "python" if store == "python" else "native"
    done = subprocess.run(
        [sys.executable, str(HERE / "measures.py"), json.dumps(spec)],
        env=os.environ | {"FASTKV_ENGINE": engine},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{store}, {group}: failed\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run(args: argparse.Namespace, base: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """All rounds; one row a measurement: round, store, group and what it gave."""
    rows = []
    for turn in range(args.rounds):
        stores = args.only if turn % 2 == 0 else args.only[::-1]
        for group in args.groups:
            for store in stores:
                if not applies(group, store) or (store == "python" and turn > 0):
                    continue
                path = base / f"{store}-{'load' if group in ('load', 'read') else group}" / str(turn)
                say(f"round {turn + 1} of {args.rounds}: {group}, {store}")
                rows.append({"round": turn, "store": store, "group": group, **measure(group, store, path, args)})
                if group != "load":
                    shutil.rmtree(path.parent, ignore_errors=True)
    return rows


def medians(rows: list[dict[str, Any]]) -> Medians:
    result: Medians = {}
    for store in {row["store"] for row in rows}:
        for name in MEASURES:
            values = [row[name] for row in rows if row["store"] == store and name in row]
            if values:
                result.setdefault(store, {})[name] = statistics.median(values)
    return result


def number(measure_name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if measure_name == "memory":
        return f"{value / 1e6:,.0f}"
    return f"{value:.3f}" if measure_name == "open" else f"{value:,.0f}"


def table(found: Medians, stores: list[str]) -> str:
    """Medians, a row a measure, then fastkv's ratio to each peer."""
    peers = [name for name in stores if name != "fastkv" and name in found]
    head = ["", *stores, *(f"/{peer}" for peer in peers if "fastkv" in found)]
    lines = [head]
    for name, (title, unit) in MEASURES.items():
        if not any(name in found.get(store, {}) for store in stores):
            continue
        line = [f"{title}, {unit}", *(number(name, found.get(store, {}).get(name)) for store in stores)]
        ours = found.get("fastkv", {}).get(name)
        for peer in peers if "fastkv" in found else []:
            theirs = found[peer].get(name)
            line.append(f"{ours / theirs:.2f}x" if ours and theirs else "-")
        lines.append(line)
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def targets(found: Medians, keys: int) -> list[str]:
    """One line a target: hit or MISS, with both numbers. Targets whose peer was not measured are left out."""
    lines = []
    ours = found.get("fastkv", {})
    for name, peer, factor in RATIO_TARGETS:
        theirs = found.get(peer, {}).get(name)
        if name in ours and theirs:
            verdict = "hit " if ours[name] >= factor * theirs else "MISS"
            lines.append(f"{verdict}  {name} >= {factor:g}x {peer}: {ours[name] / theirs:.2f}x")
    for name, limit in LIMIT_TARGETS:
        if name in ours:
            allowed = limit * keys / 1e6
            verdict = "hit " if ours[name] <= allowed else "MISS"
            bound, got, unit = number(name, allowed), number(name, ours[name]), MEASURES[name][1]
            lines.append(f"{verdict}  {name} <= {bound} {unit} for {keys:,} keys: {got} {unit}")
    return lines


def device_report(rows: list[dict[str, Any]], stores: list[str]) -> list[str]:
    """What the disk saw during the durable puts, a line a store and number of threads.

    Threads may share a sync, so `threads` puts need one write at least; with fewer they were not durable.
    """
    lines = []
    for store in stores:
        uses = [use for row in rows if row["store"] == store for use in row.get("device", [])]
        for threads in sorted({use["threads"] for use in uses}):
            seen = [use for use in uses if use["threads"] == threads]
            puts = sum(use["puts"] for use in seen)
            writes, flushes = (sum(use[name] for use in seen) / puts for name in ("writes", "flushes"))
            honest = "" if writes * threads >= 0.98 else "  <- NOT durable, or no device that counts"
            lines.append(
                f"{store:10} {threads} threads: {writes:6.2f} device writes and {flushes:5.2f} flushes a put{honest}"
            )
    return lines


def main() -> None:
    args = arguments()
    for store in list(args.only):
        module = MODULES.get(store, store)
        if store != "dict" and importlib.util.find_spec(module) is None:
            print(f"{store}: left out, {module} is not installed")
            args.only.remove(store)
    say = (
        (lambda text: print(f"\r{text:60}", end="", file=sys.stderr, flush=True))
        if sys.stderr.isatty()
        else lambda text: None
    )
    base = Path(tempfile.mkdtemp(prefix="fastkv-bench-", dir=args.dir))
    try:
        rows = run(args, base, say)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    say("")
    found = medians(rows)
    title = f"{args.keys:,} keys of 16 B, values of 100 B, {args.rounds} rounds, Python {platform.python_version()}"
    if "python" in args.only and args.python_keys < args.keys:
        title += f" (python: {args.python_keys:,} keys)"
    print(title + "\n\n" + table(found, args.only))
    for heading, lines in (("targets", targets(found, args.keys)), ("durable puts", device_report(rows, args.only))):
        if lines:
            print(f"\n{heading}\n" + "\n".join(f"  {line}" for line in lines))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"title": title, "medians": found, "rows": rows}, indent=1) + "\n")
    if args.svg:
        args.svg.parent.mkdir(parents=True, exist_ok=True)
        args.svg.write_text(
            draw(
                title, found, args.only, {name: text for name, (text, unit) in MEASURES.items() if unit.endswith("/s")}
            )
        )


if __name__ == "__main__":
    main()
