"""
The `fastkv` command. Subcommands are modules of this package that load when they are asked for, so that `fastkv
check` needs no gRPC and `fastkv --version` needs nothing.
"""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

SUBCOMMANDS = {
    "serve": "Run a node: the etcd API from a data directory.",
    "check": "Verify a data directory; exit code 1 if anything is wrong.",
    "dump": "Print the log and the keys of a data directory.",
}


def exit_for_missing(subcommand: str, missing: ModuleNotFoundError) -> NoReturn:
    """Name the library that is not installed and what installs it; a module of our own that is missing is a bug."""
    if (missing.name or "").startswith("fastkv"):
        raise missing
    sys.exit(f'fastkv {subcommand}: {missing.name} is not installed: pip install "fastkv[server,cli]"')


def main() -> None:
    """Entry point of the console script."""
    try:
        import click
    except ImportError:
        sys.exit('fastkv: the command line needs click: pip install "fastkv[cli]"')

    from fastkv._version import __version__
    from fastkv.server.version import API_VERSION

    class Lazy(click.Group):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return list(SUBCOMMANDS)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            if cmd_name not in SUBCOMMANDS:
                return None
            try:
                module = importlib.import_module(f"fastkv.cli.{cmd_name}")
            except ModuleNotFoundError as missing:
                exit_for_missing(cmd_name, missing)
            command: click.Command = module.command
            return command

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            # The default would import every subcommand for its help line.
            with formatter.section("Commands"):
                formatter.write_dl(list(SUBCOMMANDS.items()))

    @click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(__version__, message=f"fastkv {__version__} (etcd API {API_VERSION})")
    def group() -> None:
        """fastkv: an ordered, versioned, watchable store; embedded, or served as an etcd."""

    group(prog_name="fastkv")
