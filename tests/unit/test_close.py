"""What a close leaves on disk, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("checkpoint_on_close", [True, False])
def test_a_close_writes_a_checkpoint_of_a_long_log_unless_told_not_to(
    open_engine: Callable[..., Any], tmp_path: Path, checkpoint_on_close: bool
) -> None:
    path = tmp_path / "data"
    engine = open_engine(path, checkpoint_on_close=checkpoint_on_close)
    for number in range(17):  # 16 MiB of log are no reason yet
        engine.put(b"%d" % number, bytes(1 << 20))
    engine.close()
    assert len(list((path / "checkpoint").iterdir())) == checkpoint_on_close
    lines: list[str] = []
    again = open_engine(path, log=lines.append)
    assert (again.revision, len(again.get(b"16")), lines) == (18, 1 << 20, [])
