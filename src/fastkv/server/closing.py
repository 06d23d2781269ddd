"""Closing step by step, none longer than its time: what hangs must not hold up the others, nor the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

# Of each step. Together they stay below 2 s.
STOP_STEP_S = 0.5


async def in_time(step: Callable[[], object], timeout_s: float = STOP_STEP_S) -> bool:
    """Call it in a thread of its own; whether it has ended within the time. Raises what it raises."""
    closer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="closer")
    try:
        await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(closer, step), timeout_s)
    except TimeoutError:
        return False
    finally:
        closer.shutdown(wait=False)
    return True
