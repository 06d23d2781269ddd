"""
Golden scripts: blocks of commands, `----`, and the reviewed answers, up to an empty line.

    # Why this behaviour is worth a script.
    # on: engine node etcd>=3.7

    put a 1
    range a
    ----
    revision 2
    a=1 create=2 mod=2 version=1
    count 1, revision 2

`# on:` names what the script runs on: `engine` (native and Python), `node` (fastkv serve over gRPC), `etcd` (a real
one; a lowest version may follow). All must give the same lines. put, range, del, txn and repeat are described in
commands.py; the others:

    stream KEY [END] ...            the same as range, through RangeStream
    compact REV [physical]          hashkv [REV]            history KEY (engine only)
    grant ID TTL                    revoke ID               ttl ID [keys]       leases       keepalive ID (servers only)
    alarm get|activate|deactivate [nospace|corrupt]         members, defragment (servers only)
    watch NAME KEY [END] [start=N] [prev_kv] [noput] [nodelete]     take NAME [headers]    progress NAME    cancel NAME
    reopen (a clean stop and start)     crash (kill -9 and start)    checkpoint
    send STREAM create KEY [END] [id=N] [start=N] [prev_kv] [noput] [nodelete] [fragment]
    send STREAM cancel ID | progress | nothing
    receive STREAM [N]              N responses of a raw watch stream (servers only)
"""

from __future__ import annotations

import difflib
import re
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from support import commands, render
from support.client import Answer
from support.commands import Arguments, Line, ScriptError, expand, tree
from support.protos import mvcc, rpc
from support.targets import EngineTarget, GrpcTarget

Target = EngineTarget | GrpcTarget
SEPARATOR = "----"
_NEEDS_DIRECTORY = ("reopen", "crash", "checkpoint")
_PLACE = re.compile(r"(engine|node|etcd)(?:>=(\d+)\.(\d+))?")


class Block(NamedTuple):
    """commands: as written, comments included; expected: the reviewed lines."""

    commands: list[str]
    expected: list[str]


class Script:
    """One file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.preamble: list[str] = []
        self.blocks: list[Block] = []
        self.places: dict[str, tuple[int, int]] = {}
        for chunk in re.split(r"\n(?:[ ]*\n)+", path.read_text().strip("\n")):
            lines = chunk.split("\n")
            if all(line.startswith("#") for line in lines):
                if self.blocks:
                    raise ScriptError(f"{path}: a comment of its own stands behind a block")
                self.preamble += lines
            else:
                at = lines.index(SEPARATOR) if SEPARATOR in lines else len(lines)
                self.blocks.append(Block(lines[:at], lines[at + 1 :]))
        self._read_places()

    def _read_places(self) -> None:
        for line in self.preamble:
            if line.startswith("# on:"):
                for word in line.removeprefix("# on:").split():
                    match = _PLACE.fullmatch(word)
                    if not match:
                        raise ScriptError(f"{self.path}: {word!r}: engine, node, etcd or etcd>=MAJOR.MINOR is wanted")
                    self.places[match[1]] = (int(match[2] or 0), int(match[3] or 0))
        if not self.places:
            raise ScriptError(f"{self.path}: no line `# on: ...`")

    @property
    def needs_directory(self) -> bool:
        lines = (line for block in self.blocks for line in block.commands)
        return any(line.split()[0] in _NEEDS_DIRECTORY for line in lines)

    def run(self, target: Target) -> list[list[str]]:
        """The answers of each block."""
        return [
            _fold([line for command in tree(_code(block.commands)) for line in Runner(target).run(command)])
            for block in self.blocks
        ]

    def difference(self, answers: list[list[str]]) -> str:
        """Empty if all is as reviewed; otherwise a unified diff of the whole file."""
        wanted = self.render([block.expected for block in self.blocks]).split("\n")
        got = self.render(answers).split("\n")
        return "\n".join(difflib.unified_diff(wanted, got, "reviewed", "answered", n=5, lineterm=""))

    def render(self, answers: list[list[str]]) -> str:
        parts = ["\n".join(self.preamble)]
        for block, got in zip(self.blocks, answers, strict=True):
            parts.append("\n".join([*block.commands, SEPARATOR, *got]))
        return "\n\n".join(parts) + "\n"

    def rewrite(self, answers: list[list[str]]) -> None:
        self.path.write_text(self.render(answers))


def _code(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.lstrip().startswith("#")]


def _fold(lines: list[str]) -> list[str]:
    """Many equal lines in a row as one."""
    folded = []
    for line, group in groupby(lines):
        count = len(list(group))
        folded += [f"{line}  ({count} times)"] if count > 3 else [line] * count
    return folded


class Runner:
    """Runs one command on a target and renders the answer."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def run(self, line: Line) -> list[str]:
        command = getattr(self, f"_{line.verb}", None)
        if command is None:
            raise ScriptError(f"{line.text!r}: unknown command")
        if line.verb != "txn" and line.children:
            raise ScriptError(f"{line.text!r}: nothing may be indented below it")
        return command(line)

    def _repeat(self, line: Line) -> list[str]:
        """The last answer, and every error."""
        *first, last = (self.run(command) for command in expand([line]))
        return [text for lines in first for text in lines if text.startswith("!")] + last

    def _answer(self, answer: Answer, show: Any) -> list[str]:
        return render.error(answer) if answer.code else show(answer.response)

    def _put(self, line: Line) -> list[str]:
        return self._answer(self.target.call("Put", commands.put_request(line.rest)), render.put)

    def _range(self, line: Line) -> list[str]:
        return self._answer(self.target.call("Range", commands.range_request(line.rest)), render.range_)

    def _stream(self, line: Line) -> list[str]:
        return self._answer(self.target.range_stream(commands.range_request(line.rest)), render.range_)

    def _del(self, line: Line) -> list[str]:
        return self._answer(self.target.call("DeleteRange", commands.delete_request(line.rest)), render.delete)

    def _txn(self, line: Line) -> list[str]:
        return self._answer(self.target.call("Txn", commands.txn_request(line.children)), render.txn)

    def _compact(self, line: Line) -> list[str]:
        arguments = Arguments(line.rest, {"physical"}, set())
        request = rpc.CompactionRequest(revision=int(arguments.positions[0]), physical="physical" in arguments.flags)
        return self._answer(self.target.call("Compact", request), lambda r: [f"compacted, {render.header(r)}"])

    def _hashkv(self, line: Line) -> list[str]:
        request = rpc.HashKVRequest(revision=int(line.rest or 0))
        return self._answer(
            self.target.call("HashKV", request),
            lambda r: [f"hash {r.hash} of revision {r.hash_revision} compact {r.compact_revision}, {render.header(r)}"],
        )

    def _history(self, line: Line) -> list[str]:
        [key] = (word.text for word in commands.words(line.rest))
        assert isinstance(self.target, EngineTarget)
        lines = []
        for kind, kv in self.target.engine.history(key):
            lines += render.event(mvcc.Event(type=kind, kv=mvcc.KeyValue.FromString(kv)))
        return lines or ["(nothing)"]

    def _members(self, line: Line) -> list[str]:
        return self._answer(
            self.target.call("MemberList", rpc.MemberListRequest()),
            lambda r: [f"members {' '.join(member.name for member in r.members)}, {render.header(r)}"],
        )

    def _defragment(self, line: Line) -> list[str]:
        return self._answer(self.target.call("Defragment", rpc.DefragmentRequest()), lambda r: [render.header(r)])

    # -- leases, alarms ---------------------------------------------------------------------------------------
    def _grant(self, line: Line) -> list[str]:
        lease, ttl = map(int, line.rest.split())
        return self._answer(
            self.target.call("LeaseGrant", rpc.LeaseGrantRequest(ID=lease, TTL=ttl)),
            lambda r: [f"lease {r.ID if lease else 'picked' if r.ID > 0 else 'BAD'} ttl {r.TTL}, {render.header(r)}"],
        )

    def _revoke(self, line: Line) -> list[str]:
        request = rpc.LeaseRevokeRequest(ID=int(line.rest))
        return self._answer(self.target.call("LeaseRevoke", request), lambda r: [f"revoked, {render.header(r)}"])

    def _ttl(self, line: Line) -> list[str]:
        lease, *flags = line.rest.split()

        def show(r: Any) -> list[str]:
            # The remaining seconds run; whether they are sane does not.
            sane = r.TTL == -1 if not r.grantedTTL else 0 <= r.TTL <= r.grantedTTL
            keys = "".join(f" {render.text(key)}" for key in sorted(r.keys))
            state = "gone" if r.TTL == -1 else f"granted {r.grantedTTL}"
            attached = f" keys{keys}" if keys else ""
            return [f"lease {r.ID} {state if sane else f'INSANE {r}'}{attached}, {render.header(r)}"]

        request = rpc.LeaseTimeToLiveRequest(ID=int(lease), keys="keys" in flags)
        return self._answer(self.target.call("LeaseTimeToLive", request), show)

    def _leases(self, line: Line) -> list[str]:
        def show(r: Any) -> list[str]:
            ids = " ".join(map(str, sorted(item.ID for item in r.leases)))
            return [f"leases {ids or '(none)'}, {render.header(r)}"]

        return self._answer(self.target.call("LeaseLeases", rpc.LeaseLeasesRequest()), show)

    def _keepalive(self, line: Line) -> list[str]:
        response = self._server().keep_alive(int(line.rest))
        if isinstance(response, Answer):
            return render.error(response)
        return [f"lease {response.ID} ttl {response.TTL}, {render.header(response)}"]

    def _alarm(self, line: Line) -> list[str]:
        action, *kind = line.rest.upper().split()
        request = rpc.AlarmRequest(action=action, memberID=1 if kind else 0, alarm=kind[0] if kind else "NONE")

        def show(r: Any) -> list[str]:
            alarms = (f"{rpc.AlarmType.Name(item.alarm).lower()} of {item.memberID}" for item in r.alarms)
            return [f"alarms {', '.join(alarms) or '(none)'}, {render.header(r)}"]

        return self._answer(self.target.call("Alarm", request), show)

    # -- watch ------------------------------------------------------------------------------------------------
    def _watch(self, line: Line) -> list[str]:
        name, _, rest = line.rest.partition(" ")
        return self._answer(self.target.watch(name, _create_request(rest)), lambda r: _watch_response(r))

    def _take(self, line: Line) -> list[str]:
        name, *flags = line.rest.split()
        lines: list[str] = []
        newest = 0
        for batch in self.target.take(name):
            if batch.compact_revision:
                lines.append(f"ended, compacted {batch.compact_revision}")
                break
            revisions = [event.kv.mod_revision for event in batch.events]
            assert revisions == sorted(revisions), f"events out of order: {batch}"
            assert revisions and newest < revisions[0], f"a revision was split or repeated: {newest} {batch}"
            assert batch.revision >= revisions[-1], f"header behind its events: {batch}"
            newest = revisions[-1]
            lines += [f"revision {batch.revision}:"] if "headers" in flags else []
            lines += [text for event in batch.events for text in render.event(event)]
        return lines or ["(nothing)"]

    def _progress(self, line: Line) -> list[str]:
        revision = self.target.progress(line.rest)
        return [f"progress {revision}" if revision >= 0 else "not synced"]

    def _cancel(self, line: Line) -> list[str]:
        self.target.cancel(line.rest)
        return ["cancelled"]

    def _send(self, line: Line) -> list[str]:
        name, kind, *_ = line.rest.split()
        rest = line.rest.partition(f"{kind}")[2].strip()
        request = rpc.WatchRequest()
        if kind == "create":
            request.create_request.CopyFrom(_create_request(rest))
        elif kind == "cancel":
            request.cancel_request.watch_id = int(rest)
        elif kind == "progress":
            request.progress_request.SetInParent()
        elif kind != "nothing":
            raise ScriptError(f"{line.text!r}: create, cancel, progress or nothing is wanted")
        streams = self._server().streams
        if name not in streams:
            streams[name] = self._server().client.watch()
        streams[name].send(request)
        return ["sent"]

    def _receive(self, line: Line) -> list[str]:
        name, *count = line.rest.split()
        return [
            text
            for _ in range(int(count[0]) if count else 1)
            for text in _watch_response(self._server().streams[name].receive())
        ]

    # -- life -------------------------------------------------------------------------------------------------
    def _reopen(self, line: Line) -> list[str]:
        self.target.reopen()
        return ["reopened"]

    def _crash(self, line: Line) -> list[str]:
        self.target.crash()
        return ["restarted"]

    def _checkpoint(self, line: Line) -> list[str]:
        self.target.checkpoint()
        return ["written"]

    def _server(self) -> GrpcTarget:
        if not isinstance(self.target, GrpcTarget):
            raise ScriptError("only a server has streams")
        return self.target


def _create_request(rest: str) -> Any:
    arguments = Arguments(rest, {"prev_kv", "noput", "nodelete", "fragment", "progress_notify"}, {"start", "id"})
    key, end = arguments.take(rest, 0, 2)
    kinds = {"noput": rpc.WatchCreateRequest.NOPUT, "nodelete": rpc.WatchCreateRequest.NODELETE}
    return rpc.WatchCreateRequest(
        key=key,
        range_end=end,
        start_revision=arguments.number("start"),
        watch_id=arguments.number("id"),
        filters=[kind for name, kind in kinds.items() if name in arguments.flags],
        **dict.fromkeys(arguments.flags - kinds.keys(), True),
    )


def _watch_response(response: Any) -> list[str]:
    if isinstance(response, Answer):
        return [f"ended {render.CODES[response.code]} {response.message}"]
    words = [f"watch {response.watch_id}"]
    words += [name for name in ("created", "canceled", "fragment") if getattr(response, name)]
    words += [f"compacted {response.compact_revision}"] if response.compact_revision else []
    words += [f"reason {response.cancel_reason!r}"] if response.cancel_reason else []
    head = f"{' '.join(words)}, revision {response.header.revision}"
    return [head, *(f"  {text}" for event in response.events for text in render.event(event))]
