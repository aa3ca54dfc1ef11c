"""TensorFlow servers, on which other processes run ops."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Any

from placer.errors import PlacerError, UsageError


def start_server(
    port: int = 0,
    *,
    everywhere: bool = False,
    intra_op_threads: int = 0,
    inter_op_threads: int = 0,
    gpus: bool = True,
) -> Any:
    """Starts a TensorFlow server that waits to be told of the others by whoever runs a step.

    TensorFlow's servers listen on all addresses whatever they are told. Unless `everywhere`, the
    kernel is told to let in what comes over the loopback interface only, before the server answers
    its first request; ``ss -tln`` shows ``*%lo:port``.

    Args:
        port: Where to listen; 0 for any port that is free.
        everywhere: Whether other hosts may connect.
        intra_op_threads: Threads of one op; 0 for one per core.
        inter_op_threads: Ops that run at once; 0 for one per core.
        gpus: Whether it uses the GPUs of the host.

    Returns:
        The server. It runs until the process ends.

    Raises:
        PlacerError: The port is in use, or this system cannot keep others out.
    """
    import tensorflow as tf

    if not 0 <= port < 2**16:
        raise UsageError(f"port is {port}; expected one from 1 to 65535, or 0 for any")
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=intra_op_threads,
        inter_op_parallelism_threads=inter_op_threads,
        device_count=None if gpus else {"GPU": 0},
    )
    host = socket.gethostname() if everywhere else "127.0.0.1"
    others = set() if everywhere else _listeners()
    try:
        # sessions will call it a task of job "worker", which must not be its name before
        server = tf.distribute.Server({"alone": [f"{host}:{port}"]}, config=config, start=False)
    except tf.errors.OpError as error:
        why = "it may be in use" if port else error.message
        raise PlacerError(f"a server cannot listen on port {port}: {why}") from None
    if not everywhere:
        _accept_loopback_only(_listeners() - others)
    server.start()
    return server


def address_of(server: Any) -> str:
    """Where a server listens, as ``"host:port"``."""
    address: str = server.target.removeprefix("grpc://")
    return address


def _accept_loopback_only(listeners: Iterable[int]) -> None:
    """Ties sockets to the loopback interface.

    Args:
        listeners: Their file descriptors.

    Raises:
        PlacerError: The system does not have or allow that.
    """
    try:
        for descriptor in listeners:
            with socket.socket(fileno=os.dup(descriptor)) as listener:
                option = socket.SO_BINDTODEVICE  # type: ignore[attr-defined,unused-ignore]
                listener.setsockopt(socket.SOL_SOCKET, option, b"lo\0")
    except (AttributeError, OSError) as error:
        raise _cannot_tie(error) from None


def _listeners() -> set[int]:
    """File descriptors of the sockets on which this process listens.

    Raises:
        PlacerError: The system does not tell.
    """
    found = set()
    try:
        names = os.listdir("/proc/self/fd")
    except OSError as error:
        raise _cannot_tie(error) from None
    for name in names:
        try:
            with socket.socket(fileno=os.dup(int(name))) as candidate:
                if candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.add(int(name))
        except OSError:  # no socket, or the listing itself
            continue
    return found


def _cannot_tie(error: Exception) -> PlacerError:
    return PlacerError(
        "TensorFlow's server listens on all addresses, and this system cannot tie it to the "
        f"loopback interface ({error}); expected Linux 5.7 or newer"
    )
