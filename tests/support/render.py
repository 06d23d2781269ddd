"""
Answers as lines of text: what golden scripts compare.

Cluster id, member id, raft term and the remaining time of a lease differ from run to run and are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from support.client import Answer
from support.protos import mvcc

# gRPC code -> name as Go prints it.
CODES = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists"),
    *("PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented"),
    *("Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)

LONGEST_SHOWN = 40


def text(data: bytes) -> str:
    if len(data) > LONGEST_SHOWN:
        return f"<{len(data)} bytes>"
    return "".join(chr(b) if 0x21 <= b < 0x7F and b not in b'"\\=' else f"\\x{b:02x}" for b in data)


def error(answer: Answer) -> list[str]:
    return [f"!{CODES[answer.code]} {answer.message}"]


def key_value(kv: Any) -> str:
    line = f"{text(kv.key)}={text(kv.value)} create={kv.create_revision} mod={kv.mod_revision} version={kv.version}"
    return line + (f" lease={kv.lease}" if kv.lease else "")


def header(message: Any) -> str:
    return f"revision {message.header.revision}" if message.HasField("header") else "no header"


def put(response: Any) -> list[str]:
    previous = [f"  previous {key_value(response.prev_kv)}"] if response.HasField("prev_kv") else []
    return [header(response), *previous]


def range_(response: Any) -> list[str]:
    more = " more" if response.more else ""
    return [*map(key_value, response.kvs), f"count {response.count}{more}, {header(response)}"]


def delete(response: Any) -> list[str]:
    previous = [f"  previous {key_value(kv)}" for kv in response.prev_kvs]
    return [f"deleted {response.deleted}, {header(response)}", *previous]


def txn(response: Any) -> list[str]:
    lines = [f"{'succeeded' if response.succeeded else 'failed'}, {header(response)}"]
    for operation in response.responses:
        kind = operation.WhichOneof("response")
        name = NAMES[kind]
        lines += _indent(_under(name, RENDERERS[name](getattr(operation, kind))))
    return lines


def _under(name: str, lines: list[str]) -> list[str]:
    return [f"{name}: {lines[0]}", *lines[1:]] if len(lines) == 1 or name != "range" else [f"{name}:", *_indent(lines)]


def _indent(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


NAMES = {"response_put": "put", "response_range": "range", "response_delete_range": "del", "response_txn": "txn"}
RENDERERS = {"put": put, "range": range_, "del": delete, "txn": txn}


def event(item: Any) -> list[str]:
    if item.type == mvcc.Event.PUT:
        lines = [f"PUT {key_value(item.kv)}"]
    else:
        lines = [f"DELETE {text(item.kv.key)} mod={item.kv.mod_revision}"]
        rest = mvcc.KeyValue(key=item.kv.key, mod_revision=item.kv.mod_revision)
        if item.kv != rest:
            lines.append(f"  with more than key and mod_revision: {key_value(item.kv)}")
    return lines + ([f"  previous {key_value(item.prev_kv)}"] if item.HasField("prev_kv") else [])
