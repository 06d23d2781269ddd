"""
`fastkv dump DIR`: what stands in the files, for people.

Reads segments and checkpoints by themselves, not through recovery, so that a directory which does not open can still
be looked at: each file is shown up to its first damage, and the next one is begun. The keys need a directory that
opens.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from fastkv import engine
from fastkv.errors import Code, Error
from fastkv.python import checkpoint, log, payloads, wire
from fastkv.types import KeyValue

SHOWN_BYTES, META_SHOWN_BYTES = 64, 4096
ACTIONS = ("get", "activate", "deactivate")


@click.command("dump")
@click.argument("directory", metavar="DIR")
@click.option("--log/--no-log", "show_log", default=True, help="The records of the log and the checkpoints' heads.")
@click.option("--keys/--no-keys", "show_keys", default=True, help="The keys as of the newest revision.")
def command(directory: str, show_log: bool, show_keys: bool) -> None:
    """Print the log and the keys of the data directory DIR. Nothing is changed or locked.

    Exit code 1 if a file is damaged; what stands in front of the damage is printed.
    """
    root = Path(directory)
    if not (root / "FASTKV").is_file():
        what = "does not exist" if not root.exists() else "is a file, not a directory" if root.is_file() else ""
        click.echo(f"{directory} {what or 'is not a fastkv directory: there is no FASTKV file in it'}", err=True)
        sys.exit(1)
    sound = True
    if show_log:
        for path in sorted((root / "log").glob("*.log")):
            sound &= _dump_segment(path)
        for path in sorted((root / "checkpoint").glob("*.ckpt")):
            sound &= _dump_checkpoint(path)
    if show_keys:
        sound &= _dump_keys(directory)
    sys.exit(0 if sound else 1)


def _dump_segment(path: Path) -> bool:
    data = path.read_bytes()
    header = log.SegmentHeader.decode(data)
    if header is None:
        click.echo(f"{path}: damaged at offset 0: the header does not verify")
        return False
    click.echo(f"{path}: segment {header.sequence}, {len(data)} bytes, entries from index {header.first_index}")
    offset, number = log.HEADER_BYTES, header.last_number + 1
    seed = header.seed
    while record := log.decode_record(data, offset, seed):
        if record.number != number:
            break
        for line in _record_lines(record):
            click.echo(f"  {offset:>8}  {line}")
        offset, number = offset + record.size, number + 1
    rest_bytes = len(data[offset:].rstrip(b"\0"))
    if rest_bytes:
        click.echo(f"  {offset:>8}  damaged or torn: record {number} does not verify; {rest_bytes} bytes follow")
    return not rest_bytes


def _record_lines(record: log.LogRecord) -> Iterator[str]:
    payload = record.payload
    match record.type:
        case log.ENTRY if len(payload) >= 16:
            yield from _entry_lines(record.number, payload)
        case log.HARD_STATE if len(payload) == 24:
            yield f"#{record.number} hard state: {_hard_state(payload)}"
        case log.SNAPSHOT if len(payload) == 16:
            index, term = struct.unpack("<QQ", payload)
            yield f"#{record.number} snapshot: index {index}, term {term}"
        case log.CLEAN if len(payload) == 8:
            yield f"#{record.number} clean close: applied index {struct.unpack('<Q', payload)[0]}"
        case log.META:
            yield f"#{record.number} meta: {_text(payload, META_SHOWN_BYTES)}"
        case _:
            yield f"#{record.number} type {record.type}, {len(payload)} bytes"


def _entry_lines(number: int, payload: bytes) -> Iterator[str]:
    try:
        entry = payloads.Entry.decode(payload)
    except ValueError as reason:
        yield f"#{number} entry that no fastkv has written: {reason}"
        return
    where = f"#{number} entry: term {entry.term}, index {entry.index}"
    match entry.kind:
        case payloads.CONF_CHANGE:
            yield f"{where}, change of membership: {_text(entry.data)}"
        case payloads.EMPTY:
            yield f"{where}, empty"
        case _ if entry.batch_id is None:
            yield f"{where}: {len(entry.data)} bytes that are no batch"
        case _:
            origin, sequence = entry.batch_id
            yield where + (f" batch {sequence} of {origin:x}" if origin else "")
            yield from (f"    {command}" for command in _commands(entry.data[16:]))


def _hard_state(payload: bytes) -> str:
    state = payloads.HardState.decode(payload)
    alone = ", alone: all behind it is committed too" if state.alone else ""
    return f"term {state.term}, vote {state.vote:x}, commit {state.commit}{alone}"


def _commands(batch: bytes) -> Iterator[str]:
    at = 0
    while at < len(batch):
        try:
            tag, at = wire.read_varint(batch, at)
            length, at = wire.read_varint(batch, at)
        except Error as error:
            if error.number != Code.MALFORMED:
                raise
            yield f"{len(batch) - at} bytes that are no command"
            return
        yield _command(tag, batch[at : at + length])
        at += length


def _command(tag: int, payload: bytes) -> str:
    try:
        return _describe(tag, payload)
    except Error as error:
        if error.number != Code.MALFORMED:
            raise
        return f"tag {tag}: {len(payload)} bytes that are no message"


def _describe(tag: int, payload: bytes) -> str:
    match tag:
        case engine.PUT:
            return _operation(wire.PutRequest.decode(payload))
        case engine.DELETE_RANGE:
            return _operation(wire.DeleteRangeRequest.decode(payload))
        case engine.TXN:
            return _operation(wire.TxnRequest.decode(payload))
        case engine.COMPACTION:
            return f"compact {wire.CompactionRequest.decode(payload).revision}"
        case engine.LEASE_GRANT:
            grant = wire.LeaseGrantRequest.decode(payload)
            return f"lease grant {_lease(grant.id)} ttl {grant.ttl} s"
        case engine.LEASE_REVOKE:
            return f"lease revoke {_lease(wire.LeaseRevokeRequest.decode(payload).id)}"
        case engine.ALARM:
            alarm = wire.AlarmRequest.decode(payload)
            action = ACTIONS[alarm.action] if 0 <= alarm.action < len(ACTIONS) else alarm.action
            return f"alarm {action} {alarm.alarm} of member {alarm.member_id:x}"
        case engine.LEASE_CHECKPOINT:
            rows = wire.LeaseCheckpointRequest.decode(payload).checkpoints
            return "lease checkpoint " + ", ".join(f"{_lease(row.id)} {row.remaining_ttl} s" for row in rows)
    return f"tag {tag}: {len(payload)} bytes"


def _operation(operation: wire.Operation | None) -> str:
    match operation:
        case wire.PutRequest():
            lease = f" lease {_lease(operation.lease)}" if operation.lease else ""
            return f"put {_text(operation.key)} = {_text(operation.value)}{lease}"
        case wire.DeleteRangeRequest():
            return f"delete {_interval(operation.key, operation.range_end)}"
        case wire.RangeRequest():
            return f"range {_interval(operation.key, operation.range_end)}"
        case wire.TxnRequest():
            success = "; ".join(map(_operation, operation.success))
            failure = "; ".join(map(_operation, operation.failure))
            return f"txn if {len(operation.compare)} compares then [{success}] else [{failure}]"
    return "nothing"


def _interval(key: bytes, range_end: bytes) -> str:
    if not range_end:
        return _text(key)
    return f"[{_text(key)}, {'end' if range_end == bytes(1) else _text(range_end)})"


def _text(data: bytes, shown_bytes: int = SHOWN_BYTES) -> str:
    """As a JSON string in which nothing is left that a terminal would obey."""
    quoted = json.dumps(data[:shown_bytes].decode(errors="backslashreplace"), ensure_ascii=False)
    shown = "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in quoted)
    return shown if len(data) <= shown_bytes else f"{shown}... ({len(data)} bytes)"


def _lease(lease: int) -> str:
    return f"{lease & (1 << 64) - 1:016x}"


def _dump_checkpoint(path: Path) -> bool:
    try:
        picture = checkpoint.read(str(path))
    except Error as reason:
        click.echo(f"{path}: {reason}")
        return False
    click.echo(
        f"{path}: checkpoint at index {picture.index}, term {picture.term}, revision {picture.revision}, compacted at "
        f"{picture.compact_revision}: {len(picture.chains)} keys, {sum(map(len, picture.chains))} records, "
        f"{len(picture.leases)} leases"
    )
    if picture.meta:
        click.echo(f"  meta: {_text(picture.meta, META_SHOWN_BYTES)}")
    if picture.hard_state:
        click.echo(f"  hard state: {_hard_state(picture.hard_state)}")
    if picture.membership:
        click.echo(f"  membership: {_text(picture.membership, META_SHOWN_BYTES)}")
    return True


def _dump_keys(directory: str) -> bool:
    try:
        store = engine.load()(directory, engine.Options(readonly=True))
    except (Error, ImportError) as reason:
        click.echo(f"the keys cannot be shown: {reason}", err=True)
        return False
    try:
        click.echo(f"keys at revision {store.revision}, compacted at {store.compact_revision}")
        for kv in store.scan(b"\0", b"\0", 0, 0, False, engine.KEY_VALUES):
            click.echo(f"  {_key_value(kv)}")
        for lease, ttl, _ in store.leases():
            keys = ", ".join(map(_text, sorted(store.lease_keys(lease))))
            click.echo(f"lease {_lease(lease)} ttl {ttl} s: {keys or 'no keys'}")
    finally:
        store.close()
    return True


def _key_value(kv: KeyValue) -> str:
    lease = f" lease {_lease(kv.lease)}" if kv.lease else ""
    revisions = f"create {kv.create_revision} mod {kv.mod_revision} version {kv.version}"
    return f"{_text(kv.key)} = {_text(kv.value)}  {revisions}{lease}"
