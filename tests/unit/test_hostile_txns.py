"""
Txns that are large, nested and overlapping in every way: the answer is etcd's, on both engines, and comes at once.

Method: random nests of puts and deletes against a model that compares every put with every interval; then txns of tens
of thousands of operations, which would take minutes if the engines did the same; then nests no stack could hold.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from random import Random, SystemRandom
from typing import Any

import pytest

from fastkv.engine import ALARM, TXN
from fastkv.errors import Code
from fastkv.python.wire import bytes_field, int_field, message_field, varint

SEED = int(os.environ.get("FASTKV_SEED") or SystemRandom().randrange(1 << 32))
REPLAY = f"replay: FASTKV_SEED={SEED} pytest tests/unit/test_hostile_txns.py"
PUT_OP, DELETE_OP, TXN_OP = 2, 3, 4
THEN, ELSE = 2, 3
DEPTH_MAX = 128
MANY = 10_000


@dataclass
class Branch:
    """operations: (key, None) puts; (key, range_end) deletes; a pair of branches is a nested txn."""

    operations: list[Any] = field(default_factory=list)


def encode(then: Branch, otherwise: Branch) -> bytes:
    parts = []
    for number, branch in ((THEN, then), (ELSE, otherwise)):
        for first, second in branch.operations:
            if isinstance(first, Branch):
                op = message_field(TXN_OP, encode(first, second))
            elif second is None:
                op = message_field(PUT_OP, bytes_field(1, first))
            else:
                op = message_field(DELETE_OP, bytes_field(1, first) + bytes_field(2, second))
            parts.append(message_field(number, op))
    return b"".join(parts)


class DuplicateKey(Exception):
    pass


def model(branch: Branch) -> tuple[set[bytes], list[tuple[bytes, bytes]]]:
    """etcd's checkIntervals, pair by pair."""
    puts: set[bytes] = set()
    deletes = [
        (first, second or first + b"\0")
        for first, second in branch.operations
        if isinstance(first, bytes) and second is not None
    ]

    def add(keys: set[bytes]) -> None:
        if keys & puts or any(start <= key < end for key in keys for start, end in deletes):
            raise DuplicateKey
        puts.update(keys)

    for first, second in branch.operations:
        if isinstance(first, Branch):
            (then_puts, then_deletes), (else_puts, else_deletes) = model(first), model(second)
            add(then_puts)
            add(else_puts - then_puts)
            deletes += then_deletes + else_deletes
    for first, second in branch.operations:
        if second is None:
            add({first})
    return puts, deletes


def random_branch(rng: Random, keys: bytes, depth: int = 0) -> Branch:
    def key() -> bytes:
        return bytes(rng.choices(keys, k=rng.choice((1, 1, 2))))

    branch = Branch()
    for _ in range(rng.randrange(7 - depth)):
        kind = rng.randrange(7 if depth == 3 else 10)
        if kind < 4:
            branch.operations.append((key(), None))
        elif kind < 7:
            branch.operations.append((key(), rng.choice((b"", b"\0", key(), key(), key()))))
        else:
            branch.operations.append((random_branch(rng, keys, depth + 1), random_branch(rng, keys, depth + 1)))
    return branch


def code(engine: Any, payload: bytes) -> int:
    ((number, _),) = engine.commit([(TXN, payload)])
    return int(number)


@pytest.mark.random
def test_duplicate_keys_are_those_of_a_model_that_tries_every_pair(engine: Any) -> None:
    rng = Random(SEED)
    refused = 0
    for run in range(3000):
        branch = random_branch(rng, b"abcdefghijklmnopqrstuvwxyz"[: 3 + run % 20])
        wanted = Code.OK
        try:
            model(branch)
        except DuplicateKey:
            wanted = Code.DUPLICATE_KEY
            refused += 1
        assert code(engine, encode(branch, Branch())) == wanted, f"run {run}; {REPLAY}"
        assert code(engine, encode(Branch(), branch)) == wanted, f"run {run}, else; {REPLAY}"
    assert 300 < refused < 2700, REPLAY


def key(number: int) -> bytes:
    return b"k%07d" % number


def test_many_intervals_and_puts_side_by_side(engine: Any) -> None:
    branch = Branch([(key(4 * n), key(4 * n + 2)) for n in range(MANY)] + [(key(4 * n + 2), None) for n in range(MANY)])
    assert code(engine, encode(branch, Branch())) == Code.OK
    branch.operations.append((key(4 * MANY - 3), None))
    assert code(engine, encode(branch, Branch())) == Code.DUPLICATE_KEY


def test_many_nested_txns_side_by_side(engine: Any) -> None:
    branch = Branch([(Branch([(key(4 * n), key(4 * n + 2))]), Branch([(key(4 * n + 3), None)])) for n in range(MANY)])
    assert code(engine, encode(branch, Branch())) == Code.OK
    late = (Branch([(key(1), None)]), Branch())
    assert code(engine, encode(Branch([*branch.operations, late]), Branch())) == Code.DUPLICATE_KEY
    assert code(engine, encode(Branch([late, *branch.operations]), Branch())) == Code.OK  # etcd's rule


def test_a_tree_of_txns_whose_keys_all_move_up(engine: Any) -> None:
    level = [Branch([(key(2 * n), None), (key(2 * n + 1), b"")]) for n in range(1 << 13)]
    while len(level) > 1:
        level = [Branch([(level[at], level[at + 1])]) for at in range(0, len(level), 2)]
    (root,) = level
    assert code(engine, encode(root, Branch())) == Code.OK
    root.operations.append((key(2 * 5000), None))
    assert code(engine, encode(root, Branch())) == Code.DUPLICATE_KEY


def test_many_keys_below_many_levels(engine: Any) -> None:
    branch = Branch([(key(2 * n), None) for n in range(MANY)] + [(key(2 * n + 1), b"") for n in range(MANY)])
    for level in range(DEPTH_MAX):
        branch = Branch([(branch, Branch()), (b"l%03d" % level, b"l%03d\0" % level), (b"m%03d" % level, None)])
    assert code(engine, encode(branch, Branch())) == Code.OK
    branch.operations.append((key(1), key(3)))
    assert code(engine, encode(branch, Branch())) == Code.DUPLICATE_KEY


def nested(levels: int, innermost: bytes) -> bytes:
    """From the inside out, backwards: without copying what is inside once a level."""
    out = bytearray(reversed(innermost))
    for _ in range(levels):
        for tag in (TXN_OP << 3 | 2, THEN << 3 | 2):
            out += varint(len(out))[::-1]
            out.append(tag)
    out.reverse()
    return bytes(out)


def test_nesting_beyond_the_limit_is_refused_on_every_path(engine: Any) -> None:
    put = message_field(THEN, message_field(PUT_OP, bytes_field(1, b"k")))
    assert code(engine, nested(DEPTH_MAX, put)) == Code.OK
    assert engine.revision == 2
    no_space = int_field(1, 1) + int_field(2, 1) + int_field(3, 1)
    for alarm in ([], [(ALARM, no_space)]):  # with the alarm every txn is looked into for puts
        engine.commit(alarm)
        for levels in (DEPTH_MAX + 1, 300_000):
            payload = nested(levels, put)
            assert code(engine, payload) == Code.TOO_MANY_OPS
            assert engine.read_txn(payload) is None
    assert code(engine, nested(DEPTH_MAX, put)) == Code.NO_SPACE
    assert engine.read_txn(b"") is not None and engine.revision == 2
