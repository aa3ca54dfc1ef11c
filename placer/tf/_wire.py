"""What a process that measures and the one that asks it say to each other.

Each message is its length in four bytes, then JSON. Nothing is unpickled.
"""

from __future__ import annotations

import os
import queue
import struct
import threading
import traceback
from collections.abc import Callable
from typing import TypeVar

import msgspec

_LENGTH = struct.Struct(">I")
T = TypeVar("T")


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """A process has started.

    Attributes:
        address: Where it listens, as ``"host:port"``, if it does.
        devices: Names of the devices that it can measure on, if it measures.
    """

    address: str = ""
    devices: tuple[str, ...] = ()


class Request(msgspec.Struct, tag="request", frozen=True):
    """A placement to measure.

    Attributes:
        devices: Index of the device of each op, ``[num_ops]``.
        previous: Index of the op that each op follows on its device, -1 for none, ``[num_ops]``;
            empty for TensorFlow's own order.
        traced: Whether to take statistics of one more step.
    """

    devices: list[int]
    previous: list[int] = []
    traced: bool = False


class OpTimes(msgspec.Struct, array_like=True, frozen=True):
    """When an op of a step had its inputs, began and ended, in seconds from one moment on."""

    name: str
    ready_seconds: float
    start_seconds: float
    finish_seconds: float


class Times(msgspec.Struct, tag="times", frozen=True):
    """How long steps took.

    Attributes:
        warmup_seconds: Of each step that warms up.
        step_seconds: Of each step that counts.
        trace: When each op ran in the traced step.
    """

    warmup_seconds: tuple[float, ...]
    step_seconds: tuple[float, ...]
    trace: tuple[OpTimes, ...] = ()


class Failure(msgspec.Struct, tag="failure", frozen=True):
    """Why a placement or the start of a process failed.

    Attributes:
        reason: What happened.
        ran: Whether a step was run, so that there may be something left of it.
    """

    reason: str
    ran: bool = False


class Step(msgspec.Struct, tag="step", frozen=True):
    """How to run a step, whose graph, values and settings are in files.

    Attributes:
        devices: Names of the devices of placements, ``[num_devices]``.
        workers: Where the servers are that ops run on, as ``"host:port"``; none to run them here.
        variables: Names of the ``VarHandleOp`` nodes that have a value.
        inputs: Names of the placeholders, which have a value too.
        targets: Names of the ops that a step is run for.
        warmup: How many steps warm up.
        steps: How many steps count.
    """

    devices: tuple[str, ...]
    workers: tuple[str, ...]
    variables: tuple[str, ...]
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    warmup: int
    steps: int


Message = Step | Request
Reply = Ready | Times | Failure
_decode_message = msgspec.json.Decoder(Message).decode
_decode_reply = msgspec.json.Decoder(Reply).decode


def frame(message: msgspec.Struct) -> bytes:
    """A message as it is sent."""
    content = msgspec.json.encode(message)
    return _LENGTH.pack(len(content)) + content


def split_frame(data: bytes) -> tuple[bytes, bytes] | None:
    """The first message of the bytes received and the rest, or None if more has to come."""
    if len(data) < _LENGTH.size:
        return None
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    return (data[_LENGTH.size : end], data[end:]) if len(data) >= end else None


def decode_message(content: bytes) -> Message:
    """A message to a process that measures.

    Raises:
        msgspec.DecodeError: It is none.
    """
    message: Message = _decode_message(content)
    return message


def decode_reply(content: bytes) -> Reply:
    """A message from a process that was started.

    Raises:
        msgspec.DecodeError: It is none.
    """
    reply: Reply = _decode_reply(content)
    return reply


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of it to a file descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def take_stdout() -> int:
    """A descriptor that alone leads to whoever started this process; prints go to the errors."""
    replies = os.dup(1)
    os.dup2(2, 1)
    return replies


def receive(decode: Callable[[bytes], T]) -> queue.SimpleQueue[T]:
    """What comes from the standard input; its end ends the process, whatever it is doing then.

    Args:
        decode: Makes a message of its bytes.
    """
    messages: queue.SimpleQueue[T] = queue.SimpleQueue()

    def hand_on() -> None:
        received = b""
        try:
            while data := os.read(0, 1 << 20):
                received += data
                while (found := split_frame(received)) is not None:
                    content, received = found
                    messages.put(decode(content))
        except Exception:
            traceback.print_exc()  # the last words
        os._exit(1)

    threading.Thread(target=hand_on, daemon=True).start()
    return messages
