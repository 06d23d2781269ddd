r"""
The command language of golden scripts: one line is one request.

    put KEY VALUE [lease=N] [prev_kv] [ignore_value] [ignore_lease] [size=N]      size: VALUE again and again, so long
    range KEY [END] [rev=N] [limit=N] [sort=none|ascend|descend] [target=key|version|create|mod|value]
          [min_mod=N] [max_mod=N] [min_create=N] [max_create=N] [keys_only] [count_only] [serializable]
    del KEY [END] [prev_kv]
    txn                                      its lines are indented; a nested txn's lines more so
      if TARGET KEY OP [OPERAND] [end=END]   TARGET version create mod value lease; OP = != < >; no OPERAND: no union
      then COMMAND                           put, range, del, txn, or `nothing` (an operation without a request)
      else COMMAND
    repeat N COMMAND                         $i counts from 1, $0i in three digits; a line of a txn, or of the script,
                                             which then shows the errors and the last answer

Words are separated by spaces; `"..."` keeps spaces and is never an option. Escapes, quoted or not: \0 \n \\ \" \xHH.
The other commands are in script.py.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from google.protobuf.message import Message

from support.protos import rpc


class ScriptError(Exception):
    """The script itself is wrong: never the store."""


class Word(NamedTuple):
    text: bytes
    quoted: bool


_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)")
_OPTION = re.compile(r"([a-z_]+)=(.*)", re.S)


def words(line: str) -> list[Word]:
    return [
        Word(unescape(match[1] if match[1] is not None else match[2]), match[1] is not None)
        for match in _WORD.finditer(line)
    ]


def unescape(text: str) -> bytes:
    def replace(match: re.Match[bytes]) -> bytes:
        name = match[1]
        if name[:1] == b"x":
            return bytes([int(name[1:], 16)])
        return {b"0": b"\0", b"n": b"\n", b"\\": b"\\", b'"': b'"'}[name]

    return _ESCAPE.sub(replace, text.encode())


class Line(NamedTuple):
    """One line and what is indented below it."""

    text: str
    children: tuple[Line, ...] = ()

    @property
    def verb(self) -> str:
        return self.text.split()[0]

    @property
    def rest(self) -> str:
        return self.text.strip().partition(" ")[2].strip()


def tree(lines: list[str]) -> list[Line]:
    """Lines by indentation."""
    roots: list[Line] = []
    index = 0
    while index < len(lines):
        depth = _depth(lines[index])
        end = index + 1
        while end < len(lines) and _depth(lines[end]) > depth:
            end += 1
        roots.append(Line(lines[index].strip(), tuple(tree(lines[index + 1 : end]))))
        index = end
    return roots


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def expand(lines: list[Line] | tuple[Line, ...], prefix: str = "") -> list[Line]:
    """`repeat` unrolled; `prefix` is `then` or `else` inside a txn."""
    result = []
    for line in lines:
        head, rest = (line.verb, line.rest) if prefix else ("", line.text)
        if rest.startswith("repeat "):
            _, count, command = rest.split(" ", 2)
            for number in range(1, int(count) + 1):
                text = command.replace("$0i", f"{number:03}").replace("$i", str(number))
                result.append(Line(f"{head} {text}".strip(), line.children))
        else:
            result.append(line)
    return result


class Arguments:
    """The words of one command: positions, options (name=value) and flags; what is left over is an error."""

    def __init__(self, text: str, flags: set[str], options: set[str]) -> None:
        self.positions: list[bytes] = []
        self.flags: set[str] = set()
        self.options: dict[str, str] = {}
        for word in words(text):
            plain = "" if word.quoted else word.text.decode("latin-1")
            option = _OPTION.fullmatch(plain)
            if plain in flags and self.positions:
                self.flags.add(plain)
            elif option and option[1] in options:
                self.options[option[1]] = option[2]
            elif option and self.positions and option[1].isidentifier():
                raise ScriptError(f"unknown option {plain!r} in {text!r} (quote it if it is a value)")
            else:
                self.positions.append(word.text)

    def number(self, name: str, default: int = 0) -> int:
        return int(self.options.get(name, default))

    def take(self, text: str, least: int, most: int) -> list[bytes]:
        if not least <= len(self.positions) <= most:
            raise ScriptError(f"{text!r}: {len(self.positions)} words where {least} to {most} are wanted")
        return self.positions + [b""] * (most - len(self.positions))


def put_request(text: str) -> Message:
    arguments = Arguments(text, {"prev_kv", "ignore_value", "ignore_lease"}, {"lease", "size"})
    key, value = arguments.take(text, 1, 2)
    size = arguments.number("size", len(value))
    value = (value * (size // max(1, len(value)) + 1))[:size]
    return rpc.PutRequest(key=key, value=value, lease=arguments.number("lease"), **dict.fromkeys(arguments.flags, True))


def range_request(text: str) -> Message:
    filters = {"min_mod", "max_mod", "min_create", "max_create"}
    arguments = Arguments(
        text, {"keys_only", "count_only", "serializable"}, {"rev", "limit", "sort", "target", *filters}
    )
    key, end = arguments.take(text, 0, 2)
    return rpc.RangeRequest(
        key=key,
        range_end=end,
        revision=arguments.number("rev"),
        limit=arguments.number("limit"),
        sort_order=_enum(rpc.RangeRequest.SortOrder, arguments.options.get("sort", "none")),
        sort_target=_enum(rpc.RangeRequest.SortTarget, arguments.options.get("target", "key")),
        **{f"{name}_revision": arguments.number(name) for name in filters & arguments.options.keys()},
        **dict.fromkeys(arguments.flags, True),
    )


def delete_request(text: str) -> Message:
    arguments = Arguments(text, {"prev_kv"}, set())
    key, end = arguments.take(text, 0, 2)
    return rpc.DeleteRangeRequest(key=key, range_end=end, prev_kv="prev_kv" in arguments.flags)


def _enum(kind: object, name: str) -> int:
    return int(name) if name.isdigit() else kind.Value(name.upper())  # type: ignore[attr-defined]


_RESULTS = {"=": rpc.Compare.EQUAL, ">": rpc.Compare.GREATER, "<": rpc.Compare.LESS, "!=": rpc.Compare.NOT_EQUAL}
_UNION = {"version": "version", "create": "create_revision", "mod": "mod_revision", "value": "value", "lease": "lease"}


def compare(text: str) -> Message:
    parts = words(text)
    end = b""
    if parts and not parts[-1].quoted and parts[-1].text.startswith(b"end="):
        end = parts.pop().text[4:]
    if not 3 <= len(parts) <= 4:
        raise ScriptError(f"if {text!r}: TARGET KEY OP [OPERAND] [end=END] is wanted")
    target = parts[0].text.decode()
    message = rpc.Compare(
        target=_enum(rpc.Compare.CompareTarget, target),
        key=parts[1].text,
        result=_RESULTS[parts[2].text.decode()],
        range_end=end,
    )
    if len(parts) == 4:
        operand = parts[3].text
        setattr(message, _UNION[target], operand if target == "value" else int(operand))
    return message


def txn_request(children: tuple[Line, ...]) -> Message:
    message = rpc.TxnRequest()
    for line in expand(children, "txn"):
        if line.verb == "if":
            message.compare.append(compare(line.rest))
        elif line.verb in ("then", "else"):
            (message.success if line.verb == "then" else message.failure).append(operation(line))
        else:
            raise ScriptError(f"{line.text!r}: if, then or else is wanted in a txn")
    return message


def operation(line: Line) -> Message:
    verb, _, rest = line.rest.partition(" ")
    if verb == "put":
        return rpc.RequestOp(request_put=put_request(rest))
    if verb == "range":
        return rpc.RequestOp(request_range=range_request(rest))
    if verb == "del":
        return rpc.RequestOp(request_delete_range=delete_request(rest))
    if verb == "txn":
        return rpc.RequestOp(request_txn=txn_request(line.children))
    if verb == "nothing":
        return rpc.RequestOp()
    raise ScriptError(f"{line.text!r}: not an operation")
