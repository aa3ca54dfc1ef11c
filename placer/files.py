"""Reading and writing files so that nothing is lost and every error has a place."""

from __future__ import annotations

import errno
import glob
import gzip
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from placer.errors import FormatError, PlacerError, UnknownNameError, UsageError

T = TypeVar("T")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Returns a file's content, unzipped where its name ends in ``.gz``.

    Raises:
        FormatError: The file is missing, unreadable, or not gzip though its name says so.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file") from None
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # no file can be called so
        raise FormatError(f"{str(path)!r}: cannot be read ({error})") from None
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(f"{path}: expected gzip data ({error})") from None


def read_named(
    kind: str, path: str | os.PathLike[str], bundled: Mapping[str, Path]
) -> tuple[bytes, str]:
    """Returns the content of a file or, by its bare name, of a bundled one, and what to call it.

    Args:
        kind: What it is, for errors.
        path: The file or the name.
        bundled: The bundled files by name.

    Raises:
        FormatError: As :func:`read_bytes`.
        UnknownNameError: Neither a file nor the name of a bundled one.
    """
    text = os.fspath(path)
    try:
        is_there = bool(text) and Path(text).exists()
    except OSError:  # such as where it is too long
        is_there = False
    if text in bundled and not is_there:
        return read_bytes(bundled[text]), f"bundled {kind} {text!r}"
    if not is_there and not Path(text).suffix and Path(text).name == text:
        raise UnknownNameError(kind, text, bundled)
    return read_bytes(path), text


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file aside and renames it, so that readers see the old or the new one, never a half.

    Zips where the name ends in ``.gz``; the zipped bytes depend on the content alone.

    Raises:
        PlacerError: The file cannot be written.
    """
    if Path(path).suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    with replacing(path) as aside:
        aside.write_bytes(content)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Checks that a file could be written now, before work is done that would be lost.

    Raises:
        PlacerError: It could not.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PlacerError(f"{path}: cannot be written ({error.strerror or error})") from None
    except ValueError as error:  # no file can be called so
        raise PlacerError(f"{str(path)!r}: cannot be written ({error})") from None


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a path aside to write to; renames it to `path` if the block succeeds.

    The path aside keeps the suffix, for writers that choose a format by it.

    Raises:
        PlacerError: The file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
        )
        os.close(handle)
        aside = Path(name)
        try:
            yield aside
            aside.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise PlacerError(f"{path}: cannot be written ({error.strerror or error})") from None


def remove_asides(path: str | os.PathLike[str]) -> None:
    """Removes what :func:`replacing` left aside where writers of a file were killed.

    Args:
        path: The file that they were to replace, which nobody else writes now.

    Raises:
        PlacerError: One cannot be removed.
    """
    path = Path(path)
    name, suffix = glob.escape(path.name), glob.escape(path.suffix)
    try:
        for aside in path.parent.glob(f".{name}.????????{suffix}"):  # as mkstemp calls them
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise PlacerError(f"{path}: cannot be written ({error.strerror or error})") from None


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Makes a folder, and keeps it to this process while the block runs.

    If nothing was written there in the end, it is gone again. The system gives it up when the
    process ends, however it does. Where the system cannot lock folders, as Windows and some network
    drives, nobody is kept out.

    Raises:
        UsageError: Another process keeps it.
        PlacerError: It cannot be made or opened.
    """
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    except OSError as error:
        raise PlacerError(f"{folder}: cannot be written ({error.strerror or error})") from None
    try:
        if descriptor is not None and not _lock(descriptor):
            raise UsageError(f"{folder}: another process is writing there")
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
        if not existed:
            with suppress(OSError):  # not empty
                folder.rmdir()


def _lock(descriptor: int) -> bool:
    """Locks a file until it is closed; False where another process has."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a drive without locks
        pass
    return True


def append_json_line(path: str | os.PathLike[str], row: msgspec.Struct) -> None:
    """Adds a struct to a file of JSON, one a line; it is on disk when this returns.

    Raises:
        PlacerError: The file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise PlacerError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_json_lines(path: str | os.PathLike[str], kind: type[T]) -> list[T]:
    """The structs that :func:`append_json_line` wrote; none if there is no file.

    A last line that is cut off, as where its writer was killed, is removed from the file.

    Raises:
        FormatError: Another line is no such struct; the message has its number.
        PlacerError: The file cannot be written.
    """
    if not Path(path).exists():
        return []
    content = read_bytes(path)
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        try:
            os.truncate(path, complete)
        except OSError as error:
            raise PlacerError(f"{path}: cannot be written ({error.strerror or error})") from None
    decoder = msgspec.json.Decoder(kind)
    rows = []
    for number, line in enumerate(content[:complete].splitlines(), start=1):
        try:
            rows.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"{path}:{number}: {error}") from None
    return rows


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def decode_json(content: bytes, kind: type[T], where: str) -> T:
    """Returns `content` as a `kind`, a msgspec struct whose first field is ``format``.

    Args:
        content: JSON.
        kind: The struct; its ``FORMAT`` is the format it reads.
        where: What to call the document in messages.

    Raises:
        FormatError: Not JSON, another format, or fields that do not fit; the message has the path.
    """
    result = _decode(content, kind, where, "JSON", msgspec.json.decode)
    check_keys_once(content, where)
    return result


def check_keys_once(content: bytes, where: str) -> None:
    """Refuses JSON with a key twice in one object, of which msgspec lets the last one win.

    Args:
        content: JSON that msgspec has read.
        where: What to call the document in messages.

    Raises:
        FormatError: There is one.
    """

    def check(pairs: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise FormatError(f"{where}: key {twice!r} is given twice in one object")

    # integers may have more digits than Python turns into numbers
    json.loads(content, object_pairs_hook=check, parse_int=str)


def decode_toml(content: bytes, kind: type[T], where: str) -> T:
    """As :func:`decode_json`, for TOML."""
    return _decode(content, kind, where, "TOML", msgspec.toml.decode)


def _decode(
    content: bytes, kind: type[T], where: str, language: str, decode: Callable[..., Any]
) -> T:
    try:
        try:
            result: T = decode(content, type=kind)
            return result
        except msgspec.ValidationError as error:
            # another format explains any other misfit
            document = decode(content)
            found = document.get("format") if isinstance(document, dict) else None
            expected = kind.FORMAT  # type: ignore[attr-defined]
            if found == expected:
                raise FormatError(f"{where}: {error}") from None
            given = "no format" if found is None else f"format {found!r}"
            raise FormatError(f"{where}: {given}; expected {expected!r}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{where}: not valid {language} ({error})") from None
    except RecursionError:
        raise FormatError(f"{where}: nested too deeply") from None
