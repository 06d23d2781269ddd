"""
Terms, votes and roles (§5.2), asking before the term is raised (thesis §9.6), and the lease that keeps a member which
lost touch from disturbing the others (§6, thesis §4.2.3).

    FOLLOWER --timeout--> PRE_CANDIDATE --quorum would vote--> CANDIDATE --quorum votes--> LEADER
       ^                       |                                   |                         |
       +-----------------------+------- a leader, a higher term, or a lost vote -------------+-- no quorum heard

Invariants:
* term never decreases, vote changes at most once a term from nobody to somebody.
* a candidate's own vote counts when it is durable (see core.persisted).
"""

from __future__ import annotations

from fastkv.raft import forwarding, reads, replication
from fastkv.raft.errors import InvariantError
from fastkv.raft.log import Write
from fastkv.raft.messages import NO_MEMBER, EntryKind, Kind, Message, Role
from fastkv.raft.progress import Progress
from fastkv.raft.quorum import Outcome
from fastkv.raft.state import State

_FROM_LEADER = frozenset((Kind.APPEND, Kind.HEARTBEAT, Kind.SNAPSHOT))
_ASKS_FOR_VOTE = frozenset((Kind.VOTE, Kind.PRE_VOTE))
_ANSWERS_VOTE = frozenset((Kind.VOTE_RESPONSE, Kind.PRE_VOTE_RESPONSE))


# -- roles ----------------------------------------------------------------------------------------------------
def _reset(state: State, term: int) -> None:
    if term < state.term:
        raise InvariantError(f"term {state.term} would fall to {term}")
    if term != state.term:
        state.term = term
        state.vote = NO_MEMBER
        state.proposals.new_term()
    reads.requeue(state)
    state.leader = NO_MEMBER
    state.transferee = NO_MEMBER
    state.election_elapsed = 0
    state.heartbeat_elapsed = 0
    state.election_timeout = state.draw_timeout()
    state.votes = {}
    state.pending_conf_index = 0
    state.summoned = 0
    state.uncommitted_bytes = 0


def become_follower(state: State, term: int, leader: int) -> None:
    _reset(state, term)
    state.role = Role.FOLLOWER
    state.leader = leader


def _become_leader(state: State) -> None:
    _reset(state, state.term)
    state.role = Role.LEADER
    state.leader = state.id
    last = state.log.last_index
    state.progress = {member: Progress(last + 1, learner=old.learner) for member, old in state.progress.items()}
    state.progress[state.id].match = state.log.stable
    # There may be changes of membership among the entries taken over: none may follow before all are applied.
    state.pending_conf_index = last
    # The no-op by which the entries of earlier terms are committed (§5.4.2, §8).
    state.term_start = replication.append_entry(state, EntryKind.EMPTY, b"")


# -- campaigns ------------------------------------------------------------------------------------------------
def may_campaign(state: State) -> bool:
    """Only voters; not in the middle of a snapshot; not with a committed change of membership still to be applied, for
    the votes would be counted in the wrong configuration."""
    log = state.log
    return (
        not state.is_leader
        and state.is_voter(state.id)
        and log.pending_snapshot is None
        and (log.applied == log.commit or not _conf_change_waits(state))
    )


def _conf_change_waits(state: State) -> bool:
    log = state.log
    index = log.applied + 1
    while index <= log.commit:
        for entry in log.entries(index, state.config.max_committed_bytes, log.commit + 1):
            if entry.kind is EntryKind.CONF_CHANGE:
                return True
            index = entry.index + 1
    return False


def campaign(state: State, *, force: bool = False) -> None:
    """Stand for election; `force`: the old leader itself has asked for it, so neither pre-vote nor lease apply."""
    if not may_campaign(state):
        return
    if state.config.pre_vote and not force:
        _reset(state, state.term)
        state.role = Role.PRE_CANDIDATE
        _ask_for_votes(state, Kind.PRE_VOTE, state.term + 1, force=False)
        _count_vote(state, state.id, True)
    else:
        _become_candidate(state, force=force)


def _become_candidate(state: State, *, force: bool) -> None:
    _reset(state, state.term + 1)
    state.role = Role.CANDIDATE
    state.vote = state.id
    _ask_for_votes(state, Kind.VOTE, state.term, force=force)


def _ask_for_votes(state: State, kind: Kind, term: int, *, force: bool) -> None:
    log = state.log
    for member in sorted({*state.conf.voters, *state.conf.voters_outgoing}):
        if member != state.id:
            state.send(Message(kind, member, state.id, term, log.last_index, log.last_term, force=force))


def _count_vote(state: State, voter: int, granted: bool) -> None:
    state.votes.setdefault(voter, granted)
    outcome = state.quorum_has(state.votes)
    if outcome is Outcome.WON:
        if state.role is Role.PRE_CANDIDATE:
            _become_candidate(state, force=False)
        else:
            _become_leader(state)
    elif outcome is Outcome.LOST:
        become_follower(state, state.term, NO_MEMBER)


def count_own_vote(state: State, write: Write) -> None:
    """A write is durable: if it holds the vote for itself of this campaign, that counts from now on."""
    if state.role is Role.CANDIDATE and write.term == state.term and write.vote == state.id:
        _count_vote(state, state.id, True)


# -- messages -------------------------------------------------------------------------------------------------
def admit(state: State, message: Message) -> bool:
    """The term rules (§5.1) for every message; whether it is to be handled further."""
    kind = message.kind
    if kind in _ANSWERS_VOTE and message.reject:
        _learn_commit(state, message)
    if message.term > state.term:
        if kind in _ASKS_FOR_VOTE and not message.force and _in_lease(state):
            return False
        if kind is Kind.PRE_VOTE or (kind is Kind.PRE_VOTE_RESPONSE and not message.reject):
            return True  # That term is only asked about.
        become_follower(state, message.term, message.sender if kind in _FROM_LEADER else NO_MEMBER)
        return True
    if message.term < state.term:
        if kind in _FROM_LEADER:
            # A deposed leader, or one that this member has overtaken alone: either must learn the term, or it could
            # never have this member back.
            state.send(Message(Kind.APPEND_RESPONSE, message.sender, state.id, state.term, reject=True))
        elif kind in _ASKS_FOR_VOTE:
            _answer_vote(state, message, state.term, granted=False)
        return False
    if kind in _FROM_LEADER:
        if state.is_leader:
            raise InvariantError(f"members {state.id} and {message.sender} both lead in term {state.term}")
        if state.role is not Role.FOLLOWER:
            become_follower(state, state.term, message.sender)
        elif state.leader not in (NO_MEMBER, message.sender):
            raise InvariantError(f"members {state.leader} and {message.sender} both lead in term {state.term}")
        state.leader = message.sender
        state.election_elapsed = 0
    return True


def _in_lease(state: State) -> bool:
    """A leader was heard within the shortest election timeout, so whoever campaigns has only lost touch."""
    return (
        state.config.check_quorum and state.leader != NO_MEMBER and state.election_elapsed < state.config.election_ticks
    )


def handle_vote(state: State, message: Message) -> None:
    """VOTE and PRE_VOTE (§5.2, §5.4.1)."""
    pre = message.kind is Kind.PRE_VOTE
    free = (
        state.vote == message.sender
        or (state.vote == NO_MEMBER and state.leader == NO_MEMBER)
        or (pre and message.term > state.term)
    )
    granted = free and state.log.up_to_date(message.index, message.log_term)
    _answer_vote(state, message, message.term if granted else state.term, granted=granted)
    if granted and not pre:
        state.election_elapsed = 0
        state.vote = message.sender


def _answer_vote(state: State, message: Message, term: int, *, granted: bool) -> None:
    kind = Kind.PRE_VOTE_RESPONSE if message.kind is Kind.PRE_VOTE else Kind.VOTE_RESPONSE
    # Whoever is refused may be in a configuration that was left without its knowledge, and in need of this vote only
    # there.
    index, log_term = (0, 0) if granted else (state.log.commit, state.log.term(state.log.commit))
    state.send(Message(kind, message.sender, state.id, term, index, log_term, reject=not granted))


def _learn_commit(state: State, message: Message) -> None:
    """Somebody refused its vote and said what is committed. That holds in any term; a change of membership among it
    ends the campaign, whose votes would be counted in the wrong configuration."""
    log = state.log
    if state.is_leader or message.index <= log.commit or not log.matches(message.index, message.log_term):
        return
    log.commit_to(message.index)
    if state.role is not Role.FOLLOWER and not may_campaign(state):
        become_follower(state, state.term, NO_MEMBER)


def handle_vote_response(state: State, message: Message) -> None:
    """Votes of the present campaign; those of an earlier one have another kind or term."""
    expected = Kind.PRE_VOTE_RESPONSE if state.role is Role.PRE_CANDIDATE else Kind.VOTE_RESPONSE
    if message.kind is expected and state.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
        if message.kind is Kind.PRE_VOTE_RESPONSE and not message.reject and message.term != state.term + 1:
            return
        _count_vote(state, message.sender, not message.reject)


def handle_timeout_now(state: State, message: Message) -> None:
    """The leader hands over (thesis §3.10). It may have to wait for a change of membership to be applied."""
    state.summoned = state.term
    campaign_if_summoned(state)


def campaign_if_summoned(state: State) -> None:
    if state.summoned == state.term and state.term and may_campaign(state):
        campaign(state, force=True)


# -- time -----------------------------------------------------------------------------------------------------
def tick(state: State) -> None:
    state.election_elapsed += 1
    if state.is_leader:
        _tick_leader(state)
    else:
        _tick_follower(state)


def _tick_leader(state: State) -> None:
    state.heartbeat_elapsed += 1
    if state.transferee != NO_MEMBER:
        state.transfer_elapsed += 1
        if state.transfer_elapsed >= state.config.election_ticks:
            state.transferee = NO_MEMBER  # It took too long (thesis §3.10): take proposals again.
    if state.election_elapsed >= state.config.election_ticks:
        state.election_elapsed = 0
        if state.config.check_quorum and not _heard_quorum(state):
            become_follower(state, state.term, NO_MEMBER)
            return
    if state.heartbeat_elapsed >= state.config.heartbeat_ticks:
        state.heartbeat_elapsed = 0
        reads.broadcast_heartbeat(state)


def _tick_follower(state: State) -> None:
    if state.election_elapsed >= state.election_timeout:
        state.election_elapsed = 0
        if may_campaign(state):
            campaign(state)
        else:
            state.leader = NO_MEMBER
    else:
        forwarding.tick(state)
        reads.tick(state)


def _heard_quorum(state: State) -> bool:
    """CheckQuorum (thesis §6.2): whether a quorum was heard since the last time; forgets who was."""
    heard = {member: True for member, progress in state.progress.items() if progress.active or member == state.id}
    for progress in state.progress.values():
        progress.active = False
    return state.quorum_has(heard) is Outcome.WON
