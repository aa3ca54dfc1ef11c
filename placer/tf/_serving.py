"""A process that others run ops on: ``python -m placer.tf._serving``.

It lives as long as its standard input is open.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from placer.errors import PlacerError
from placer.tf import _throttle, _wire
from placer.tf.servers import address_of, start_server


def main() -> None:
    """Serves on a free port of the loopback interface; says which one; ends with its input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--core", type=int, required=True)
    parser.add_argument("--share", type=float, default=1.0)
    arguments = parser.parse_args()
    replies = _wire.take_stdout()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})  # before TensorFlow starts its threads
    try:
        server = start_server(intra_op_threads=1, inter_op_threads=2, gpus=False)
    except PlacerError as error:
        _wire.write_all(replies, _wire.frame(_wire.Failure(str(error))))
        sys.exit(1)
    if arguments.share < 1:
        throttle = [sys.executable, "-I", "-S", _throttle.__file__]
        command = [*throttle, str(os.getpid()), str(arguments.share)]
        subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    _wire.write_all(replies, _wire.frame(_wire.Ready(address_of(server))))
    while os.read(0, 4096):
        pass
    os._exit(0)  # a server cannot be stopped


if __name__ == "__main__":
    main()
