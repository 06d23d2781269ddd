"""
Majorities, and majorities of both halves of a joint configuration (§6, thesis §4.3).

    voters {1,2,3}, match 1:7 2:5 3:9             7: two of three hold 7 or more
    and outgoing {3,4,5}, match 4:2 5:6           6: the lower of 7 and of what {9,2,6} agree on

Pure functions of ids and numbers. An empty half asks for nothing: it agrees with whatever the other one says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum


class Outcome(Enum):
    PENDING = 0
    WON = 1
    LOST = 2


def majority(count: int) -> int:
    """How many of `count` are a majority."""
    return count // 2 + 1


def agreed(voters: Collection[int], outgoing: Collection[int], value: Callable[[int], int]) -> int:
    """The highest number that a quorum has reached, where value(member) is what each one has. 0 without voters."""
    own = _agreed(voters, value)
    if not outgoing:
        return own
    other = _agreed(outgoing, value)
    return min(own, other) if voters else other


def _agreed(voters: Collection[int], value: Callable[[int], int]) -> int:
    if not voters:
        return 0
    return sorted(map(value, voters))[(len(voters) - 1) // 2]


def decided(voters: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]) -> Outcome:
    """What an election has come to; votes of others than the voters do not count."""
    own = _decided(voters, votes)
    other = _decided(outgoing, votes)
    if Outcome.LOST in (own, other):
        return Outcome.LOST
    return own if own is other else Outcome.PENDING


def _decided(voters: Collection[int], votes: Mapping[int, bool]) -> Outcome:
    if not voters:
        return Outcome.WON
    needed = majority(len(voters))
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    if granted >= needed:
        return Outcome.WON
    return Outcome.LOST if refused > len(voters) - needed else Outcome.PENDING
