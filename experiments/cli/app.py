"""The application that commands register with: how it looks, and how it ends.

Results go to stdout, progress and errors to stderr. Exit codes: 0, 2 for bad input, 130 when
interrupted.
"""

from __future__ import annotations

import errno
from typing import Any

import typer
from typer.core import TyperGroup

from placer.errors import PlacerError


class _Group(TyperGroup):
    """Turns what goes wrong into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PlacerError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader has left; typer knows what to do
                raise
            what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            typer.echo(f"error: {what}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    help="Learns where each op of a TensorFlow graph should run so that a step takes least time.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
