"""
`fastkv serve`: etcd's flags, as Go reads them, to a running node.

click parses; what it would read differently from Go is brought into one form first: one dash becomes two, and a bool
flag without a value becomes `--flag=true` (Go never takes the next word for it). Values stay text: server/flags.py
reads them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import click

from fastkv.cli.main import exit_for_missing
from fastkv.server.config import Config, ConfigError, UsageError, from_command_line
from fastkv.server.flags import FLAGS, LEGACY, help_text
from fastkv.server.gates import BY_OLD_FLAG
from fastkv.server.log import open_log
from fastkv.server.version import version_lines

USAGE = """\
Usage:

  fastkv serve [flags]
    Start a node.

  fastkv serve --version
    Show the version of the API.

  fastkv serve --help
    Show what the flags mean.
"""


def go_dialect(arguments: Iterable[str]) -> list[str]:
    """The arguments with two dashes and explicit bools."""
    out: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument in ("-", "--"):
            return [*out, argument, *rest]
        name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        flag = FLAGS.get(name)
        if equals:
            out.append(f"--{name}={value}")
        elif flag is not None and flag.kind == "bool":
            out.append(f"--{name}=true")
        elif name in ("h", "help"):
            out.append("--help")
        else:
            out.append(f"--{name}")
            # The value may begin with a dash ("--quota-backend-bytes -1"): it must not be looked at as a flag.
            if flag is not None and (following := next(rest, None)) is not None:
                out[-1] += f"={following}"
    return out


class ServeCommand(click.Command):
    """Parses go_dialect and reports as Go's flag package does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, go_dialect(args))
        except click.NoSuchOption as unknown:
            fail_usage(f"flag provided but not defined: -{unknown.option_name.lstrip('-')}")
        except click.BadOptionUsage as misused:
            fail_usage(f"flag needs an argument: -{(misused.option_name or '').lstrip('-')}")

    def get_help(self, ctx: click.Context) -> str:
        click.echo(USAGE, err=True)
        return help_text()


def fail_usage(text: str) -> NoReturn:
    click.echo(f"{text}\n{USAGE}", err=True)
    sys.exit(2)


def _options() -> list[click.Parameter]:
    names = [*FLAGS, *sorted(LEGACY), *BY_OLD_FLAG, *(f"experimental-{name}" for name in FLAGS)]
    options: list[click.Parameter] = [
        click.Option([f"--{name}", name.replace("-", "_")], hidden=True) for name in names
    ]
    return [*options, click.Argument(["words"], nargs=-1)]


def serve(words: tuple[str, ...], **options: str | None) -> None:
    given = {name.replace("_", "-"): text for name, text in options.items() if text is not None}
    if given.get("version") == "true":
        click.echo(version_lines())
        return
    log = open_log()
    try:
        if words:
            raise ConfigError(f'"{words[0]}" is not a valid flag')
        config = from_command_line(given, os.environ)
        log = open_log(config.log_level, config.log_format, config.log_outputs)
    except UsageError as error:
        fail_usage(str(error))
    except ConfigError as error:
        if error.level == "fatal":
            log.fatal(str(error), **error.fields)
        else:
            log.warn("failed to verify flags", error=str(error), **error.fields)
        sys.exit(1)
    except OSError as error:
        log.fatal("the log cannot be opened", error=str(error))
        sys.exit(1)
    sys.exit(_run(config, log))


def _run(config: Config, log: Any) -> int:
    # Libraries take a while to load; a mistyped flag shall be told at once.
    try:
        from fastkv.server.fronts import load
        from fastkv.server.main import run

        open_node = load(config.front, log)
    except ModuleNotFoundError as missing:
        exit_for_missing("serve", missing)
    return run(config, log, sys.argv, open_node)


command = ServeCommand("serve", callback=serve, params=_options(), short_help="Run a node.")
