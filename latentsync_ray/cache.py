"""A folder of downloaded files on this machine, shared by its processes and kept below a size.

Knows names and bytes, not where the bytes come from: ``storage.fetch`` brings the download.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from latentsync_ray.disk import telling_full
from latentsync_ray.errors import ConfigError

__all__ = ["cache_folder", "cached", "held"]

_REMEDY = "set LATENTSYNC_RAY_CACHE to a writable folder"
_IN_USE_SECONDS = 600
"""A file asked for so recently is never dropped: whoever asked may be about to open it."""


def cached(name: str, download: Callable[[Path], None]) -> Path:
    """The file ``name`` of the cache, made by ``download(draft)`` when it is not there.

    Two processes that want the same file wait for one download. Afterwards the files used longest ago are dropped until the
    cache is below its limit. Folder and limit come from LATENTSYNC_RAY_CACHE and LATENTSYNC_RAY_CACHE_GB. Raises ConfigError
    when they cannot be used, StorageUnavailable when the disk is full, and what ``download`` raises.
    """
    folder, limit = cache_folder(), _limit_bytes()
    path = folder / name
    with telling_full(folder), _lock(path):
        fresh = not path.exists()
        if fresh:
            draft = folder / f"{name}.part"
            try:
                download(draft)
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
        os.utime(path)  # the time of last use; access times are often switched off
    if fresh:
        _make_room(folder, limit)
    return path


def held(name: str) -> Path | None:
    """The file ``name`` of the cache, when it is there. Raises ConfigError as ``cached`` does."""
    path = cache_folder() / name
    with _lock(path):
        if not path.exists():
            return None
        os.utime(path)
    return path


def _make_room(folder: Path, limit: int) -> None:
    files = []
    for entry in list(os.scandir(folder)):
        with suppress(FileNotFoundError):  # a draft that somebody else finished meanwhile, or a file that was dropped
            if entry.is_file():
                files.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
    surplus = sum(size for _, size, _ in files) - limit
    for used, size, name in sorted(files):
        if surplus <= 0 or _in_use(used):
            return
        path = Path(name)
        try:
            with _lock(path, timeout=0):
                if path.exists() and not _in_use(path.stat().st_mtime):  # somebody may have asked for it since the listing
                    path.unlink()
                    surplus -= size
        except Timeout:
            continue  # being asked for right now


def _in_use(used: float) -> bool:
    return time.time() - used < _IN_USE_SECONDS


def _lock(path: Path, timeout: float = -1) -> FileLock:
    # Lock files cannot be removed safely; sharing them by the first digits of the name bounds how many there are.
    return FileLock(path.parent / "locks" / path.name[:3], timeout=timeout)


def cache_folder() -> Path:
    """Where the cache is. Raises ConfigError when it cannot be used."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "latentsync-ray"
    folder = Path(os.environ.get("LATENTSYNC_RAY_CACHE") or default).expanduser()
    try:
        (folder / "locks").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create the download cache {folder} ({error.strerror}); {_REMEDY}") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write to the download cache {folder}; {_REMEDY}")
    return folder


def _limit_bytes() -> int:
    text = os.environ.get("LATENTSYNC_RAY_CACHE_GB") or "20"
    try:
        return int(float(text) * 1e9)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"LATENTSYNC_RAY_CACHE_GB is {text!r}; it must be a number of gigabytes, e.g. 20") from error
