"""A CSV file as a table of text; whoever saved it in another way is told the row and what to do. Knows no columns."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from latentsync_ray import redact
from latentsync_ray.errors import ConfigError

__all__ = ["read_csv"]

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""What spreadsheets put between columns in place of commas."""
_SHOWN = 80
"""Characters of a wrong line."""


def read_csv(path: Path, name: str, *, columns: str = "video and audio") -> pa.Table:
    """All columns as text, empty ones as null: CSV has no types, and 007 stays 007. The first line names the columns.

    Raises ConfigError, which calls the file ``name``, for what is no CSV of commas in UTF-8; of an empty one it says that it
    must have these ``columns``.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
        _check_header(header, name, columns)
        return _table(path, header)
    except (UnicodeDecodeError, pa.ArrowInvalid) as error:
        problem = _not_utf8(path) or _wrong_row(path) or redact.text(str(error))
        raise ConfigError(f"cannot read {name}: {problem}") from redact.presentable(error, "")


def _check_header(header: list[str], name: str, columns: str) -> None:
    if not header:
        raise ConfigError(f"{name} is empty; its first line must name the columns, among them {columns}")
    used = next((sign for sign in _SEPARATORS if len(header) == 1 and sign in header[0]), None)
    if used:
        raise ConfigError(
            f"{name} has {_SEPARATORS[used]} between its columns ({header[0][:_SHOWN]!r}), and a CSV has commas: save it so"
        )


def _table(path: Path, header: list[str]) -> pa.Table:
    return pacsv.read_csv(
        path,
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), null_values=[""], strings_can_be_null=True
        ),
    )


def _not_utf8(path: Path) -> str:
    """Which line is not in UTF-8, and what to do about it; empty when all are."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                kind = "UTF-16" if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
                text = redact.text(line.decode("utf-8", "replace").strip())[:_SHOWN]
                return f"line {number} is not in UTF-8 ({text!r}); save it in UTF-8, e.g. with iconv -f {kind} -t UTF-8"
    return ""


def _wrong_row(path: Path) -> str:
    """Which row has too few or too many values, and what to do about it; empty when none has."""
    found: list[pacsv.InvalidRow] = []

    def keep(row: pacsv.InvalidRow) -> str:
        found.append(row)
        return "error"

    try:  # without threads: with them, rows have no numbers
        options = pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep)
        pacsv.read_csv(path, read_options=pacsv.ReadOptions(use_threads=False), parse_options=options)
    except pa.ArrowInvalid:
        pass
    if not found:
        return ""
    row = found[0]
    return (
        f"row {row.number - 1} has {row.actual_columns} values, and the header {row.expected_columns} "
        f"({redact.text(row.text)[:_SHOWN]!r}); put values that hold commas in double quotes"
    )
