"""
Messages by field number, for the services that a node answers itself.

The primitives are the reference engine's (fastkv.python.wire); here is a reader that needs no class per message.
Anything that is not a message raises MALFORMED; unknown fields are kept like known ones, a field of the wrong wire
type counts as absent.
"""

from __future__ import annotations

from fastkv.python.wire import bytes_field, int_field, message_field, read_fields, read_varint

__all__ = ["Message", "bytes_field", "element_ends", "int_field", "message_field"]

TWO_63, TWO_64 = 1 << 63, 1 << 64


class Message:
    """The fields of one message. Of a field that comes twice the last one counts, except in `all` and `enums`."""

    __slots__ = ("_fields",)

    def __init__(self, buffer: bytes) -> None:
        self._fields: dict[int, list[int | bytes]] = {}
        for tag, value in read_fields(buffer):
            self._fields.setdefault(tag >> 3, []).append(value)

    def __contains__(self, field: int) -> bool:
        return field in self._fields

    def unsigned(self, field: int) -> int:
        """A uint64 or bool; 0 if it is absent."""
        value = self._fields.get(field, (0,))[-1]
        return value if isinstance(value, int) else 0

    def number(self, field: int) -> int:
        """An int64 or enum; 0 if it is absent."""
        value = self.unsigned(field)
        return value - TWO_64 if value >= TWO_63 else value

    def data(self, field: int) -> bytes:
        """Bytes, a string or a message; b"" if it is absent."""
        value = self._fields.get(field, (b"",))[-1]
        return value if isinstance(value, bytes) else b""

    def all(self, field: int) -> list[bytes]:
        """A repeated bytes or message field."""
        return [value for value in self._fields.get(field, ()) if isinstance(value, bytes)]

    def enums(self, field: int) -> list[int]:
        """A repeated enum field, packed or not."""
        out: list[int] = []
        for value in self._fields.get(field, ()):
            if isinstance(value, int):
                out.append(value)
                continue
            at = 0
            while at < len(value):
                one, at = read_varint(value, at)
                out.append(one)
        return out


def element_ends(buffer: bytes) -> list[int]:
    """Where each field of a buffer of length-delimited fields ends. The bytes are our own: trusted."""
    ends, at = [], 0
    while at < len(buffer):
        _, at = read_varint(buffer, at)
        length, at = read_varint(buffer, at)
        at += length
        ends.append(at)
    return ends
