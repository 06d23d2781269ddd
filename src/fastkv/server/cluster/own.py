"""
The node's own commands as batches of Raft, and under the grpcio front end all commands.

    submit submit submit --take--> origin sequence command command command --> Raft --> answers of engine.apply

Invariants:
* Every proposal taken gets one answer or one error.
* A sequence is this member's once and for ever: the session (the count of its starts) is part of it.

Thread safety: the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fastkv.engine import ReplicatedEngine
from fastkv.errors import Code, Error
from fastkv.python import validate
from fastkv.python.wire import varint
from fastkv.raft import make_batch
from fastkv.server.committer import BATCH_BYTES_MAX, Outcome, Proposal

SESSION_SHIFT = 40  # bits of batches a session
OWN_SHIFT = 39  # the upper half of them are the node's own, the lower half the native front end's


class Sequences:
    def __init__(self, session: int) -> None:
        self.front = session << SESSION_SHIFT | 1  # where the native front end begins
        self._next = session << SESSION_SHIFT | 1 << OWN_SHIFT

    def next(self) -> int:
        self._next += 1
        return self._next


class Limits(NamedTuple):
    """What a command may be before it is proposed; 0 = no limit."""

    txn_ops: int
    request_bytes: int

    def refusal(self, tag: int, payload: bytes) -> Code:
        """Why the command never gets into the log, OK if it may: all that needs no store to be refused."""
        if 0 < self.request_bytes < len(payload):
            return Code.REQUEST_TOO_LARGE
        try:
            validate.parse(tag, payload, self.txn_ops)
        except Error as error:
            return error.number
        return Code.OK


class OwnCommands:
    """A committer.Writes and a proposals.Source. kick: a batch can be taken."""

    def __init__(
        self,
        engine: ReplicatedEngine,
        limits: Limits,
        member_id: int,
        sequences: Sequences,
        kick: Callable[[], None],
        answer: Callable[[Outcome], None],
        *,
        bound: bool = False,
    ) -> None:
        self.bound = bound
        self._engine = engine
        self._limits = limits
        self._member_id = member_id
        self._sequences = sequences
        self._kick = kick
        self._answer = answer
        self._waiting: list[Proposal] = []
        self._taken: dict[int, list[Proposal]] = {}
        self._stopped = False

    # -- Writes -----------------------------------------------------------------------------------------------
    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def start(self) -> None:
        """There is no thread to start."""

    def submit(self, proposal: Proposal) -> bool:
        if self._stopped:
            return False
        if code := self._limits.refusal(proposal.tag, proposal.payload):
            self._answer(Outcome([proposal], [(code, b"")], None, 0.0))
            return True
        self._waiting.append(proposal)
        self._kick()
        return True

    def stop(self, timeout_s: float | None = None) -> bool:
        """What was submitted is answered by the loop, or by the end of it."""
        self._stopped = True
        return True

    # -- Source -----------------------------------------------------------------------------------------------
    def take(self) -> tuple[int, bytes] | None:
        # Who has gone wants nothing done.
        waiting = [proposal for proposal in self._waiting if not proposal.answer.done()]
        if not waiting:
            self._waiting.clear()
            return None
        commands = bytearray()
        count = 0
        for proposal in waiting:
            commands += varint(proposal.tag) + varint(len(proposal.payload)) + proposal.payload
            count += 1
            if len(commands) >= BATCH_BYTES_MAX:
                break
        self._waiting = waiting[count:]
        sequence = self._sequences.next()
        self._taken[sequence] = waiting[:count]
        self._engine.expect(sequence)
        return sequence, make_batch(self._member_id, sequence, bytes(commands))

    def settle(self, sequence: int, error: Error) -> None:
        self._engine.forget(sequence)
        if (proposals := self._taken.pop(sequence, None)) is not None:
            self._answer(Outcome(proposals, [], error, 0.0))

    def applied(self, sequence: int, results: list[tuple[int, bytes]]) -> bool:
        """Whether the batch was one of these."""
        proposals = self._taken.pop(sequence, None)
        if proposals is None:
            return False
        self._answer(Outcome(proposals, results, None, 0.0))
        return True
