"""
What a freshly installed wheel must do, without pytest and without the checkout on the path: `python -I smoke.py`.

Opens a store, writes, reads, watches, reopens; and looks that importing fastkv loads nothing that it must not.
"""

import sys
import tempfile

import fastkv

forbidden = {"google.protobuf", "grpc", "asyncio", "ssl", "_ssl", "click", "msgpack"} & set(sys.modules)
assert not forbidden, f"import fastkv has loaded {sorted(forbidden)}"

with tempfile.TemporaryDirectory() as directory:
    with fastkv.open(directory) as db:
        first = db.put("a", b"1")
        with db.batch() as batch:
            batch.put("b", b"2")
            batch.put("c", b"3")
        db.delete("a")
        assert db.get("a") is None and db["b"] == b"2"
        assert db.at(first).get("a") == b"1"
        with db.watch(prefix="", start_revision=first) as watch:
            revisions = [
                batch.revision for _, batch in zip(range(3), watch, strict=False)
            ]  # in this order: a fourth would never come
        assert revisions == [first, first + 1, first + 2], revisions
    with fastkv.open(directory) as db:
        assert list(db.items()) == [(b"b", b"2"), (b"c", b"3")]
        assert db.check() == []

print(f"fastkv {fastkv.__version__} on Python {sys.version.split()[0]}: smoke test passed")
