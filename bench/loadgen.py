"""
The load generator of bench/load: built when a source is newer than the program, run as a process, its JSON read.

Needs g++ and libnghttp2's headers, as the native front end does.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "bench" / "load"
LIMIT_S = 900.0  # for one workload; each ends by itself long before


class WorkloadFailed(Exception):
    """An answer was wrong, or none came."""


class Generator:
    """The built program."""

    def __init__(self, program: Path = ROOT / "build" / "loadgen") -> None:
        self.program = program
        sources = [*SOURCES.glob("*.cc"), *SOURCES.glob("*.h"), ROOT / "cpp" / "base" / "coding.h"]
        if program.exists() and program.stat().st_mtime > max(source.stat().st_mtime for source in sources):
            return
        program.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                *(os.environ.get("CXX", "g++"), "-std=c++20", "-O2", "-Wall", "-Wextra"),
                *(f"-I{ROOT / 'cpp'}", *sorted(str(source) for source in SOURCES.glob("*.cc"))),
                *("-lnghttp2", "-o", str(program)),
            ],
            check=True,
        )

    def run(self, workload: str, target: str, **options: int) -> dict[str, float]:
        """One workload; options are the program's, with _ for -."""
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(int(value)))]
        try:
            done = subprocess.run(
                [str(self.program), workload, "--target", target, *words],
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            raise WorkloadFailed(f"{workload}: no end after {LIMIT_S:.0f} s") from None
        try:
            result: dict[str, float] = json.loads(done.stdout)
        except json.JSONDecodeError:
            raise WorkloadFailed(f"{workload}: ended with {done.returncode}: {done.stdout}{done.stderr}") from None
        if done.returncode != 0:
            raise WorkloadFailed(f"{workload}: {result.get('failure', 'failed without a word')}")
        return result
