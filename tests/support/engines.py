"""Which engines the tests run on: both, or the one that FASTKV_ENGINE names."""

from __future__ import annotations

import os

import pytest

from fastkv import engine as protocol

ENGINES = [os.environ["FASTKV_ENGINE"]] if os.environ.get("FASTKV_ENGINE") else ["native", "python"]


def load_engine(name: str) -> type:
    """The engine class, or a failure (never a skip) that says how to get it."""
    try:
        return protocol.load(name)
    except ImportError as reason:
        pytest.fail(f"engine {name}: {reason}", pytrace=False)
