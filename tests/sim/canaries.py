"""
Deliberately broken variants: each one has a mistake that a Raft could have, and the simulator must notice it.

A canary patches the core (or the driver, or the disk) for the time of a run; everything else is as in a correct run.
`caught_by` lists the guarantees that may be reported; a canary that is caught by another one is a failure of its test
too, for then nobody knows what the checkers check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from fastkv.raft import HardState, Kind, Message, Role, election, forwarding, membership, quorum, reads, replication
from fastkv.raft import core as raft_core
from fastkv.raft.forwarding import Proposals
from fastkv.raft.log import RaftLog
from fastkv.raft.messages import NO_MEMBER
from fastkv.raft.state import State
from sim.host import Host
from sim.model_disk import ModelDisk

Patch = tuple[Any, str, Any]


@dataclass(frozen=True)
class Canary:
    name: str
    mistake: str
    caught_by: tuple[str, ...]
    patches: Callable[[], list[Patch]]
    options: dict[str, Any] = field(default_factory=dict)
    seeds_max: int = 100

    @contextmanager
    def sings(self) -> Iterator[None]:
        """While this lasts, every simulation has the mistake."""
        with ExitStack() as stack:
            for target, name, broken in self.patches():
                stack.enter_context(mock.patch.object(target, name, broken))
            # The table of handlers holds functions, so a patched module would not be noticed by it.
            for role, handlers in raft_core._HANDLERS.items():
                patched = {
                    kind: getattr(_home(handler), handler.__name__, handler) for kind, handler in handlers.items()
                }
                stack.enter_context(mock.patch.dict(raft_core._HANDLERS, {role: patched}))
            yield


def _home(function: Any) -> Any:
    """The module that a handler was defined in, which is where it is patched."""
    return {module.__name__: module for module in (election, forwarding, reads, replication, raft_core)}.get(
        function.__module__
    )


# -- promises before their time -------------------------------------------------------------------------------
def _ack_before_persist() -> list[Patch]:
    sync = Host._sync

    def broken(host: Host) -> None:
        for ready in host.unsynced:
            host._send(ready.messages_after_persist)
            ready.messages_after_persist.clear()
        sync(host)

    return [(Host, "_sync", broken)]


def _vote_before_persist() -> list[Patch]:
    send = State.send

    def broken(state: State, message: Message) -> None:
        if message.kind is Kind.VOTE_RESPONSE:
            state.messages.append(message)
        else:
            send(state, message)

    return [(State, "send", broken)]


def _own_entries_count_at_once() -> list[Patch]:
    def broken(state: State) -> int:
        def match(member: int) -> int:
            return state.log.last_index if member == state.id else state.progress[member].match

        return quorum.agreed(state.conf.voters, state.conf.voters_outgoing, match)

    return [(State, "agreed_match", broken)]


def _sync_lies() -> list[Patch]:
    lose_power = ModelDisk.lose_power

    def broken(disk: ModelDisk) -> None:
        lose_power(disk)
        log = disk.durable
        for _ in range(3):
            if log._entries and log.last_index() > log.newest.index:
                log._entries.pop()
        log.hard_state = HardState(
            log.hard_state.term, log.hard_state.vote, min(log.hard_state.commit, log.last_index())
        )

    return [(ModelDisk, "lose_power", broken)]


def _vote_forgotten() -> list[Patch]:
    recover = ModelDisk.recover

    def broken(disk: ModelDisk) -> None:
        recover(disk)
        disk.durable.hard_state = disk.durable.hard_state._replace(vote=NO_MEMBER)

    return [(ModelDisk, "recover", broken)]


# -- elections ------------------------------------------------------------------------------------------------
def _two_votes_a_term() -> list[Patch]:
    handle_vote = election.handle_vote

    def broken(state: State, message: Message) -> None:
        state.vote = NO_MEMBER if state.role is Role.FOLLOWER and state.leader == NO_MEMBER else state.vote
        handle_vote(state, message)

    return [(election, "handle_vote", broken)]


def _any_log_may_win() -> list[Patch]:
    return [(RaftLog, "up_to_date", lambda log, index, term: True)]


def _old_terms_accepted() -> list[Patch]:
    admit = election.admit

    def broken(state: State, message: Message) -> bool:
        if message.kind is Kind.APPEND and message.term < state.term and state.role is Role.FOLLOWER:
            return True
        return admit(state, message)

    return [(election, "admit", broken)]


# -- the log --------------------------------------------------------------------------------------------------
def _learners_count() -> list[Patch]:
    def broken(state: State) -> int:
        everybody = {*state.conf.voters, *state.conf.learners}
        return quorum.agreed(everybody, state.conf.voters_outgoing, lambda member: state.progress[member].match)

    return [(State, "agreed_match", broken)]


def _figure_8() -> list[Patch]:
    def broken(state: State) -> bool:
        index = state.agreed_match()
        if index <= state.log.commit:
            return False
        state.uncommitted_bytes = 0
        state.log.commit_to(index)
        return True

    return [(replication, "maybe_commit", broken)]


def _late_append_cuts() -> list[Patch]:
    def broken(log: RaftLog, index: int, term: int, entries: Any) -> bool:
        if not log.matches(index, term):
            return False
        if entries:
            log.append(entries)
        return True

    return [(RaftLog, "try_append", broken)]


def _heartbeat_commits_anything() -> list[Patch]:
    def broken(state: State) -> None:
        for member in state.progress:
            if member != state.id:
                commit, round = state.log.commit, state.reads.round
                state.send(Message(Kind.HEARTBEAT, member, state.id, state.term, commit=commit, context=round))

    commit_to = RaftLog.commit_to
    return [
        (reads, "broadcast_heartbeat", broken),
        (RaftLog, "commit_to", lambda log, index: commit_to(log, min(index, log.last_index))),
    ]


def _uncommitted_applied() -> list[Patch]:
    def take(log: RaftLog, max_bytes: int) -> Any:
        entries = log.entries(log.applying + 1, max_bytes, log.stable + 1)
        log.applying = entries[-1].index
        return entries

    return [
        (RaftLog, "has_committed", lambda log: log.applying < log.stable and log.pending_snapshot is None),
        (RaftLog, "take_committed", take),
    ]


def _nothing_is_repeated() -> list[Patch]:
    handle = replication.handle_heartbeat_response

    def broken(state: State, message: Message) -> None:
        progress = state.progress.get(message.sender)
        probe_sent = progress.probe_sent if progress is not None else False
        handle(state, message)
        if progress is not None:
            progress.ping, progress.probe_sent = False, probe_sent

    return [(replication, "handle_heartbeat_response", broken)]


# -- proposals and reads --------------------------------------------------------------------------------------
def _repeated_batches_appended() -> list[Patch]:
    handle_propose = forwarding.handle_propose

    def broken(state: State, message: Message, append: Any) -> None:
        state.proposals.taken[message.sender] = (message.session, message.index)
        handle_propose(state, message, append)

    return [(forwarding, "handle_propose", broken)]


def _every_refusal_answered() -> list[Patch]:
    handle = forwarding.handle_propose_response

    def broken(state: State, message: Message) -> None:
        state.proposals.rewound = False
        handle(state, message)

    # A window keeps the multiplying small even then; without it every refusal sends the whole queue.
    return [(forwarding, "handle_propose_response", broken), (forwarding, "WINDOW", 1 << 30)]


def _lost_too_early() -> list[Patch]:
    new_term = Proposals.new_term

    def broken(proposals: Proposals) -> None:
        new_term(proposals)
        proposals.lost += proposals.open
        proposals.open.clear()

    return [(Proposals, "new_term", broken)]


def _reads_without_a_round() -> list[Patch]:
    release = reads.release

    def broken(state: State) -> None:
        for progress in state.progress.values():
            progress.read_round = state.reads.round
        release(state)

    return [(reads, "release", broken)]


def _any_heartbeat_confirms_reads() -> list[Patch]:
    handle = replication.handle_heartbeat_response

    def broken(state: State, message: Message) -> None:
        handle(state, message._replace(context=state.reads.round))

    return [(replication, "handle_heartbeat_response", broken)]


def _reads_before_the_own_term() -> list[Patch]:
    has_work = reads.has_work

    def broken(state: State) -> bool:
        return bool(state.reads.waiting or state.reads.questions) if state.is_leader else has_work(state)

    return [(reads, "has_work", broken)]


# -- membership -----------------------------------------------------------------------------------------------
def _two_changes_at_once() -> list[Patch]:
    def broken(state: State, change: Any) -> None:
        membership.changed(state.conf, change)

    return [(membership, "check_proposal", broken)]


def _joint_asks_only_the_new_half() -> list[Patch]:
    agreed, decided = quorum.agreed, quorum.decided
    return [
        (quorum, "agreed", lambda voters, outgoing, value: agreed(voters, (), value)),
        (quorum, "decided", lambda voters, outgoing, votes: decided(voters, (), votes)),
    ]


def _refusals_say_nothing() -> list[Patch]:
    return [(election, "_learn_commit", lambda state, message: None)]


_ELECTIONS = {"pre_vote": False, "check_quorum": False, "election_ticks": 4}
_RESTLESS = ("crash", "partition", "jump", "reorder", "duplicate", "delay")

CANARIES = {
    canary.name: canary
    for canary in (
        Canary("ack-before-persist", "what waits for the disk is sent at once", ("persisted_before_sent",),
               _ack_before_persist),
        Canary("vote-before-persist", "a vote is sent before it is on disk", ("persisted_before_sent",),
               _vote_before_persist),
        Canary("own-entries-count-at-once", "the leader counts itself before its disk has the entry",
               ("committed_is_durable",), _own_entries_count_at_once,
               {"faults": ("slowdisk", "partition")}),
        Canary("sync-lies", "the disk forgets what was synced",
               ("committed_is_durable", "terms_never_fall", "core_invariant", "leader_completeness",
                "commit_never_falls", "persisted_before_sent", "log_matching"), _sync_lies, {"faults": ("crash",)}),
        Canary("vote-forgotten", "a member that restarts does not know whom it voted for", ("one_vote_a_term",),
               _vote_forgotten, {"faults": ("crash", "kill", "jump"), "config": _ELECTIONS, "fault_gap_ticks": 3}, 300),
        Canary("two-votes-a-term", "a vote is given to whoever asks", ("one_vote_a_term", "one_leader_a_term"),
               _two_votes_a_term, {"faults": _RESTLESS, "config": _ELECTIONS}),
        Canary("any-log-may-win", "votes do not look at the candidate's log (§5.4.1)",
               ("leader_completeness", "commit_never_falls", "core_invariant"), _any_log_may_win,
               {"faults": _RESTLESS, "config": _ELECTIONS}),
        Canary("old-terms-accepted", "a follower takes entries from a deposed leader (§5.1)",
               ("log_matching", "commit_never_falls", "core_invariant", "committed_is_durable",
                "persisted_before_sent", "leader_completeness"), _old_terms_accepted,
               {"faults": _RESTLESS, "config": _ELECTIONS}),
        Canary("learners-count", "learners are part of the quorum", ("committed_is_durable",), _learners_count,
               {"faults": ("partition", "loss", "slowdisk"), "learners": 2, "voters": 3}),
        Canary("figure-8", "entries of an older term are committed by counting (§5.4.2)",
               ("leader_completeness", "commit_never_falls", "core_invariant"), _figure_8,
               {"faults": ("kill", "delay", "partition", "burst"), "voters": 3, "learners": 0, "loop_lag": 40,
                "config": _ELECTIONS | {"max_message_bytes": 0, "max_inflight_messages": 1, "max_uncommitted_bytes": 0},
                "fault_gap_ticks": 4, "restart_ticks": 4, "chaos_ticks": 400}, 150),
        Canary("late-append-cuts", "an APPEND that comes late cuts off what came after it (§5.3)",
               ("committed_is_durable", "core_invariant", "commit_never_falls", "persisted_before_sent",
                "leader_completeness"), _late_append_cuts, {"faults": ("reorder", "duplicate", "delay", "slowdisk")}),
        Canary("heartbeat-commits-anything", "a heartbeat commits entries that may not match the leader's",
               ("commit_never_falls", "core_invariant", "state_machine_safety"), _heartbeat_commits_anything,
               {"faults": ("partition", "oneway", "jump", "loss", "reorder", "delay"), "config": _ELECTIONS}),
        Canary("uncommitted-applied", "entries are applied as soon as they are on disk", ("state_machine_safety",),
               _uncommitted_applied),
        Canary("nothing-is-repeated", "the leader does not repeat what got lost", ("liveness",), _nothing_is_repeated,
               {"faults": ("loss", "partition"), "config": {"max_inflight_messages": 512}}),
        Canary("repeated-batches-appended", "a forwarded batch that comes twice is appended twice", ("applied_once",),
               _repeated_batches_appended, {"faults": ("loss", "duplicate", "delay", "reorder")}),
        Canary("every-refusal-answered", "each refusal of a forwarded batch has all of them sent again",
               ("bounded_chatter",), _every_refusal_answered,
               {"faults": ("burst", "partition", "pause"), "config": {"max_message_bytes": 0}}, 300),
        Canary("lost-too-early", "proposals are called lost as soon as the term changes",
               ("lost_means_lost", "applied_once"), _lost_too_early, {"faults": _RESTLESS, "config": _ELECTIONS}),
        Canary("reads-without-a-round", "the leader answers reads without asking a quorum (thesis §6.4)",
               ("linearizable",), _reads_without_a_round,
               {"faults": ("partition", "oneway", "pause", "skew"), "config": {"check_quorum": False}, "clients": 4}),
        Canary("any-heartbeat-confirms-reads", "an answer to an older heartbeat confirms a read",
               ("linearizable",), _any_heartbeat_confirms_reads,
               {"faults": ("delay",), "config": {"check_quorum": False, "election_ticks": 4, "heartbeat_ticks": 1,
                                                 "pre_vote": False},
                "clients": 4, "fault_gap_ticks": 8, "chaos_ticks": 300}, 300),
        Canary("reads-before-the-own-term", "a new leader answers reads before its no-op is committed (§8)",
               ("linearizable",), _reads_before_the_own_term,
               {"faults": ("crash", "jump", "partition", "loss", "delay"), "config": _ELECTIONS, "clients": 4}, 300),
        Canary("two-changes-at-once", "a change of membership is taken before the last one is applied (thesis §4.1)",
               ("one_change_at_a_time", "core_invariant"), _two_changes_at_once,
               {"faults": ("membership", "slowapply", "delay"), "fault_gap_ticks": 2}),
        Canary("joint-asks-only-the-new-half", "while joint, the new majority decides alone (§6)",
               ("committed_is_durable", "leader_completeness", "commit_never_falls", "one_leader_a_term",
                "core_invariant"), _joint_asks_only_the_new_half,
               {"faults": ("membership", "partition", "slowdisk", "loss"), "fault_gap_ticks": 2}, 300),
        Canary("refusals-say-nothing", "who is refused a vote does not learn that its configuration was left",
               ("liveness",), _refusals_say_nothing,
               {"faults": ("membership", "oneway", "burst", "loss"), "voters": 1, "learners": 0, "fault_gap_ticks": 2,
                "chaos_ticks": 100}, 600),
    )
}  # fmt: skip
