"""
tests/clients/go as a program: etcd's own Go client, clientv3.

`make peers` builds it into the peers' cache; where that was not done, but Go and its modules are here, it is built then
and there, without the network. Its name says which sources it is made from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "clients" / "go"
BUILD_TIMEOUT_S = 240.0


def path() -> Path:
    """Where it is, or would be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    peers = Path(os.environ.get("FASTKV_PEERS") or cache / "fastkv" / "peers")
    digest = hashlib.sha256()
    for name in ("main.go", "go.mod", "go.sum"):
        digest.update((SOURCE / name).read_bytes())
    return peers / "clients" / f"clientv3-{digest.hexdigest()[:12]}"


def find() -> tuple[Path | None, str]:
    """The program, or why there is none."""
    program = path()
    if program.exists():
        return program, ""
    go = shutil.which("go")
    if go is None:
        return None, "no Go here: `make peers` builds the Go client where there is"
    program.parent.mkdir(parents=True, exist_ok=True)
    made = program.with_suffix(f".{os.getpid()}")
    environment = os.environ | {"GOFLAGS": "-mod=readonly", "GOPROXY": "off"}
    built = subprocess.run(
        [go, "build", "-trimpath", "-o", str(made), "."],
        cwd=SOURCE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
    )
    if built.returncode:
        return None, "the Go client's modules are not here: `make peers` fetches them and builds it"
    made.rename(program)
    return program, ""


if __name__ == "__main__":
    print(path())
