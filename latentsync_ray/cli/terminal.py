"""What every command prints with: results on stdout, everything about how it goes on stderr."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console, ConsoleDimensions
from rich.table import Table

__all__ = ["ERR", "OUT", "duration", "show", "size", "table"]

_ENDLESS = 1_000_000


class _Console(Console):
    """Wraps lines for terminals only: in a pipe or a file each row stays one line, for grep and its like."""

    @property
    def size(self) -> ConsoleDimensions:
        known = super().size
        return known if self.is_terminal else ConsoleDimensions(_ENDLESS, known.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


OUT = _Console(highlight=False)
ERR = _Console(stderr=True, highlight=False)


def show(shown: Table) -> None:
    """Print a table; without the blanks that fill its last column, unless it is for a terminal."""
    if OUT.is_terminal:
        OUT.print(shown)
        return
    with OUT.capture() as captured:
        OUT.print(shown)
    for line in captured.get().splitlines():
        OUT.print(line.rstrip(), markup=False)


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
