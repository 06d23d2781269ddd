"""
Which front ends the tests of a node run on: both, or the one that FASTKV_FRONT names. A node that was to run one and
runs the other fails the test.
"""

from __future__ import annotations

import os

FRONTS = [os.environ["FASTKV_FRONT"]] if os.environ.get("FASTKV_FRONT") else ["native", "grpcio"]

# What `warm_servers` is asked for.
NODES = [f"node-{front}" for front in FRONTS]
