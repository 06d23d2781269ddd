"""CRC-32C (Castagnoli, reflected), four bytes a step. Thread safety: pure."""

from __future__ import annotations

import sys
from array import array

_POLYNOMIAL = 0x82F63B78


def _table_of_one_byte() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return table


# What is left of the crc after 1 byte, after 2, and after 2 that are followed by two zero bytes.
_ONE = _table_of_one_byte()
_TWO = [_ONE[(first := _ONE[low] ^ high) & 0xFF] ^ first >> 8 for high in range(256) for low in range(256)]
_TWO_ZEROS = [_TWO[crc & 0xFFFF] ^ crc >> 16 for crc in _TWO]
_WORD = "I" if array("I").itemsize == 4 else "L"


def crc32c(data: bytes | bytearray | memoryview, crc: int = 0) -> int:
    """The checksum of `data`, or, given that of what stood before it, of both together."""
    crc ^= 0xFFFFFFFF
    low, high = _TWO_ZEROS, _TWO
    view = memoryview(data)
    whole = len(view) & ~3
    words = array(_WORD, bytes(view[:whole]))
    if sys.byteorder == "big":
        words.byteswap()
    for word in words:
        word ^= crc
        crc = low[word & 0xFFFF] ^ high[word >> 16]
    for byte in view[whole:]:
        crc = _ONE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
