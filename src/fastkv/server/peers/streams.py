"""What arrives on an admitted stream of Raft messages, and on the urgent one also questions."""

from __future__ import annotations

from fastkv.raft import Kind, Message
from fastkv.raft.codec import decode_message
from fastkv.server.peers.context import Context
from fastkv.server.peers.inbound import Inbound
from fastkv.server.peers.requests import Answers
from fastkv.server.peers.wire import Frame, Stream, WireError, decode_ask

LARGE = (Kind.APPEND, Kind.PROPOSE)  # what carries entries goes on APPENDS, all else on URGENT


class Messages:
    """The Receiver of APPENDS and URGENT."""

    def __init__(self, context: Context, inbound: Inbound, member: int, stream: Stream) -> None:
        self._context = context
        self._inbound = inbound
        self._member = member
        self._answers = Answers(context, member, inbound.connection) if stream is Stream.URGENT else None

    def batch(self, frames: list[tuple[int, memoryview]]) -> None:
        messages: list[Message] = []
        own = self._context.identity.member_id
        for kind, body in frames:
            if kind == Frame.MESSAGE:
                message = decode_message(body)
                if message.to != own or message.sender != self._member or message.kind is Kind.SNAPSHOT:
                    raise WireError(f"{message.kind.name} of {message.sender:x} to {message.to:x} on this connection")
                messages.append(message)
            elif kind == Frame.ASK and self._answers is not None:
                self._answers.asked(decode_ask(body))
            else:
                raise WireError(f"a frame of kind {kind} on this stream")
        if messages:
            self._context.events.received(messages)

    def lost(self) -> None:
        if self._answers is not None:
            self._answers.cancel()
