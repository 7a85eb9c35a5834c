"""What every command prints with: results on stdout, everything about how it goes on stderr."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console
from rich.table import Table

__all__ = ["ERR", "OUT", "duration", "size", "table"]

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table in the house style."""
    empty = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        empty.add_column(column, overflow="fold")
    return empty


def duration(seconds: float) -> str:
    """``0:01:05`` from a minute on, ``12.3 s`` below."""
    return str(timedelta(seconds=round(seconds))) if seconds >= 60 else f"{seconds:.1f} s"


def size(count: int) -> str:
    """Bytes in the largest unit that leaves a whole number before the point: ``5.5 GB``, ``268 kB``."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
