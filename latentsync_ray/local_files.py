"""What this package asks of the disks of this machine beyond fsspec, which counts a folder that cannot be listed as empty.

Knows paths only, and raises what the system does.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

__all__ = ["found", "move", "sync"]


_NO_SYNC = {errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
"""What filesystems say that have no ``fsync``, as some of object stores."""


def found(folder: str) -> dict[str, int]:
    """Path -> bytes of all files in ``folder`` and below; none when it does not exist. What vanishes meanwhile is left out.

    Raises OSError when a folder cannot be listed.
    """
    sizes: dict[str, int] = {}
    for place, _, names in os.walk(folder, onerror=_unless_missing):
        for path in (Path(place, name) for name in names):
            with suppress(FileNotFoundError):
                sizes[str(path)] = path.stat().st_size
    return sizes


def move(draft: str, path: str) -> None:
    """Give a file its name, over an existing one; on another disk, by way of a hidden copy there."""
    try:
        Path(draft).replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = Path(path).with_name(Path(draft).name)
        try:
            shutil.copyfile(draft, beside)
            sync(str(beside))
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        Path(draft).unlink()


def sync(path: str) -> None:
    """Have a file's content on the disk: else its name may survive a machine that dies, and the content not."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(file)


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
