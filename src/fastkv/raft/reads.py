"""
ReadIndex: linearizable reads without a log entry (thesis §6.4), in batches, for every member's clients.

    read_index(a) read_index(b) |flush|  leader: note commit, start round 7: HEARTBEAT(context=7) to all
                                         a quorum has answered round 7 -> ReadState(a, commit), ReadState(b, commit)
                                         follower: READ_INDEX(number) to the leader, which does the same for it

The leader must have committed an entry of its own term (§8), else its commit index may be behind; until then reads
wait. Answers name their round, and a later round confirms all earlier ones. A question that got lost, or whose leader
fell, is asked again under a new number; numbers are never used twice (session, number), so that no late answer to an
old question is taken for a new one's. A leader that stays forgets nobody; one that falls asks its own reads of its
successor.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from fastkv.raft import quorum
from fastkv.raft.errors import TooManyReads
from fastkv.raft.messages import NO_MEMBER, Kind, Message, ReadState

if TYPE_CHECKING:
    from fastkv.raft.state import State


class _Question(NamedTuple):
    """From another member: answer it with these."""

    member: int
    session: int
    number: int


class _Round(NamedTuple):
    number: int
    commit: int
    contexts: list[object]
    questions: list[_Question]


class Reads:
    """What waits for an index. Every context is in exactly one of waiting, asked, rounds, states."""

    __slots__ = ("asked", "count", "elapsed", "number", "questions", "round", "rounds", "session", "states", "waiting")

    def __init__(self, session: int) -> None:
        self.session = session
        self.waiting: list[object] = []  # not asked yet
        self.asked: dict[int, list[object]] = {}  # follower: by the number of the question
        self.number = 0
        self.elapsed = 0  # ticks since the last question
        self.questions: list[_Question] = []  # leader: other members', not in a round yet
        self.rounds: deque[_Round] = deque()  # leader: unconfirmed
        self.round = 0  # leader: the last one; never reused, so heartbeats of an older one confirm nothing
        self.states: list[ReadState] = []  # for the next Ready
        self.count = 0  # contexts without an answer


def ask(state: State, context: object) -> None:
    reads = state.reads
    if reads.count >= state.config.max_pending_reads:
        raise TooManyReads(f"{reads.count} reads wait already")
    reads.count += 1
    reads.waiting.append(context)


def requeue(state: State) -> None:
    """The role changes: what was asked or confirmed half is asked again, oldest first."""
    reads = state.reads
    contexts = [context for round in reads.rounds for context in round.contexts]
    contexts += [context for asked in reads.asked.values() for context in asked]
    reads.waiting = contexts + reads.waiting
    reads.asked = {}
    reads.rounds.clear()
    reads.questions.clear()


def has_work(state: State) -> bool:
    """Whether flush would do something; cheap, because it is asked for every Ready."""
    reads = state.reads
    if state.is_leader:
        return bool(reads.waiting or reads.questions) and state.log.commit >= state.term_start
    return bool(reads.waiting) and state.leader != NO_MEMBER


def flush(state: State) -> None:
    """Ask for all that wait, with one question or one round."""
    if not has_work(state):
        return
    reads = state.reads
    if state.is_leader:
        reads.round += 1
        round = _Round(reads.round, state.log.commit, reads.waiting, reads.questions)
        reads.waiting, reads.questions = [], []
        reads.rounds.append(round)
        if not state.is_alone():
            broadcast_heartbeat(state)
        release(state)
    else:
        _question(state)


def broadcast_heartbeat(state: State) -> None:
    """Keep the followers quiet, and have them confirm the last round; a round does not wait for the next tick."""
    commit, number = state.log.commit, state.reads.round
    for member, progress in state.progress.items():
        if member != state.id:
            # Not beyond what the follower is known to hold: what else it has may not be what is committed.
            held = min(progress.match, commit)
            state.send(Message(Kind.HEARTBEAT, member, state.id, state.term, commit=held, context=number))


def release(state: State) -> None:
    """Answer the rounds that a quorum has confirmed."""
    reads = state.reads
    if not reads.rounds:
        return
    progress = state.progress
    progress[state.id].read_round = reads.round
    confirmed = quorum.agreed(state.conf.voters, state.conf.voters_outgoing, lambda member: progress[member].read_round)
    while reads.rounds and reads.rounds[0].number <= confirmed:
        round = reads.rounds.popleft()
        _answer(reads, round.contexts, round.commit)
        for member, session, number in round.questions:
            state.send(
                Message(
                    Kind.READ_INDEX_RESPONSE,
                    member,
                    state.id,
                    state.term,
                    round.commit,
                    context=number,
                    session=session,
                )
            )


def _answer(reads: Reads, contexts: list[object], index: int) -> None:
    reads.count -= len(contexts)
    reads.states += [ReadState(context, index) for context in contexts]


# -- follower -------------------------------------------------------------------------------------------------
def _question(state: State) -> None:
    reads = state.reads
    reads.number += 1
    reads.asked[reads.number] = reads.waiting
    reads.waiting = []
    reads.elapsed = 0
    state.send(
        Message(Kind.READ_INDEX, state.leader, state.id, state.term, context=reads.number, session=reads.session)
    )


def tick(state: State) -> None:
    """Follower: questions that have waited for half an election timeout are asked again, all in one."""
    reads = state.reads
    if not reads.asked:
        return
    reads.elapsed += 1
    if reads.elapsed >= max(1, state.config.election_ticks // 2):
        reads.elapsed = 0
        requeue(state)


def handle_read_index(state: State, message: Message) -> None:
    """Leader: a follower's clients want to read."""
    state.reads.questions.append(_Question(message.sender, message.session, message.context))


def handle_read_index_response(state: State, message: Message) -> None:
    reads = state.reads
    if message.session == reads.session:
        contexts = reads.asked.pop(message.context, None)
        if contexts is not None:
            _answer(reads, contexts, message.index)
