"""
Two things that asyncio leaves open: a thread's work that must have ended before its caller goes on, and a task's fault
that must not stay silent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """asyncio.to_thread that, when cancelled, ends only with the work: what it uses may be closed then."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,))
        raise


def fault(task: asyncio.Task[Any], error: BaseException) -> None:
    """Tell the loop's exception handler."""
    task.get_loop().call_exception_handler(
        {"message": "a task of the peer connections failed", "exception": error, "task": task}
    )
