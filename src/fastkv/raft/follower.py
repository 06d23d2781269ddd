"""
The follower's side of the log: APPEND, HEARTBEAT and SNAPSHOT from the leader of the term (§5.3, §7).

An answer that acknowledges is a promise and waits for the disk; a refusal promises nothing and goes at once.
"""

from __future__ import annotations

from fastkv.raft import membership
from fastkv.raft.errors import InvariantError
from fastkv.raft.messages import Entry, Kind, Message
from fastkv.raft.state import State


def handle_append(state: State, message: Message) -> None:
    log = state.log
    index, log_term, entries = message.index, message.log_term, message.entries
    if index < log.commit:
        # Late or repeated. What is committed matches (§5.4.3); only what lies behind it can be news.
        known = log.commit - index
        _check_committed(state, message, entries[:known])
        index, log_term, entries = log.commit, log.term(log.commit), entries[known:]
    if log.try_append(index, log_term, entries):
        last = index + len(entries)
        log.commit_to(min(message.commit, last))
        _acknowledge(state, message.sender, last)
    else:
        # Leave out the terms that the leader cannot have at or before this place (§5.3).
        hint, hint_term = log.conflict_by_term(min(message.index, log.last_index), message.log_term)
        state.send(
            Message(
                Kind.APPEND_RESPONSE,
                message.sender,
                state.id,
                state.term,
                message.index,
                hint_term,
                reject=True,
                hint=hint,
            )
        )


def _check_committed(state: State, message: Message, entries: tuple[Entry, ...]) -> None:
    """The last of these entries, which are all committed here, must be what is committed; so are those before it
    then."""
    if entries and state.log.knows_other(entries[-1].index, entries[-1].term):
        raise InvariantError(
            f"entry {entries[-1].index} is committed with term {state.log.term(entries[-1].index)}, but the leader "
            f"{message.sender} of term {message.term} has term {entries[-1].term} there"
        )


def handle_heartbeat(state: State, message: Message) -> None:
    state.log.commit_to(message.commit)
    state.send(Message(Kind.HEARTBEAT_RESPONSE, message.sender, state.id, state.term, context=message.context))


def handle_snapshot(state: State, message: Message) -> None:
    """Install it if it is ahead of what is committed here; answer with what is held then in any case."""
    snapshot, log = message.snapshot, state.log
    if snapshot is None:
        return
    if snapshot.index <= log.commit:
        _acknowledge(state, message.sender, log.commit)
    elif log.matches(snapshot.index, snapshot.term):
        # The log holds all of it already: the leader only did not know.
        log.commit_to(snapshot.index)
        _acknowledge(state, message.sender, snapshot.index)
    else:
        log.restore(snapshot)
        state.proposals.swallow()
        membership.install(state, snapshot)
        _acknowledge(state, message.sender, snapshot.index)


def _acknowledge(state: State, to: int, index: int) -> None:
    state.send(Message(Kind.APPEND_RESPONSE, to, state.id, state.term, index))
