"""
The life of an open store: what it is, how it is looked after, and how it ends.

    open  --close-->        closed    every method raises ClosedError
    open  --fork, child-->  forked    every method raises ForkedError; the parent's handle is as before
    open  --exit-->         closed    the interpreter closes what is still open

Invariants:
* once a handle has ended, `_engine` and `_lessor` are stand-ins that raise: no check on the way of a call that works.
* a forked child never uses, closes or frees the engine of its parent: it has the memory but not the threads, and shares
  the files.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Self, cast
from warnings import warn

from fastkv import backup as backups
from fastkv import messages
from fastkv.engine import COMPACTION, Engine
from fastkv.errors import ClosedError, Error, ForkedError
from fastkv.keys import as_revision, raise_for
from fastkv.lease import Lessor
from fastkv.types import Stats

COMPACT_STEP = 1000  # revisions a step: some 100 us in which writers wait
COMPACT_PAUSE_S = 0.001  # between steps: for the writers, or for a checkpoint that has to end first

_open_handles: weakref.WeakSet[Handle] = weakref.WeakSet()
_parents: list[object] = []  # engines of the parent process: never to be touched, nor to be collected


class Handle:
    """What every store has, whatever is kept in it."""

    _engine: Engine
    _lessor: Lessor

    def __init__(self, engine: Engine, path: str, readonly: bool) -> None:
        self._engine = engine
        self._engine_name = engine.name
        self._path = path
        self._readonly = readonly
        self._ended: Error | None = None
        self._ending = threading.Lock()
        _open_handles.add(self)

    # -- what it is -------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Where the store is, as given to `open`."""
        return self._path

    @property
    def engine(self) -> str:
        """Which engine runs it: "native" or "python"."""
        return self._engine_name

    @property
    def readonly(self) -> bool:
        return self._readonly

    @property
    def closed(self) -> bool:
        """True after `close`, and in a forked child."""
        return self._ended is not None

    @property
    def revision(self) -> int:
        """The newest revision; 1 in an empty store."""
        return self._engine.revision

    @property
    def compact_revision(self) -> int:
        """The oldest revision that can still be read; -1 if nothing was ever compacted."""
        return self._engine.compact_revision

    # -- maintenance ------------------------------------------------------------------------------------------

    def compact(self, rev: int) -> None:
        """Forget what was superseded at or before revision `rev`; reading below it raises CompactedError from then on.

        Works in slices: neither readers nor writers wait for it. Raises CompactedError if it was done before,
        FutureRevisionError.
        """
        ((code, _),) = self._engine.commit([(COMPACTION, messages.compaction_request(as_revision(rev)))])
        raise_for(code)
        while not self._engine.compact_step(COMPACT_STEP):
            time.sleep(COMPACT_PAUSE_S)

    def backup(
        self, target: BinaryIO | str | os.PathLike[str], *, progress: Callable[[int, int], object] | None = None
    ) -> int:
        """Copy the whole store, history and leases included, to a stream or file; returns its size (bytes).
        `fastkv.restore` reads it.

        target: a stream opened for writing bytes, or the path of a file, which appears (or is replaced) when it is
        complete.
        progress: called as progress(bytes_done, bytes_total) after each MiB.

        The copy is of one moment, and reads and writes go on meanwhile. UnsupportedError for a store in memory.
        """
        return backups.backup(self._engine, target, progress)

    def check(self) -> list[str]:
        """Walk and verify everything; returns a sentence for each thing that is wrong: [] when all is well."""
        return self._engine.check()

    def stats(self) -> Stats:
        """Sizes and counters."""
        numbers = self._engine.stats()
        return Stats(self._engine_name, *(numbers[name] for name in Stats._fields[1:]))

    def sync(self) -> None:
        """Make every write so far durable; of use with `sync=False`."""
        self._engine.sync()

    # -- life -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Write out what is left, release the directory and end all watches. May be called again; other methods raise
        ClosedError."""
        with self._ending:
            if self._ended is not None:
                return
            self._lessor.stop()
            try:
                self._engine.close()
            finally:
                self._end(ClosedError(f"the store {self._path!r} is closed"))

    def _end(self, reason: Error) -> None:
        """From now on every use raises `reason`."""
        gone = cast(Any, _Gone(reason))
        self._ended = reason
        self._engine = self._lessor = gone
        for bound in ("get", "_put"):
            self.__dict__.pop(bound, None)
        _open_handles.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_ended", self) is None:
            warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __reduce__(self) -> tuple[Callable[[str, str], object], tuple[str, str]]:
        if self._path == ":memory:":
            raise TypeError("a store in memory cannot be pickled: there is nothing to open again")
        return _reopen, (os.path.abspath(self._path), self._engine_name)

    def __repr__(self) -> str:
        if self._ended is not None:
            return f"<fastkv.DB path={self._path!r} engine={self._engine_name} closed>"
        state = "readonly" if self._readonly else "open"
        numbers = self._engine.stats()
        return (
            f"<fastkv.DB path={self._path!r} revision={numbers['revision']} keys={numbers['keys']} "
            f"engine={self._engine_name} {state}>"
        )


class _Gone:
    """Stands where an engine was: raises, whatever is asked of it."""

    def __init__(self, reason: Error) -> None:
        self.__dict__["reason"] = reason

    def __getattr__(self, name: str) -> NoReturn:
        reason: Error = self.__dict__["reason"]
        raise type(reason)(*reason.args)  # a new one each time: tracebacks and threads do not mix


def _reopen(path: str, engine: str) -> object:
    from fastkv.store import open  # which builds on this module

    return open(path, readonly=True, engine=engine)  # type: ignore[arg-type]


def _after_fork_in_child() -> None:
    """The child has the parent's memory but none of its threads, and must not touch its files."""
    for handle in list(_open_handles):
        _parents.extend((handle._engine, handle._lessor))
        handle._ending = threading.Lock()
        handle._end(
            ForkedError(f"the store {handle.path!r} was opened by the parent process; open it here with readonly=True")
        )


def _close_all() -> None:
    with ExitStack() as closing:  # all of them, whatever one raises
        for handle in list(_open_handles):
            closing.callback(handle.close)


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_close_all)
