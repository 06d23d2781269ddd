"""
Handing leadership over (thesis §3.10): bring the other member up to date, then tell it to campaign at once.

While it lasts the leader takes no proposals, or the other would never be up to date. It ends when a higher term is
seen, or after an election timeout without one.
"""

from __future__ import annotations

from fastkv.raft.errors import TransferRefused
from fastkv.raft.messages import NO_MEMBER, Kind, Message
from fastkv.raft.state import State


def request(state: State, to: int) -> None:
    """From this member's own caller."""
    if not state.is_voter(to):
        raise TransferRefused(f"member {to} is not a voter")
    if state.is_leader:
        start(state, to)
    elif state.leader == NO_MEMBER:
        raise TransferRefused("there is no leader")
    else:
        state.send(Message(Kind.TRANSFER_LEADER, state.leader, state.id, state.term, context=to))


def handle_transfer_leader(state: State, message: Message) -> None:
    """Leader: a follower passes on that somebody is to lead."""
    if state.is_voter(message.context):
        start(state, message.context)


def start(state: State, to: int) -> None:
    """Leader only. To itself: nothing to do, and whatever was under way is given up."""
    if to == state.transferee:
        return
    state.transferee = NO_MEMBER if to == state.id else to
    state.transfer_elapsed = 0
    finish(state)


def finish(state: State) -> None:
    """Once the transferee has everything it may campaign."""
    progress = state.progress.get(state.transferee)
    if progress is not None and progress.match == state.log.last_index:
        state.send(Message(Kind.TIMEOUT_NOW, state.transferee, state.id, state.term))


def hand_over(state: State) -> None:
    """The leader is about to step down: the voter that holds most campaigns at once, so nobody waits for a timeout."""
    best = max(
        (progress.match, -member)
        for member, progress in state.progress.items()
        if member != state.id and state.is_voter(member)
    )
    state.send(Message(Kind.TIMEOUT_NOW, -best[1], state.id, state.term))
