"""
What bench/embedded.py measures. Each group runs in a process of its own: `python measures.py '{"group": ..., ...}'`
prints the results as one line of JSON.

    group    on                                   gives
    load     an empty directory                   batch (puts/s in batches of 1,000), and the data that the others read
    read     the loaded directory                 get, scan100, scan (items/s), open (s)
    put      an empty directory, sync=False       put (puts/s)
    durable  an empty directory, sync=True        durable (puts/s), device (what the disk saw meanwhile)
    threads  an empty directory, sync=True        threads4, threads8 (puts/s, all threads together), device
    memory   an empty directory, keys in batches  memory (resident bytes above the interpreter's)

Nothing is measured that is not verified: every value read is counted by its length, some are compared, every store is
reopened and counted after writes.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import device_counts, resident
from stores import STORES, Item

VALUE_BYTES = 100
BATCH = 1000
_SCATTER = 0x9E3779B97F4A7C15  # odd, so that i -> i * _SCATTER mod 2**64 repeats nothing


def key_of(number: int) -> bytes:
    """16 bytes, unique, scattered over the key space."""
    return b"%016x" % (number * _SCATTER % 2**64)


def value_of(number: int) -> bytes:
    return (b"%020d" % number) * (VALUE_BYTES // 20)


def batches(keys: int) -> Iterator[list[Item]]:
    """All items, in scattered order of keys, made when needed so that they do not count as the store's memory."""
    for first in range(0, keys, BATCH):
        yield [(key_of(number), value_of(number)) for number in range(first, min(first + BATCH, keys))]


def expect(what: str, got: Any, wanted: Any) -> None:
    if got != wanted:
        raise SystemExit(f"{what}: {got!r} where {wanted!r} was due")


def count_and_last(items: Any) -> tuple[int, Any]:
    """Exhaust an iterable of tuples at C speed."""
    last: deque[tuple[int, Any]] = deque(enumerate(items, 1), maxlen=1)
    return last[0] if last else (0, None)


def verify(store: Any, keys: int) -> None:
    """The store holds exactly the keys that were written, and a sample has the right values."""
    expect("keys in the store", count_and_last(store.scan(None, None))[0], keys)
    get = store.getter()
    for number in range(0, keys, max(1, keys // 1000)):
        expect(f"value {number}", get(key_of(number)), value_of(number))


def device_use(before: dict[str, int], after: dict[str, int], puts: int, threads: int) -> dict[str, int]:
    """What the devices did for so many durable puts; a sync can serve at most one put of each thread."""
    return {"threads": threads, "puts": puts} | {name: after[name] - before[name] for name in after}


def load(make: Any, path: Path, keys: int, spec: dict[str, Any]) -> dict[str, Any]:
    store = make(path, False)
    spent = 0.0
    for items in batches(keys):
        started = time.perf_counter()
        store.batch(items)
        spent += time.perf_counter() - started
    verify(store, keys)
    store.close()
    return {"batch": keys / spent}


def read(make: Any, path: Path, keys: int, spec: dict[str, Any]) -> dict[str, Any]:
    gc.disable()
    make(path.with_name(path.name + ".empty"), False).close()  # importing the module is not opening the store
    started = time.perf_counter()
    store = make(path, False)
    opened = time.perf_counter() - started
    if spec["store"] == "dict":
        for items in batches(keys):
            store.batch(items)
    result: dict[str, Any] = {} if spec["store"] == "dict" else {"open": opened}

    asked = min(keys, spec["ops"])
    step = keys // asked
    wanted = [key_of(number * step * 7919 % keys) for number in range(asked)]
    get = store.getter()
    started = time.perf_counter()
    read_bytes = sum(map(len, map(get, wanted)))
    result["get"] = asked / (time.perf_counter() - started)
    expect("bytes read", read_bytes, asked * VALUE_BYTES)

    if spec["store"] != "dict":
        scans = min(2000, asked)
        first_keys = sorted(wanted)[: -(-asked * 9 // 10)]  # the last tenth may have fewer than 100 successors
        starts = first_keys[:: max(1, len(first_keys) // scans)]
        started = time.perf_counter()
        found = 0
        for start in starts:
            found += len(list(store.scan(start, 100)))
        result["scan100"] = found / (time.perf_counter() - started)
        if keys >= 2000:
            expect("items in scans of 100", found, 100 * len(starts))

    started = time.perf_counter()
    count, last = count_and_last(store.scan(None, None))
    result["scan"] = count / (time.perf_counter() - started)
    expect("items in the scan", count, keys)
    expect("type of an item", type(last), tuple)
    verify(store, keys)
    store.close()
    return result


def put(make: Any, path: Path, keys: int, spec: dict[str, Any]) -> dict[str, Any]:
    items = [item for batch in batches(spec["ops"]) for item in batch]
    store = make(path, False)
    write = store.put
    started = time.perf_counter()
    for key, value in items:
        write(key, value)
    rate = len(items) / (time.perf_counter() - started)
    verify(store, len(items))
    store.close()
    return {"put": rate}


def durable(make: Any, path: Path, keys: int, spec: dict[str, Any]) -> dict[str, Any]:
    writes = spec["durable_ops"]
    items = [item for batch in batches(writes) for item in batch]
    store = make(path, True)
    write = store.put
    store.put(b"first", b"")  # the file's growth is not what is measured
    before = device_counts()
    started = time.perf_counter()
    for key, value in items:
        write(key, value)
    rate = writes / (time.perf_counter() - started)
    after = device_counts()
    expect("value", store.getter()(items[-1][0]), items[-1][1])
    store.close()
    reopened = make(path, True)
    expect("keys after reopening", count_and_last(reopened.scan(None, None))[0], writes + 1)
    reopened.close()
    return {"durable": rate, "device": [device_use(before, after, writes, 1)]}


def threads(make: Any, path: Path, keys: int, spec: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"device": []}
    for count in (4, 8):
        store = make(path / str(count), True)
        each = spec["durable_ops"] // 2
        barrier = threading.Barrier(count + 1)

        def work(number: int, each: int = each, store: Any = store, barrier: threading.Barrier = barrier) -> None:
            items = [(key_of(i), value_of(i)) for i in range(number * each, (number + 1) * each)]
            write = store.put
            barrier.wait()
            for key, value in items:
                write(key, value)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for worker in workers:
            worker.start()
        before = device_counts()
        barrier.wait()
        started = time.perf_counter()
        for worker in workers:
            worker.join()
        result[f"threads{count}"] = count * each / (time.perf_counter() - started)
        result["device"].append(device_use(before, device_counts(), count * each, count))
        verify(store, count * each)
        store.close()
    return result


def memory(make: Any, path: Path, keys: int, spec: dict[str, Any]) -> dict[str, Any]:
    gc.collect()
    before = resident()
    store = make(path, False)
    for items in batches(keys):
        store.batch(items)
    del items
    gc.collect()
    after = resident()
    verify(store, keys)
    store.close()
    return {"memory": after["VmRSS"] - before["VmRSS"], "memory_anonymous": after["RssAnon"] - before["RssAnon"]}


GROUPS = {"load": load, "read": read, "put": put, "durable": durable, "threads": threads, "memory": memory}


def main() -> None:
    spec = json.loads(sys.argv[1])
    path = Path(spec["path"])
    if spec["group"] != "read":
        path.parent.mkdir(parents=True, exist_ok=True)
    if spec["group"] == "threads":
        path.mkdir()
    result = GROUPS[spec["group"]](STORES[spec["store"]], path, spec["keys"], spec)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    os._exit(0)  # what tearing down a million objects costs belongs to no measurement


if __name__ == "__main__":
    main()
