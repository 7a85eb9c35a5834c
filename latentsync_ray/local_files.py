"""What this package asks of the disks of this machine beyond fsspec, which counts a folder that cannot be listed as empty.

Knows paths only, and raises what the system does.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["found"]


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


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
