"""
From a Config to a running member and back: the order of start and end, signals, exit codes.

    bind ports -> open engine -> start node -> serve -> (signal | failure) -> stop serving -> close engine

Between the signal and the end of the process lie less than 2 s, whatever is under way: a list of a whole keyspace or a
slow disk is not waited for, because the log already holds every acknowledged write.

Exit codes: 0 after SIGTERM or SIGINT, 1 if it could not start or the store failed, 2 for flags that cannot be read
(cli).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from fastkv.errors import Error
from fastkv.server import self_signed
from fastkv.server.config import Config, ConfigError
from fastkv.server.fronts import AnyFront, OpenNode
from fastkv.server.http import answer, answer_metrics_port
from fastkv.server.http_port import HttpPort
from fastkv.server.listeners import Ports, bind_ports, hosts
from fastkv.server.log import Log, go_duration
from fastkv.server.node import Node
from fastkv.server.tls import TlsError, check_files
from fastkv.server.version import API_VERSION

STOP_S = 1.8
STEP_DOWN_S = 0.5


def run(config: Config, log: Log, arguments: Sequence[str], open_node: OpenNode) -> int:
    """Serve until a signal comes; the exit code."""
    for message, fields in config.notes:
        log.at("warn", message, **fields)
    log.info("Running: ", args=list(arguments))
    existed = os.path.exists(os.path.join(config.data_dir, "FASTKV"))
    log.info("Initialize and start etcd server", data_dir=config.data_dir, dir_type="member" if existed else "empty")
    log.info("configuring client listeners", listen_client_urls=list(config.listen_client_urls))
    try:
        ports = bind_ports(config)
    except OSError as reason:
        log.fatal("the client port cannot be opened", error=reason.strerror or str(reason))
        return 1
    try:
        check_files(config.client_tls)
        if why_not := _make_directory(config.data_dir):
            log.fatal("the data directory cannot be made", data_dir=config.data_dir, error=why_not)
            return 1
        code, ended = asyncio.run(_serve(config, log, ports, open_node))
    except ConfigError as reason:
        log.at(reason.level, str(reason), **reason.fields)
        return 1
    except TlsError as reason:
        log.fatal("listener failed", error=str(reason))
        return 1
    except Error as reason:
        log.fatal("the data directory cannot be opened", data_dir=config.data_dir, error=str(reason))
        return 1
    except ImportError as reason:
        log.fatal("no engine", error=str(reason))
        return 1
    finally:
        ports.close()
    if not ended:
        _leave(log, code)
    return code


def _leave(log: Log, code: int) -> None:
    """End the process under its threads: Python would wait for them, and take the store down while they use it."""
    log.warn("the process ends under a read or a disk that takes long; the log holds every acknowledged write")
    os._exit(code)


def _make_directory(path: str) -> str:
    """Why there is none, empty if there is one."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except FileExistsError:
        return "a file has its name"
    except NotADirectoryError:
        return "a part of its path is a file"
    except OSError as reason:
        return (reason.strerror or str(reason)).lower()
    return ""


async def _serve(config: Config, log: Log, ports: Ports, open_node: OpenNode) -> tuple[int, bool]:
    """(exit code, whether everything has ended)."""
    loop = asyncio.get_running_loop()
    node, front = open_node(config, log, ports.client)
    log.info(
        "starting an etcd server",
        etcd_version=API_VERSION,
        engine=node.engine.name,
        front=front.name,
        name=config.name,
        data_dir=config.data_dir,
        max_request_bytes=config.max_request_bytes,
        max_txn_ops=config.max_txn_ops,
        quota_backend_bytes=config.quota_bytes,
        auto_compaction_mode="revision" if config.compaction_revisions else "periodic",
        auto_compaction_retention=config.compaction_revisions or go_duration(config.compaction_period_s),
        auto_compaction_interval=go_duration(node.compactor.interval_s if node.compactor else 0.0),
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

    stepping_down: list[asyncio.Task[None]] = []

    async def step_down() -> None:
        # Clients are served meanwhile: for them the leader changes, and this member ends a moment later.
        try:
            async with asyncio.timeout(STEP_DOWN_S):
                await node.step_down()
        except TimeoutError:
            log.warn("nobody took over leadership in time")
        node.stopping.set()

    def on_signal(number: signal.Signals) -> None:
        log.info("received signal; shutting down", signal=number.name)
        stepping_down.append(loop.create_task(step_down()))
        # Closing is bounded step by step; whatever step is not, the process is.
        bound = threading.Timer(STOP_S, lambda: _leave(log, 1 if node.failed else 0))
        bound.daemon = True
        bound.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    http_ports: list[HttpPort] = []
    try:
        await node.start()
        if not node.stopping.is_set():
            http_ports = await _open_to_clients(node, front, config, log, ports)
        await node.stopping.wait()
    finally:
        log.info("closing etcd server", name=config.name, data_dir=config.data_dir)
        ended = await front.close()
        for port in http_ports:
            await port.close()
        try:
            # Not under a front that still uses the store: then the process ends as it is.
            ended = ended and await node.close()
        except Error as reason:
            node.fail(reason)
        log.info("closed etcd server", name=config.name, data_dir=config.data_dir)
    return (1 if node.failed else 0), ended


async def _open_to_clients(node: Node, front: AnyFront, config: Config, log: Log, ports: Ports) -> list[HttpPort]:
    fixtures = Path(config.data_dir, "fixtures", "client")
    tls = self_signed.complete(config.client_tls, fixtures, hosts(config.listen_client_urls), log)
    http_ports = [HttpPort(node, ports.metrics, tls, answer_metrics_port), HttpPort(node, ports.http, tls, answer)]
    for listener in ports.metrics:
        log.info("serving metrics", address=listener.address)
    await front.serve(tls)
    traffic = "grpc" if ports.http else "grpc+http"
    for listener, kind in [*((one, traffic) for one in ports.client), *((one, "http") for one in ports.http)]:
        if listener.plain:
            text = "serving client traffic insecurely; this is strongly discouraged!"
            log.warn(text, traffic=kind, address=listener.address)
        if listener.tls:
            log.info("serving client traffic securely", traffic=kind, address=listener.address)
    log.info("ready to serve client requests")
    _notify_systemd()
    return http_ports


def _notify_systemd() -> None:
    """READY=1 for a unit of Type=notify."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect("\0" + path[1:] if path.startswith("@") else path)
            sender.sendall(b"READY=1")
