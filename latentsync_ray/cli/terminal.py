"""What every command prints with: results on stdout, everything about how it goes on stderr."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console
from rich.table import Table

__all__ = ["ERR", "OUT", "duration", "table"]

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
