"""What a simulated process can be."""

from __future__ import annotations

from enum import Enum


class Life(Enum):
    UP = "up"
    PAUSED = "paused"
    DOWN = "down"  # it will be started again on what its disk holds
    GONE = "gone"  # for good
