"""The versions a node reports: etcd's, whose API it serves, and the product's own."""

from __future__ import annotations

import os
import platform

from fastkv._version import __version__

API_VERSION = "3.7.3"  # Clients parse it to decide what they may use (Status.version, /version).
CLUSTER_VERSION = "3.7.0"  # also that of the storage; downgrade.py says what is reported


def version_lines() -> str:
    """Four lines in the shape of `etcd --version`: tools read the first."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return "\n".join(
        (
            f"etcd Version: {API_VERSION}",
            f"Git SHA: fastkv-{__version__}",
            f"Go Version: none (Python {platform.python_version()})",
            f"Go OS/Arch: {os.uname().sysname.lower()}/{machine}",
        )
    )
