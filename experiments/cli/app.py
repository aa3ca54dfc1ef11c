"""The application that commands register with: how it looks, and how it ends.

Results go to stdout, progress and errors to stderr. Exit codes: 0, 2 for bad input, 130 when
interrupted or terminated.
"""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from placer.errors import PlacerError


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Ends a command at SIGTERM as at Ctrl-C, so that processes and files aside go with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Group(TyperGroup):
    """Turns what goes wrong into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with _terminated_as_interrupted():
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
