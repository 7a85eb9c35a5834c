"""Full disks: what counts as one, how it is told, and the folder for what a stage writes on the way.

A full disk is no clip's fault and does not pass while one waits: it is told at once, and as a failure that the next run makes
up for. Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentsync_ray.errors import StorageUnavailable

__all__ = ["full", "is_full", "scratch", "telling_full"]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Disk, quota of the user, and largest file that the file system or the user's limits allow."""


def is_full(error: BaseException | None) -> bool:
    """Whether ``error`` says that there is no room for what is written. PyAV's errors are OSErrors too."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def full(place: Path | str, error: BaseException | None) -> StorageUnavailable:
    """What a full disk at ``place`` is told as."""
    reason = getattr(error, "strerror", None) or "no space left"
    return StorageUnavailable(f"the disk of {place} is full ({reason}); free some space there and run again")


@contextmanager
def telling_full(place: Path | str) -> Iterator[None]:
    """Meanwhile, an error that means no room is raised as StorageUnavailable about ``place``; others pass."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise full(place, error) from error
        raise


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for temporary files, gone afterwards. Raises StorageUnavailable when its disk is full, also meanwhile."""
    try:
        place = tempfile.gettempdir()
    except FileNotFoundError as error:  # it tries to write a few bytes
        raise StorageUnavailable(
            f"there is no place for temporary files ({error.strerror}); free some space, or set TMPDIR to another folder"
        ) from error
    with telling_full(place), tempfile.TemporaryDirectory(prefix="latentsync-") as folder:
        yield Path(folder)
