"""
Configurations and their changes: one at a time (thesis §4.1-4.2) or several through a joint configuration (§6, thesis
§4.3).

    simple     {1,2,3} --add 4--> {1,2,3,4}          majorities before and after overlap: one step is enough
    joint      {1,2,3} --add 4, remove 1--> {2,3,4} and outgoing {1,2,3} --leave--> {2,3,4}
    demotion   voter 3 becomes a learner: while joint it waits in learners_next, for it still votes outgoing

A change is an entry; it counts from when it is *applied*, on each member for itself. That is safe because the leader
lets only one change be unapplied at a time, and a member does not campaign while it has a committed one to apply.

Invariants:
* a configuration has a voter; no member is voter and learner; learners_next is within voters_outgoing.
* by a simple change at most one voter comes or goes.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastkv.raft import election, replication, transfer
from fastkv.raft.codec import DecodeError, decode_conf_change, encode_conf_change
from fastkv.raft.errors import ConfChangeRefused, InvariantError
from fastkv.raft.messages import (
    NO_MEMBER,
    Change,
    ChangeKind,
    ConfChange,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Snapshot,
    Transition,
    batch_commands,
    make_batch,
)
from fastkv.raft.progress import Progress
from fastkv.raft.state import State


# -- configurations, pure -------------------------------------------------------------------------------------
def changed(conf: ConfState, change: ConfChange) -> ConfState:
    """The configuration after the change; ConfChangeRefused if it makes no sense where `conf` stands."""
    if not change.changes:
        return leave_joint(conf)
    if conf.voters_outgoing:
        raise ConfChangeRefused("a joint configuration must be left first")
    voters, learners, learners_next = set(conf.voters), set(conf.learners), set[int]()
    for step in change.changes:
        _apply(step, conf, voters, learners, learners_next)
    if not voters:
        raise ConfChangeRefused("the last voter would be removed")
    moved = voters.symmetric_difference(conf.voters)
    if change.transition is Transition.AUTO and len(moved) <= 1:
        # Without an outgoing half a demoted voter is a learner at once.
        return ConfState(tuple(sorted(voters)), tuple(sorted(learners | learners_next)))
    return ConfState(
        tuple(sorted(voters)),
        tuple(sorted(learners)),
        conf.voters,
        tuple(sorted(learners_next)),
        change.transition is not Transition.JOINT_EXPLICIT,
    )


def _apply(step: Change, conf: ConfState, voters: set[int], learners: set[int], learners_next: set[int]) -> None:
    member = step.member
    if member == NO_MEMBER:
        raise ConfChangeRefused("0 is nobody's id")
    if step.kind is ChangeKind.ADD_LEARNER and (member in learners or member in learners_next):
        return
    for ids in (voters, learners, learners_next):
        ids.discard(member)
    if step.kind is ChangeKind.ADD_VOTER:
        voters.add(member)
    elif step.kind is ChangeKind.ADD_LEARNER:
        (learners_next if member in conf.voters else learners).add(member)


def leave_joint(conf: ConfState) -> ConfState:
    """Only the incoming half is left; who waited to be a learner is one."""
    if not conf.voters_outgoing:
        raise ConfChangeRefused("the configuration is not a joint one")
    return ConfState(conf.voters, tuple(sorted({*conf.learners, *conf.learners_next})))


def members(conf: ConfState) -> set[int]:
    return {*conf.voters, *conf.learners, *conf.voters_outgoing, *conf.learners_next}


# -- proposing ------------------------------------------------------------------------------------------------
def check_proposal(state: State, change: ConfChange) -> None:
    """Leader: whether the change may enter the log now. ConfChangeRefused."""
    if state.pending_conf_index > state.log.applied:
        raise ConfChangeRefused(
            f"a change of membership may be unapplied at {state.pending_conf_index}; {state.log.applied} is applied"
        )
    changed(state.conf, change)


def append_proposal(state: State, kind: EntryKind, data: bytes) -> None:
    """Leader: put a proposal into the log. A change that is refused becomes an entry without effect, by which whoever
    proposed it learns; the answer would get lost where the log does not."""
    if kind is EntryKind.CONF_CHANGE:
        try:
            check_proposal(state, decode_conf_change(batch_commands(data)))
        except (ConfChangeRefused, DecodeError):
            kind, data = EntryKind.EMPTY, data[: len(data) - len(batch_commands(data))]
        else:
            state.pending_conf_index = state.log.last_index + 1
    replication.append_entry(state, kind, data)


def encode(own: int, sequence: int, change: ConfChange) -> bytes:
    """The data of a CONF_CHANGE entry."""
    return make_batch(own, sequence, encode_conf_change(change))


def bootstrap(changes: Sequence[ConfChange]) -> tuple[HardState, list[Entry]]:
    """What the disk of every first member of a new group begins with: its members join one after another, as in etcd.

    The first configuration is thus in the log, and whoever joins later finds it there. All first members must be given
    the same changes in the same order; they start with no configuration and applied 0.
    """
    entries = [
        Entry(1, index, EntryKind.CONF_CHANGE, encode(NO_MEMBER, 0, change)) for index, change in enumerate(changes, 1)
    ]
    return HardState(1, NO_MEMBER, len(entries)), entries


# -- applying -------------------------------------------------------------------------------------------------
def apply(state: State, entry: Entry, *, refuse: bool) -> ConfState:
    """A CONF_CHANGE entry is applied; the configuration from here on."""
    if entry.kind is not EntryKind.CONF_CHANGE or entry.index <= state.log.applied:
        raise InvariantError(
            f"entry {entry.index} ({entry.kind.name}) is no unapplied change; applied: {state.log.applied}"
        )
    overtaken_to, overtaken = state.overtaken
    late = entry.index <= overtaken_to
    before = overtaken if late else state.conf
    if refuse:
        return before
    try:
        conf = changed(before, decode_conf_change(batch_commands(entry.data)))
    except (ConfChangeRefused, DecodeError) as error:
        raise InvariantError(f"the change at {entry.index} does not fit {before}: {error}") from error
    if late:
        state.overtaken = (overtaken_to, conf)
    else:
        switch(state, conf)
    return conf


def install(state: State, snapshot: Snapshot) -> None:
    """A snapshot's configuration is in force as soon as it is taken, though entries before it may still be applied."""
    state.overtaken = (snapshot.index, state.conf)
    switch(state, snapshot.conf)


def switch(state: State, conf: ConfState) -> None:
    """From now on this is the configuration."""
    state.conf = conf
    old = state.progress
    learners = {*conf.learners, *conf.learners_next}
    state.progress = {}
    for member in sorted(members(conf)):
        # A new member is taken to be active, or CheckQuorum might unseat a leader that had no time to hear from it.
        progress = old.get(member) or Progress(max(state.log.last_index, 1))
        progress.learner = member in learners and not state.is_voter(member)
        state.progress[member] = progress
    if not state.is_leader:
        return
    if not state.is_voter(state.id):
        _step_down(state)
        return
    replication.maybe_commit(state)  # A smaller quorum may hold more.
    if state.transferee != NO_MEMBER and not state.is_voter(state.transferee):
        state.transferee = NO_MEMBER


def _step_down(state: State) -> None:
    """The leader is no voter any more (thesis §4.2.2).

    Its last acts: to say what is committed, which the others may not find out without it (of two members, one is left),
    and to name a successor.
    """
    replication.flush(state)
    transfer.hand_over(state)
    election.become_follower(state, state.term, NO_MEMBER)


def leave_if_due(state: State) -> None:
    """Leader: a joint configuration that is to be left automatically is left once it is applied."""
    if (
        state.is_leader
        and state.conf.auto_leave
        and state.log.applied >= state.pending_conf_index
        and state.transferee == NO_MEMBER
    ):
        append_proposal(state, EntryKind.CONF_CHANGE, encode(NO_MEMBER, 0, ConfChange()))
