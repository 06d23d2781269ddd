"""
Messages on their way: lost, repeated, delayed, overtaken, or cut off by a partition of links.

A link is a direction, (sender, receiver); a two-way partition cuts both. On a healthy network every link keeps its
order, as a TCP stream does; while `reorder` is on, each message finds its own way. A SNAPSHOT takes longer, and its
sender is told how its streaming ended, as the transport does. Probabilities are set by the nemesis (faults.py).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from fastkv.raft import Kind, Message
from fastkv.raft.codec import decode_message, encode_message
from sim.scheduler import Scheduler


class Network:
    """deliver: (message) -> whether somebody took it. tell: (sender, receiver, delivered) of a SNAPSHOT's end;
    unreachable: (sender, receiver)."""

    def __init__(self, scheduler: Scheduler, rng: random.Random, happened: Counter[str], *, encoded: bool) -> None:
        self.scheduler = scheduler
        self.rng = rng
        self.happened = happened
        self.encoded = encoded  # messages go through the codec
        self.deliver: Callable[[Message], bool]
        self.tell: Callable[[int, int, bool], None]
        self.unreachable: Callable[[int, int], None]
        self.cut: set[tuple[int, int]] = set()
        self.delay_least, self.delay_most = 4, 40
        self._last: dict[tuple[int, int], int] = {}  # link -> when its latest message arrives
        self.calm()

    def calm(self) -> None:
        """No faults from now on; what is on its way still arrives as it was decided."""
        self.loss = 0.0
        self.duplicate = 0.0
        self.reorder = False
        self.extra_delay = 0
        self.delayed = 0  # the one member whose links have the extra delay; 0: all links
        self.cut.clear()

    def send(self, message: Message) -> None:
        rng = self.rng
        link = (message.sender, message.to)
        snapshot = message.kind is Kind.SNAPSHOT
        if link in self.cut:
            self._lose(message, "cut off by a partition")
            return
        if self.loss and rng.random() < self.loss:
            self._lose(message, "message lost")
            return
        delay = rng.randrange(self.delay_least, self.delay_most)
        if self.extra_delay and (not self.delayed or self.delayed in link):
            self.happened["message delayed"] += 1
            delay += rng.randrange(self.extra_delay)
        if snapshot:
            delay += rng.randrange(20, 400)
        arrival = self.scheduler.now + delay
        if not snapshot:
            latest = self._last.get(link, 0)
            if arrival < latest:
                if self.reorder:
                    self.happened["message overtaken"] += 1
                else:
                    arrival = latest
            self._last[link] = max(arrival, latest)
        if self.encoded:
            message = decode_message(encode_message(message))
        self.scheduler.after(arrival - self.scheduler.now, self._arrive, message)
        if self.duplicate and rng.random() < self.duplicate:
            self.happened["message repeated"] += 1
            self.scheduler.after(arrival - self.scheduler.now + rng.randrange(1000), self._arrive, message)

    def _lose(self, message: Message, why: str) -> None:
        self.happened[why] += 1
        if message.kind is Kind.SNAPSHOT:
            self.scheduler.after(self.rng.randrange(50, 500), self.tell, message.sender, message.to, False)
        elif self.rng.random() < 0.05:
            self.scheduler.after(self.rng.randrange(1, 100), self.unreachable, message.sender, message.to)

    def _arrive(self, message: Message) -> None:
        taken = self.deliver(message)
        if message.kind is Kind.SNAPSHOT:
            self.happened["snapshot delivered" if taken else "snapshot met a dead member"] += 1
            self.tell(message.sender, message.to, taken)
