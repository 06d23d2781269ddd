"""
A process that writes until it is killed, and the model of what it writes.

    python crash_writer.py PATH ENGINE SEED sync|async

Operation n (from 0) of a seed is a function of both alone and makes exactly one revision, n + 2. After each one the
process writes a line with its revision: what stands there was acknowledged. It goes on where the store stands.
"""

from __future__ import annotations

import os
import random
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import fastkv

Model = dict[bytes, bytes]

SMALL = {"checkpoint_bytes": 8 << 10, "segment_bytes_max": 4 << 10}  # many segments and checkpoints


def apply_to_model(model: Model, seed: int, number: int) -> None:
    chance = random.Random(f"{seed}/{number}")
    kind = chance.random()
    key = b"key %d" % chance.randrange(40)
    value = b"%d:" % number + b"v" * chance.choice((0, 10, 300))
    if kind < 0.7:
        model[key] = value
    elif kind < 0.85:
        for offset in range(3):
            model[key + b"/%d" % offset] = value
    else:
        for doomed in [one for one in model if one.startswith(key)]:
            del model[doomed]
        model[b"deleted"] = value


def apply_to_store(db: fastkv.DB, seed: int, number: int) -> int:
    chance = random.Random(f"{seed}/{number}")
    kind = chance.random()
    key = b"key %d" % chance.randrange(40)
    value = b"%d:" % number + b"v" * chance.choice((0, 10, 300))
    if kind < 0.7:
        return db.put(key, value)
    with db.batch() as batch:
        if kind < 0.85:
            for offset in range(3):
                batch.put(key + b"/%d" % offset, value)
        else:
            batch.delete(prefix=key)
            batch.put(b"deleted", value)
    assert batch.revision is not None
    return batch.revision


def main(path: str, engine: str, seed: str, sync: str) -> None:
    import fastkv

    db = fastkv.open(path, engine=engine, sync=sync == "sync", **SMALL)  # type: ignore[arg-type]
    while True:
        number = db.revision - 1
        revision = apply_to_store(db, int(seed), number)
        os.write(1, b"%d\n" % revision)
        if number % 97 == 96:
            db.compact(revision - 20)


if __name__ == "__main__":
    main(*sys.argv[1:])
