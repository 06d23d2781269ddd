"""
Is a history of operations on one key linearizable? Wing and Gong's search with Lowe's memory of visited states.

    a   |--put 1--|                         a: answered           begin ... end
    b        |--read 0--|                   b may stand before a's write or not: some order must explain all answers
    c              |--put 2-- ...           c: no answer; it may stand anywhere behind its begin, or nowhere

It knows nothing of logs or indexes, so it checks the checkers too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sim.client import Operation
from sim.machine import DELETE, SWAP

_NEVER = 1 << 62


class Step(NamedTuple):
    """One operation; end is _NEVER if there was no answer, and then `answer` means nothing."""

    begin: int
    end: int
    kind: int  # 0: a read
    value: int
    expected: int
    answer: int


class TooLong(Exception):
    """The search was given up after `states_max` states."""


def steps(history: Sequence[Operation], key: int) -> list[Step]:
    """What can matter of one key's operations: not the refused, nor reads without an answer."""
    return [
        Step(
            operation.began,
            operation.ended if operation.ended >= 0 else _NEVER,
            0 if operation.read else operation.command.kind,
            operation.command.value,
            operation.command.expected,
            operation.answer,
        )
        for operation in history
        if operation.command.key == key and not operation.refused and (operation.ended >= 0 or not operation.read)
    ]


def is_linearizable(history: Sequence[Step], states_max: int = 5_000) -> bool:
    """TooLong if that could not be decided."""
    order = sorted(history)
    answered = 0
    for place, step in enumerate(order):
        if step.end != _NEVER:
            answered |= 1 << place
    seen: set[tuple[int, int]] = set()
    stack = [(0, 0)]  # (which have taken effect, the key's value then)
    while stack:
        state = stack.pop()
        if state in seen:
            continue
        seen.add(state)
        if len(seen) > states_max:
            raise TooLong
        done, value = state
        if done & answered == answered:
            return True
        # Whoever begins after the first end of what is not done yet must wait for it. Further on all begin later still.
        first_end = _NEVER
        for place in range((~done & (done + 1)).bit_length() - 1, len(order)):
            step = order[place]
            if step.begin > first_end:
                break
            if not done >> place & 1:
                first_end = min(first_end, step.end)
                fits, after = _do(step, value)
                if fits:
                    stack.append((done | 1 << place, after))
    return False


def _do(step: Step, value: int) -> tuple[bool, int]:
    """Whether the answer fits, and the value afterwards."""
    if step.kind == 0:
        return step.answer == value, value
    took_effect, after = True, step.value
    if step.kind == SWAP and value != step.expected:
        took_effect, after = False, value
    elif step.kind == DELETE:
        took_effect, after = value != 0, 0
    return step.end == _NEVER or took_effect == bool(step.answer), after
