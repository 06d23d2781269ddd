"""
A replica of either engine answers as one of the other: the same entries, hard states, answers, snapshots and refusals
over random lives, the same state after a crash, and each opens what the other has written, with Raft and without.

A life: a log that is appended to, cut, committed, applied; changes of membership; times alone, when commits come
directly; checkpoints, snapshots of a leader that is further on (now and then damaged); closing, dying (the directory as
it is, opened again), changing directories with the other engine, a while without Raft. A failure prints its seed and
the last steps; FASTKV_SEED=N replays it, FASTKV_STEPS=N makes a life longer.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import pytest

from fastkv import engine as protocol
from fastkv.errors import Code, Error, FormatError
from fastkv.python.payloads import CONF_CHANGE, EMPTY, NORMAL
from fastkv.python.wire import varint
from fastkv.raft.messages import make_batch
from support.engines import load_engine
from support.generate import Calls
from support.mirror import MirrorEngine

SEED = int(os.environ.get("FASTKV_SEED") or SystemRandom().randrange(1 << 32))
STEPS = int(os.environ.get("FASTKV_STEPS") or 250)
RUNS = 16
SHOWN = 12
KEPT = (1, 2, 3)  # seeds that are always run
OPTIONS = protocol.Options(
    sync=False,
    checkpoint_bytes=1 << 40,
    snapshot_count=1 << 40,
    segment_bytes_first=4096,
    segment_bytes_max=16384,
    replicated=True,
    snapshot_catchup_entries=20,
)
CLUSTER, SELF = 5, 7
EVERYTHING = 1 << 60

Entry = tuple[int, int, int, bytes]


def members(index: int) -> bytes:
    return b"members as of %d" % index


def follow(engine: Any, entries: list[Entry]) -> None:
    """Apply them; after a change of membership the node says what came of it."""
    for entry in entries:
        engine.apply([entry], members(entry[1]) if entry[2] == CONF_CHANGE else None)


class Life:
    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.rng = Random(seed)
        self.calls = Calls(seed)
        self.steps: list[str] = []
        self.watchers: list[int] = []
        self.both: Any = MirrorEngine(load_engine("native"), load_engine("python"), path / "pair", OPTIONS)
        self.identify()
        self.both.set_membership(b"first")

    # -- what is asked for ------------------------------------------------------------------------------------

    def identify(self) -> None:
        self.both.set_identity(CLUSTER, SELF, 0)

    def log(self) -> tuple[int, int, tuple[int, int, int]]:
        """(applied index, last index, hard state), and all else that a node may look at."""
        seen = self.both._both(
            "state",
            lambda engine: (
                engine.applied_index,
                engine.log_last,
                engine.log_state(),
                engine.log_term(engine.log_last),
                engine.membership,
                engine.revision,
                engine.compact_revision,
                engine.hash(),
            ),
        )
        return seen[:3]  # type: ignore[no-any-return]

    def compare_all(self) -> None:
        applied, last, _ = self.log()
        assert self.both.check() == []
        self.both.stats()
        self.both.read_meta()
        self.both.alarms()
        for lease, _, _ in self.both.leases():
            self.both.lease_keys(lease)
        for revision in (0, self.rng.randint(1, self.both.revision)):
            self.attempt("hash_kv", revision)
        first = max(engine.log_first for engine in self.both._engines)
        assert first <= applied + 1
        self.both.log_entries(first, last + 1, EVERYTHING)
        if first <= last:
            self.both.log_entries(self.rng.randint(first, last), last + 1, self.rng.choice((0, 1, 100, 1000)))
        for watcher in self.watchers:
            self.both.watch_progress(watcher)
            self.both.watch_take(watcher, 1 << 20)

    def attempt(self, name: str, *arguments: Any) -> Any:
        """What both answer; None if both refuse."""
        try:
            return getattr(self.both, name)(*arguments)
        except Error as error:
            assert error.number != Code.POISONED
            return None

    # -- what happens -----------------------------------------------------------------------------------------

    STEPS = {
        "append": 30, "commit_more": 12, "apply": 25, "refused": 2, "sync": 4, "alone": 5, "direct": 14,
        "checkpoint": 5, "compact": 4, "expect": 4, "meta": 2, "membership": 1, "identity": 2, "watch": 3, "take": 5,
        "install": 3, "damaged": 1, "close": 2, "crash": 3, "swap": 2, "without_raft": 3, "readonly": 1,
    }  # fmt: skip

    def step(self) -> None:
        [name] = self.rng.choices(list(self.STEPS), list(self.STEPS.values()))
        self.steps.append(name)
        getattr(self, name)()
        self.log()
        if self.rng.randrange(15) == 0:
            self.compare_all()

    def note(self, what: object) -> None:
        self.steps[-1] += f" {what}"

    def batch(self, sequence: int) -> bytes:
        commands = [self.calls._command() for _ in range(self.rng.choice((0, 1, 1, 2)))]
        commands = [command for command in commands if not self.both.validate(*command)]
        encoded = b"".join(varint(tag) + varint(len(payload)) + payload for tag, payload in commands)
        return make_batch(self.rng.choice((SELF, SELF, 8)), sequence, encoded)

    def entries(self, first: int, term: int) -> list[Entry]:
        self.calls.requests.revision = self.both.revision
        made: list[Entry] = []
        for index in range(first, first + self.rng.randrange(5)):
            kind = self.rng.choice((NORMAL,) * 10 + (EMPTY, CONF_CHANGE))
            data = self.batch(index) if kind == NORMAL else self.rng.choice((b"", b"x", bytes(20)))
            made.append((term, index, kind, data))
        return made

    def append(self) -> None:
        applied, last, (term, vote, commit) = self.log()
        first = last + 1
        settled = max(applied, commit)
        if last > settled and self.rng.randrange(4) == 0:
            first = self.rng.randint(settled + 1, last)
        term += self.rng.randrange(5) == 0
        term = max(term, 1, self.both.log_term(first - 1))
        entries = self.entries(first, term)
        state = None
        if self.rng.randrange(2) or not entries:
            state = term, self.rng.choice((vote, SELF, 0)), self.rng.randint(commit, max(commit, first - 1))
        alone = self.rng.randrange(8) == 0
        self.note(([entry[:3] for entry in entries], state, alone))
        self.attempt("log_append", entries, state, alone)

    def commit_more(self) -> None:
        _, last, (term, vote, commit) = self.log()
        self.attempt("log_append", [], (term, vote, self.rng.randint(commit, last)))

    def apply(self) -> None:
        applied, _, (_, _, commit) = self.log()
        if applied == commit:
            return
        high = self.rng.randint(applied + 1, commit)
        for entry in self.both.log_entries(applied + 1, high + 1, EVERYTHING):
            self.attempt("apply", [entry], members(entry[1]) if entry[2] == CONF_CHANGE else None)

    def refused(self) -> None:
        _, last, (term, _, _) = self.log()
        bad = self.rng.choice((b"", b"short", make_batch(1, 1, b"\x63\x01x"), make_batch(1, 1, b"\x04\x05x")))
        with pytest.raises(Error) as caught:
            self.both.log_append([(max(term, 1), last + 1, NORMAL, bad)])
        assert caught.value.number in (Code.MALFORMED, Code.READ_ONLY)

    def sync(self) -> None:
        self.both.log_sync()

    def alone(self) -> None:
        on = self.rng.randrange(3) > 0
        self.note(on)
        self.attempt("set_alone", on)

    def direct(self) -> None:
        for _ in range(self.rng.randrange(4)):
            name, arguments = self.calls.next(self.both.revision)
            if name in ("put", "delete", "put_many", "commit"):
                self.attempt(name, *arguments)

    def checkpoint(self) -> None:
        self.both.checkpoint()

    def compact(self) -> None:
        self.both.compact_step(self.rng.choice((1, 10, 1000)))

    def expect(self) -> None:
        _, last, _ = self.log()
        for sequence in range(last + 1, last + 1 + self.rng.randrange(6)):
            self.both.expect(sequence)
        self.both.forget(self.rng.randint(1, last + 1))

    def meta(self) -> None:
        self.both.write_meta(self.rng.randbytes(self.rng.randrange(20)))

    def membership(self) -> None:
        self.both.set_membership(self.rng.randbytes(1 + self.rng.randrange(20)))

    def identity(self) -> None:
        """A later term: it counts while the member is alone, once it is said again that it is."""
        _, _, (term, _, _) = self.log()
        self.both.set_identity(CLUSTER, SELF, term + self.rng.randrange(3))
        self.alone()

    def watch(self) -> None:
        name, arguments = self.calls._watch()
        if (watcher := self.attempt(name, *arguments)) is not None:
            self.watchers.append(watcher)

    def take(self) -> None:
        if self.watchers:
            watcher = self.rng.choice(self.watchers)
            self.both.watch_take(watcher, self.rng.choice((1, 100, 1 << 20)))

    # -- snapshots --------------------------------------------------------------------------------------------

    def leader(self) -> Any:
        """Another member of the same history, a little further on."""
        path = self.path / "leader"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.rng.choice(self.both._paths), path)
        leader = load_engine(self.rng.choice(("native", "python")))(str(path), OPTIONS)
        term, vote, commit = leader.log_state()
        follow(leader, leader.log_entries(leader.applied_index + 1, commit + 1, EVERYTHING))
        entries = self.entries(leader.applied_index + 1, max(1, term + self.rng.randrange(2)))
        last = entries[-1][1] if entries else leader.applied_index
        leader.log_append(entries, (max(1, term + 1), vote, last))
        follow(leader, entries)
        return leader

    def snapshot(self) -> tuple[int, int, bytes]:
        leader = self.leader()
        index = leader.checkpoint()
        while (reader := leader.snapshot_open()) is None:
            pass
        assert (reader.index, reader.membership) == (index, leader.membership)
        data = reader.read(0, reader.size)
        term = reader.term
        reader.close()
        leader.close()
        return index, term, data

    def install(self, damage: bool = False) -> None:
        index, term, data = self.snapshot()
        self.note((index, term, len(data)))
        if index == 0:
            return
        if damage:
            at = self.rng.randrange(len(data))
            data = data[:at] + bytes((data[at] ^ 1 << self.rng.randrange(8),)) + data[at + 1 :]

        def receive(engine: Any) -> bytes:
            writer = engine.snapshot_receive(index, term)
            try:
                for at in range(0, len(data), 999):
                    writer.write(data[at : at + 999])
                writer.finish()
                engine.snapshot_install(writer)
            finally:
                writer.abort()
            return engine.membership  # type: ignore[no-any-return]

        try:
            self.both._both("install", receive)
        except Error as error:
            assert error.number in ((Code.CORRUPT,) if damage else (Code.NOT_FOUND, Code.READ_ONLY))
        else:
            assert not damage

    def damaged(self) -> None:
        self.install(damage=True)

    # -- opening again ----------------------------------------------------------------------------------------

    def _again(self, how: str) -> None:
        getattr(self.both, how)()
        self.watchers.clear()
        self.identify()
        self.compare_all()

    def close(self) -> None:
        self._again("reopen")

    def crash(self) -> None:
        self._again("crash")

    def swap(self) -> None:
        self._again("swap")

    def without_raft(self) -> None:
        """Either engine refuses either directory, or opens it: then it is written like that for a while."""
        self.both._both("close()", lambda engine: engine.close())
        options = OPTIONS._replace(replicated=False)
        opens = {self.opens(where, name, options) for where in self.both._paths for name in ("native", "python")}
        assert len(opens) == 1
        self.note("opens" if opens == {True} else "refused")
        if opens == {True}:
            self.both._options = options
            self.both._engines = self.both._open()
            for _ in range(self.rng.randrange(20)):
                name, arguments = self.calls.next(self.both.revision)
                if name in ("put", "delete", "put_many", "commit", "write_meta", "checkpoint"):
                    self.attempt(name, *arguments)
            self.compare_plain()
            self.both._options = OPTIONS
            self._again(self.rng.choice(("reopen", "crash", "swap")))
        else:
            self.both._engines = self.both._open()
            self.watchers.clear()
            self.identify()

    def opens(self, where: Path, name: str, options: protocol.Options) -> bool:
        try:
            load_engine(name)(str(where), options).close()
        except FormatError:
            return False
        return True

    def compare_plain(self) -> None:
        self.both.state()
        self.both.stats()
        self.both.hash()
        if self.rng.randrange(2):
            self.both.checkpoint()

    def readonly(self) -> None:
        """Any engine shows any directory's state up to the commit index, beside its owner."""
        options = OPTIONS._replace(replicated=False, readonly=True)
        shown = set()
        for where in self.both._paths:
            for name in ("native", "python"):
                engine = load_engine(name)(str(where), options)
                shown.add((engine.applied_index, engine.revision, engine.compact_revision, engine.hash()))
                engine.close()
        assert len(shown) == 1, shown


@pytest.mark.random
# Named by place, not by seed: every worker of a parallel run must collect the same names.
@pytest.mark.parametrize(
    "seed",
    [*KEPT, *(SEED + number for number in range(RUNS))],
    ids=[f"kept-{seed}" for seed in KEPT] + [f"new-{number}" for number in range(RUNS)],
)
def test_replicas_of_both_engines_live_alike(seed: int, tmp_path: Path) -> None:
    life = Life(tmp_path, seed)
    try:
        for _ in range(STEPS):
            life.step()
        life.compare_all()
    except (AssertionError, Error) as reason:
        steps = "\n  ".join(life.steps[-SHOWN:])
        replay = f"replay: FASTKV_SEED={seed} pytest tests/differential/test_replicas.py"
        pytest.fail(f"{reason!r}\nat step {len(life.steps)}:\n  {steps}\n{replay}")
