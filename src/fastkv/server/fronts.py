"""
Which front end a node gets: `--front` says it, and where the native one cannot run, grpcio does, after a sentence that
says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Protocol

from fastkv.server.config import Config
from fastkv.server.listeners import Listener
from fastkv.server.log import Log
from fastkv.server.node import Node
from fastkv.server.tls_config import TlsConfig


class AnyFront(Protocol):
    """A front end: the way from sockets to a node."""

    name: str

    async def serve(self, tls: TlsConfig) -> None:
        """From now on clients are answered."""

    async def close(self) -> bool:
        """Accept nothing more, let calls under way end for a moment, then cut. False: as Node.close."""


OpenNode = Callable[[Config, Log, list[Listener]], tuple[Node, AnyFront]]


def load(name: str, log: Log) -> OpenNode:
    """
    What opens a node and the front end that serves it, neither started yet. ModuleNotFoundError if a library is
    missing.
    """
    if name == "native":
        if not (why_not := _why_not_native()):
            return _load_native()
        log.warn("the native front end is not there; grpcio serves instead, slowly", reason=why_not)
    return _load_grpcio()


# Imported only here: neither loads what the other one needs.
def _load_native() -> OpenNode:
    from fastkv.server.native_front import NativeFront
    from fastkv.server.native_node import NativeNode

    def open_node(config: Config, log: Log, listeners: list[Listener]) -> tuple[Node, AnyFront]:
        node = NativeNode(config, log)
        return node, NativeFront(node, listeners)

    return open_node


def _load_grpcio() -> OpenNode:
    from fastkv.server.front import Front

    def open_node(config: Config, log: Log, listeners: list[Listener]) -> tuple[Node, AnyFront]:
        node = Node(config, log)
        return node, Front(node, listeners)

    return open_node


def _why_not_native() -> str:
    if os.environ.get("FASTKV_ENGINE", "native") != "native":
        return "it needs the native engine"
    if find_spec("fastkv._front") is None:
        return "fastkv._front was not built: libraries were missing, the build named them"
    return ""
