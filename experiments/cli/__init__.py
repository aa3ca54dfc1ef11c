"""The command ``placer``.

A module here is a room of commands. It names their options; what they do is elsewhere in
:mod:`experiments`. Only light modules are imported at the top, so that ``placer --help`` is fast.
"""

from importlib import import_module

from experiments.cli.app import app

__all__ = ["app", "main"]

# importing a room registers its commands; they are listed in this order
for _room in (
    "inspecting",
    "simulating",
    "training",
    "pretraining",
    "comparing",
    "exporting",
    "importing",
    "measuring",
    "calibrating",
    "fidelity",
):
    import_module(f"experiments.cli.{_room}")


def main() -> None:
    """Runs the command."""
    app()
