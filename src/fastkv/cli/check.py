"""`fastkv check DIR`: open a data directory without changing it, walk everything, say what is wrong."""

from __future__ import annotations

import sys

import click

from fastkv import engine
from fastkv.errors import Error


@click.command("check")
@click.argument("directory", metavar="DIR")
def command(directory: str) -> None:
    """Verify the data directory DIR: every record in log and checkpoints, and that index, leases and revisions agree.

    Nothing is changed or locked. Exit code 0: sound; 1: something is wrong, one line each on stderr.
    """
    options = engine.Options(readonly=True, log=lambda line: click.echo(f"note: {line}", err=True))
    try:
        store = engine.load()(directory, options)
    except (Error, ImportError) as reason:
        click.echo(str(reason), err=True)
        sys.exit(1)
    try:
        wrong = store.check()
        stats = store.stats()
    finally:
        store.close()
    for line in wrong:
        click.echo(line, err=True)
    if wrong:
        click.echo(f"{directory}: {len(wrong)} things are wrong", err=True)
        sys.exit(1)
    uncommitted = stats["last_index"] - stats["applied_index"]
    click.echo(
        f"{directory}: sound; revision {stats['revision']}, {stats['keys']} keys, {stats['records']} records, "
        f"{stats['leases']} leases, applied index {stats['applied_index']}"
        + (f"; {uncommitted} entries behind it are not known to be committed" if uncommitted > 0 else "")
    )
