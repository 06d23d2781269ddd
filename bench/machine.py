"""What the kernel counts: memory of a process, writes and flushes of the disks. Used by both benchmarks."""

from __future__ import annotations

from pathlib import Path


def resident(pid: int | str = "self") -> dict[str, int]:
    """Memory of a process in bytes: now (VmRSS), the part not backed by a file (RssAnon), and at most (VmHWM)."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) << 10 for name in ("VmRSS", "RssAnon", "VmHWM")}


def device_counts(pid: int | str = "self") -> dict[str, int]:
    """Completed writes and flushes of all block devices, and the bytes that a process has sent to storage.

    The devices count for everybody on the machine: a lower count than the number of durable writes is a proof that they
    were not durable, a higher one is no proof that they were.
    """
    counts = {"writes": 0, "flushes": 0}
    for path in Path("/sys/block").glob("*/stat"):
        if not path.parent.name.startswith(("loop", "ram", "zram", "dm-", "md")):
            fields = path.read_text().split()
            counts["writes"] += int(fields[4])
            counts["flushes"] += int(fields[15]) if len(fields) > 15 else 0
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    counts["process_bytes"] = int(io["write_bytes"])
    return counts
