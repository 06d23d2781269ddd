"""
Log lines shaped as etcd's (zap): one JSON object a line, or the console form.

    {"level":"info","ts":"2026-08-20T10:00:00.000000Z","caller":"server/main.py:94","msg":"ready to serve ..."}

Call `log.info(message, key=value, ...)`: underscores of keys become dashes. Any thread may log; a line is one write.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "dpanic": logging.CRITICAL,
    "panic": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}
WORDS = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}


class Formatter(logging.Formatter):
    """Turns a record into a line; `fields` of the record are the extra keys."""

    def __init__(self, console: bool = False) -> None:
        super().__init__()
        self.console = console

    def format(self, record: logging.LogRecord) -> str:
        path = Path(record.pathname)
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        level, caller = WORDS.get(record.levelno, "info"), f"{path.parent.name}/{path.name}:{record.lineno}"
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["stacktrace"] = self.formatException(record.exc_info)
        if self.console:
            extra = f"\t{json.dumps(fields, default=str)}" if fields else ""
            return f"{time}\t{level}\t{caller}\t{record.getMessage()}{extra}"
        line = {"level": level, "ts": time, "caller": caller, "msg": record.getMessage(), **fields}
        return json.dumps(line, default=str, separators=(",", ":"), ensure_ascii=False)


class Log:
    """A logger with etcd's levels and fields."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def _write(self, level: int, message: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            named = {key.replace("_", "-"): value for key, value in fields.items()}
            self._logger.log(level, "%s", message, extra={"fields": named}, stacklevel=3)

    def debug(self, message: str, **fields: object) -> None:
        self._write(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: object) -> None:
        self._write(logging.INFO, message, fields)

    def warn(self, message: str, **fields: object) -> None:
        self._write(logging.WARNING, message, fields)

    def error(self, message: str, **fields: object) -> None:
        self._write(logging.ERROR, message, fields)

    def fatal(self, message: str, **fields: object) -> None:
        """The last line before the process ends; it is the caller who ends it."""
        self._write(logging.CRITICAL, message, fields)

    def at(self, level: str, message: str, **fields: object) -> None:
        self._write(LEVELS[level], message, fields)


def go_duration(seconds: float) -> str:
    """1h2m3s, 1.5s, 20ms, 3.25µs: as Go writes a time.Duration."""
    ns = round(abs(seconds) * 1e9)
    sign = "-" if seconds < 0 and ns else ""
    if ns < 1_000_000_000:
        unit, size = next((pair for pair in (("ms", 10**6), ("µs", 10**3)) if ns >= pair[1]), ("ns", 1))
        return f"{sign}{_decimal(ns, size)}{unit}" if ns else "0s"
    minutes, ns = divmod(ns, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    whole = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{whole}{_decimal(ns, 10**9)}s"


def _decimal(number: int, size: int) -> str:
    """number / size, without zeros at the end."""
    fraction = f"{number % size:0{len(str(size)) - 1}d}".rstrip("0") if size > 1 else ""
    return f"{number // size}.{fraction}" if fraction else str(number // size)


def open_log(level: str = "info", form: str = "json", outputs: tuple[str, ...] = ("default",)) -> Log:
    """The node's log. Outputs: default and stderr, stdout, or paths; OSError if one cannot be opened."""
    logger = logging.getLogger("fastkv.server")
    logger.setLevel(LEVELS[level])
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    for output in outputs:
        handler = _handler(output)
        handler.setFormatter(Formatter(console=form == "console"))
        logger.addHandler(handler)
    # grpcio and asyncio report what goes wrong inside them through logging: same form, same place.
    for name in ("grpc", "asyncio"):
        other = logging.getLogger(name)
        other.handlers, other.propagate = list(logger.handlers), False
    return Log(logger)


def _handler(output: str) -> logging.Handler:
    match output:
        case "default" | "stderr":
            return logging.StreamHandler(sys.stderr)
        case "stdout":
            return logging.StreamHandler(sys.stdout)
        case path:
            return logging.FileHandler(path, encoding="utf-8")
