"""Zip archives, opened with care: what cannot be trusted raises Damaged before it costs memory."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

_DIRECTORY = 16 << 20
"""Largest list of members in bytes: some 100 000 members."""
_TAIL = (1 << 16) + 22
"""Bytes at the end in which the list of members is announced."""
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    LookupError,
    OverflowError,
    OSError,
    EOFError,
    RuntimeError,
)


class Damaged(Exception):
    """No archive, or a damaged or a dishonest one."""


@contextmanager
def opened(file: io.BufferedIOBase) -> Iterator[zipfile.ZipFile]:
    """An archive; it is only read. Raises Damaged, also for what goes wrong within the block."""
    try:
        size = _directory(file)
        if size > _DIRECTORY:
            raise Damaged(f"its list of members takes {size} bytes, at most {_DIRECTORY} are read")
        with zipfile.ZipFile(file) as archive:
            yield archive
    except Damaged:
        raise
    except _ERRORS as error:
        raise Damaged(_reason(error)) from error


def read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    """The first `limit` bytes of a member. Raises Damaged."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Damaged(f"it is packed by method {member.compress_type}, wanted stored or deflated")
    try:
        with archive.open(member) as file:
            return file.read(limit)
    except _ERRORS as error:
        raise Damaged(_reason(error)) from error


def misplaced(file: io.BufferedIOBase, archive: zipfile.ZipFile) -> bool:
    """Whether readers would disagree on where members are: there are bytes in front of the archive.

    Python's reader corrects the places told in the archive by the number of such bytes, others do not.
    """
    members = archive.infolist()
    if not members:
        return False
    file.seek(archive.start_dir)
    told = int.from_bytes(file.read(46)[42:46], "little")
    return told != 0xFFFFFFFF and told != members[0].header_offset


def _directory(file: io.BufferedIOBase) -> int:
    """Bytes that the list of members is said to take."""
    end = file.seek(0, 2)
    start = max(0, end - _TAIL)
    file.seek(start)
    tail = file.read(_TAIL)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise Damaged("it lacks its list of members, so it is truncated")
    if tail[max(0, at - 20) : max(0, at - 16)] == b"PK\x06\x07":  # of more than 4 GB, or of PyTorch
        return int.from_bytes(tail[max(0, at - 36) : max(0, at - 28)], "little")
    return int.from_bytes(tail[at + 12 : at + 16], "little")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
