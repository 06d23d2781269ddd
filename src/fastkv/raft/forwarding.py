"""
Proposals: taken by the leader, forwarded to it by everybody else, and what became of each.

Forwarding keeps order and appends each batch at most once, though messages are lost, repeated and reordered: within one
term a follower numbers its batches 1, 2, 3 ..., and the leader appends number n of (member, session) only behind n - 1.

    follower                                      leader
    PROPOSE index=0 {1,2}        ------------>    appends 1, 2      PROPOSE_RESPONSE index=2
    PROPOSE index=2 {3}          ----x
    PROPOSE index=3 {4}          ------------>    a gap             PROPOSE_RESPONSE index=2 reject: from 3 again

Why the fate of a proposal is exact. A batch forwarded in term T is appended by the leader of T, in term T, or never:
PROPOSE of another term is dropped (`election.admit`, and a higher one unseats the leader). Terms never fall along a
log, so once an entry of a later term is committed, no further entry of T ever is. A batch of T that has not come by
then is lost, and may be proposed again without being applied twice.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

from fastkv.raft.errors import DropReason, ProposalDropped
from fastkv.raft.messages import NO_MEMBER, Entry, EntryKind, Kind, Message, batch_origin
from fastkv.raft.storage import limit_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastkv.raft.state import State

    Append = Callable[[State, EntryKind, bytes], None]


WINDOW = 4  # messages of full size on their way to the leader; more would only be sent again when one gets lost
_ENTRIES_MAX = 4096  # looked at for one message


class Proposals:
    """What this member has proposed, what it has to forward, and (leader) what it has taken from whom."""

    __slots__ = (
        "acked", "elapsed", "flying_bytes", "lost", "number", "open", "queue", "queue_bytes", "rewound", "sent",
        "session", "taken", "uncertain",
    )  # fmt: skip

    def __init__(self, session: int) -> None:
        self.session = session
        self.open: dict[int, int] = {}  # sequence -> term, in the order of proposing, so terms never fall
        self.lost: list[int] = []  # for the next Ready
        self.uncertain: list[int] = []
        self.queue: deque[Entry] = deque()  # forwarded in this term and not acknowledged; index = its number
        self.queue_bytes = 0
        self.flying_bytes = 0  # sent and not acknowledged: how much a rewind sends again
        self.number = 0  # the last one given
        self.sent = 0
        self.acked = 0
        self.elapsed = 0  # ticks since something was sent or acknowledged
        self.rewound = False  # everything was sent again for a refusal, and nothing has been acknowledged since
        self.taken: dict[int, tuple[int, int]] = {}  # leader: member -> (session, number)

    def new_term(self) -> None:
        """Nothing of the old term may be sent any more; its fate shows when the new one commits."""
        self.queue.clear()
        self.queue_bytes = self.flying_bytes = self.number = self.sent = self.acked = 0
        self.rewound = False
        self.taken.clear()

    def rewind(self) -> None:
        """Send everything again that is not acknowledged."""
        self.sent = self.acked
        self.flying_bytes = 0

    def settle(self, own: int, entries: list[Entry]) -> None:
        """These entries are committed, in this order behind all before them."""
        open = self.open
        for term, _, kind, data in entries:
            if not open:
                return
            origin, sequence = batch_origin(data)
            if origin == own and open.pop(sequence, None) is not None and kind is EntryKind.EMPTY:
                self.lost.append(sequence)  # The leader refused this change of membership.
            while open:
                oldest = next(iter(open))
                if open[oldest] >= term:
                    break
                del open[oldest]
                self.lost.append(oldest)

    def swallow(self) -> None:
        """A snapshot takes the place of entries that nobody here has seen."""
        self.uncertain += self.open
        self.open.clear()


def propose(state: State, kind: EntryKind, data: bytes, append: Append) -> None:
    """Take a proposal of this member's own: append it or queue it for the leader. ProposalDropped."""
    proposals = state.proposals
    origin, sequence = batch_origin(data)
    if origin != state.id or sequence in proposals.open:
        raise ValueError(
            f"a batch of member {origin}, sequence {sequence}: not of member {state.id}, or proposed already"
        )
    if state.is_leader:
        if state.transferee != NO_MEMBER:
            raise ProposalDropped(DropReason.TRANSFERRING)
        if is_full(state, len(data)):
            raise ProposalDropped(DropReason.TOO_MUCH_UNCOMMITTED)
        append(state, kind, data)
    elif state.leader == NO_MEMBER:
        raise ProposalDropped(DropReason.NO_LEADER)
    else:
        limit = state.config.max_uncommitted_bytes
        if limit and proposals.queue and proposals.queue_bytes + len(data) > limit:
            raise ProposalDropped(DropReason.TOO_MUCH_UNCOMMITTED)
        if not proposals.queue:
            proposals.elapsed = 0
        proposals.number += 1
        proposals.queue.append(Entry(state.term, proposals.number, kind, data))
        proposals.queue_bytes += len(data)
    proposals.open[sequence] = state.term


def is_full(state: State, size: int) -> bool:
    """Whether `size` more uncommitted bytes are too many; the first proposal always fits."""
    limit, uncommitted = state.config.max_uncommitted_bytes, state.uncommitted_bytes
    return 0 < limit < uncommitted + size and uncommitted > 0


# -- follower -------------------------------------------------------------------------------------------------
def flush(state: State) -> None:
    """Forward what was not sent yet, a few messages ahead of the leader's answers."""
    proposals = state.proposals
    if proposals.sent == proposals.number or state.leader == NO_MEMBER:
        return
    max_bytes = state.config.max_message_bytes
    window_bytes = WINDOW * max(max_bytes, 1)
    unsent = list(islice(proposals.queue, proposals.sent - proposals.acked, None))
    place = 0
    while place < len(unsent) and (not proposals.flying_bytes or proposals.flying_bytes < window_bytes):
        entries = limit_bytes(unsent[place : place + _ENTRIES_MAX], max_bytes)
        place += len(entries)
        state.send(
            Message(
                Kind.PROPOSE,
                state.leader,
                state.id,
                state.term,
                proposals.sent,
                entries=tuple(entries),
                session=proposals.session,
            )
        )
        proposals.sent = entries[-1].index
        proposals.flying_bytes += sum([len(entry.data) for entry in entries])


def handle_propose_response(state: State, message: Message) -> None:
    proposals = state.proposals
    if message.session != proposals.session or not proposals.acked <= message.index <= proposals.number:
        return
    if message.index > proposals.acked:
        while proposals.queue and proposals.queue[0].index <= message.index:
            entry = proposals.queue.popleft()
            proposals.queue_bytes -= len(entry.data)
            if entry.index <= proposals.sent:
                proposals.flying_bytes -= len(entry.data)
        proposals.acked = message.index
        proposals.sent = max(proposals.sent, message.index)
        proposals.elapsed = 0
        proposals.rewound = False
    if message.reject and not proposals.rewound:
        # One gap is refused once for every message behind it; to answer each with all of them would multiply them.
        proposals.rewound = True
        proposals.rewind()


def tick(state: State) -> None:
    """Not acknowledged for two heartbeats: it got lost, or the leader had no room or was handing over. Again, then."""
    proposals = state.proposals
    if proposals.queue:
        proposals.elapsed += 1
        if proposals.elapsed >= 2 * state.config.heartbeat_ticks:
            proposals.elapsed = 0
            proposals.rewound = False
            proposals.rewind()


# -- leader ---------------------------------------------------------------------------------------------------
def handle_propose(state: State, message: Message, append: Append) -> None:
    """Append what comes next from this member, while there is room."""
    taken = state.proposals.taken
    session, number = taken.get(message.sender, (0, 0))
    if message.session < session:
        return
    if message.session > session:
        number = 0
    gap = message.index > number
    if not gap and state.transferee == NO_MEMBER:
        for entry in message.entries[number - message.index :]:
            if is_full(state, len(entry.data)):
                break
            append(state, entry.kind, entry.data)
            number = entry.index
    taken[message.sender] = (message.session, number)
    state.send(
        Message(
            Kind.PROPOSE_RESPONSE,
            message.sender,
            state.id,
            state.term,
            number,
            reject=gap,
            session=message.session,
        )
    )
