"""
From a Config to a running member and back: the order of start and end, signals, exit codes.

    bind ports -> open engine -> start node -> serve -> (signal | failure) -> stop serving -> close engine

Exit codes: 0 after SIGTERM or SIGINT, 1 if it could not start or the store failed, 2 for flags that cannot be read
(cli).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence

from fastkv.errors import Error
from fastkv.server.config import Config, ConfigError
from fastkv.server.front import Front, address_of, bind
from fastkv.server.log import Log
from fastkv.server.node import Node
from fastkv.server.version import API_VERSION


def run(config: Config, log: Log, arguments: Sequence[str]) -> int:
    """Serve until a signal comes; the exit code."""
    for message, fields in config.notes:
        log.at("warn", message, **fields)
    log.info("Running: ", args=list(arguments))
    existed = os.path.exists(os.path.join(config.data_dir, "FASTKV"))
    log.info("Initialize and start etcd server", data_dir=config.data_dir, dir_type="member" if existed else "empty")
    log.info("configuring client listeners", listen_client_urls=list(config.listen_client_urls))
    try:
        os.makedirs(config.data_dir, mode=0o700, exist_ok=True)
    except OSError as reason:
        log.fatal("the data directory cannot be made", data_dir=config.data_dir, error=reason.strerror or str(reason))
        return 1
    try:
        listeners = bind(config)
    except OSError as reason:
        log.fatal("the client port cannot be opened", error=reason.strerror or str(reason))
        return 1
    try:
        return asyncio.run(_serve(config, log, listeners))
    except ConfigError as reason:
        log.at(reason.level, str(reason), **reason.fields)
    except Error as reason:
        log.fatal("the data directory cannot be opened", data_dir=config.data_dir, error=str(reason))
    except ImportError as reason:
        log.fatal("no engine", error=str(reason))
    finally:
        for listener in listeners:
            listener.close()
    return 1


async def _serve(config: Config, log: Log, listeners: list[socket.socket]) -> int:
    loop = asyncio.get_running_loop()
    node = Node(config, log)
    log.info(
        "starting an etcd server",
        etcd_version=API_VERSION,
        engine=node.engine.name,
        name=config.name,
        data_dir=config.data_dir,
        max_request_bytes=config.max_request_bytes,
        max_txn_ops=config.max_txn_ops,
        quota_backend_bytes=config.quota_bytes,
        unsafe_no_fsync=not config.fsync,
        advertise_client_urls=list(config.advertise_client_urls),
        initial_advertise_peer_urls=list(node.identity.peer_urls),
        python=sys.version.split()[0],
    )
    log.info(
        "starting local member",
        local_member_id=f"{node.identity.member_id:x}",
        cluster_id=f"{node.identity.cluster_id:x}",
        revision=node.engine.revision,
        applied_index=node.engine.applied_index,
    )

    def on_signal(number: signal.Signals) -> None:
        log.info("received signal; shutting down", signal=number.name)
        node.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    front = Front(node, listeners)
    try:
        await node.start()
        await front.serve()
        for listener in listeners:
            log.warn(
                "serving client traffic insecurely; this is strongly discouraged!",
                traffic="grpc+http",
                address=address_of(listener),
            )
        log.info("ready to serve client requests")
        _notify_systemd()
        await node.stopping.wait()
    finally:
        log.info("closing etcd server", name=config.name, data_dir=config.data_dir)
        await front.close()
        await node.close()
        log.info("closed etcd server", name=config.name, data_dir=config.data_dir)
    return 1 if node.failed else 0


def _notify_systemd() -> None:
    """READY=1 for a unit of Type=notify."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect("\0" + path[1:] if path.startswith("@") else path)
            sender.sendall(b"READY=1")
