"""Writing the table's files: new ones, merged ones, and all of them in the folders that the job wants.

Knows no clips: which rows count is the ``ledger``'s affair.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from latentsync_ray.layout import drafts_folder, join, metadata_folder, partition_of
from latentsync_ray.records.files import SUPERSEDES, encoded, metadata_files, read_all, read_file, row_count
from latentsync_ray.records.partition import check_values, split
from latentsync_ray.storage import delete, write_bytes

__all__ = ["Writer"]

MOST_ROWS, MOST_BYTES = 400_000, 128_000_000
"""Of a merged file."""
_FEW_ROWS = 10_000
"""Files of no more than these are always worth merging."""
_TIMES = 4
"""A larger one is when it has no more than so many times the rows of all smaller ones: so each row is rewritten a few times."""
_CROWD = 50
"""Files of a folder that a run writes before it merges them."""


class _File(NamedTuple):
    uri: str
    rows: int
    size: int


class Writer:
    """Writes the files of an output's table, in folders by the columns ``partition_by``."""

    def __init__(self, output: str, partition_by: Sequence[str]) -> None:
        self._output, self._folder, self._names = output, metadata_folder(output), list(partition_by)
        self._run = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
        self._counts: Counter[str] = Counter()
        """Folder -> files written there."""
        self._merged: Counter[str] = Counter()
        """The same when it was merged last."""

    def add(self, table: pa.Table) -> Iterator[pa.Table]:
        """Write rows, and give those that are safe, file by file."""
        for place, rows in split(table, self._names):
            self._write(place, rows, kind="part")
            yield rows

    def rewrite(self, uri: str, table: pa.Table) -> None:
        """Write the rows of ``read_file`` that are left of a file, or remove it when none are."""
        if len(table) == 0:
            delete([uri], below=self._folder)
        else:
            self._put(uri, _bare(table, partition_of(uri, self._output) or {}))

    def crowded(self) -> bool:
        """Whether a folder has got so many files that they should be merged before the run ends."""
        return any(map(self._is_crowded, self._counts))

    def compact(self, *, crowded: bool = False) -> None:
        """Merge small files into large ones, of all folders or only the crowded ones.

        A merged file names those it replaces, so their rows never count twice.
        """
        for place, sizes in self._small().items():
            if crowded and not self._is_crowded(place):
                continue
            files = [_File(uri, row_count(uri), size) for uri, size in sizes.items()]
            for run in _runs([file for file in files if file.rows < MOST_ROWS // 2]):
                for group in _groups(run):
                    self._merge(place, group)
            self._merged[place] = self._counts[place]

    def arrange(self, note: Callable[[str], None] | None, confirm: Callable[[], None]) -> None:
        """Move the rows of files that lie in other folders than they should. Killed meanwhile, it leaves rows twice at most."""
        wrong = [uri for uri in metadata_files(self._output) if list(partition_of(uri, self._output) or {}) != self._names]
        if not wrong:
            return
        self._check_values(wrong)
        confirm()
        if note:
            note(
                f"laying out the table {'by ' + ', '.join(self._names) if self._names else 'in one folder'}: {len(wrong)} files"
            )
        for group in _groups(_File(uri, row_count(uri), 0) for uri in wrong):
            table = pa.concat_tables(
                [_plain(read_file(file.uri, self._output)) for file in group], promote_options="permissive"
            )
            for place, rows in split(table, self._names):
                self._write(place, rows, kind="moved")
            delete([file.uri for file in group], below=self._folder)
        self.compact()

    def _check_values(self, uris: list[str]) -> None:
        for columns in read_all(uris, self._output, columns=self._names, each=_distinct)[0].values():
            for name, values in columns.items():
                check_values(name, values)

    def _is_crowded(self, place: str) -> bool:
        return self._counts[place] - self._merged[place] >= _CROWD

    def _small(self) -> dict[str, dict[str, int]]:
        """Folder -> files that may be worth merging, and their bytes."""
        places: dict[str, dict[str, int]] = {}
        for uri, size in metadata_files(self._output).items():
            if size < MOST_BYTES // 2:
                places.setdefault(uri.removeprefix(join(self._folder, "")).rpartition("/")[0], {})[uri] = size
        return places

    def _merge(self, place: str, group: list[_File]) -> None:
        if len(group) < 2:
            return
        merged = pa.concat_tables([read_file(file.uri, self._output) for file in group], promote_options="permissive")
        names = [file.uri.rpartition("/")[2] for file in group]
        self._write(place, merged.replace_schema_metadata({SUPERSEDES: json.dumps(names)}), kind="merged")
        delete([file.uri for file in group], below=self._folder)

    def _write(self, place: str, table: pa.Table, *, kind: str) -> None:
        name = f"{kind}-{self._run}-{self._counts[place]:05d}.parquet"
        self._put(join(self._folder, *([place] if place else []), name), _bare(table, self._names))
        self._counts[place] += 1  # not of one that failed: it may be there all the same, and has to be written over

    def _put(self, uri: str, table: pa.Table) -> None:
        write_bytes(uri, encoded(table), drafts=drafts_folder(self._output))  # Polars reads hidden files of the table's folder


def _runs(files: list[_File]) -> Iterator[list[_File]]:
    """Files of a like number of rows each, which are worth merging, in the order of their names."""
    run: list[_File] = []
    for file in sorted(files, key=lambda file: file.rows):
        if run and file.rows > max(_FEW_ROWS, _TIMES * sum(each.rows for each in run)):
            yield sorted(run)
            run = []
        run.append(file)
    yield sorted(run)


def _groups(files: Iterable[_File]) -> Iterator[list[_File]]:
    """As many of the files as one may hold the rows of."""
    group: list[_File] = []
    for file in files:
        if group and (
            sum(each.rows for each in group) + file.rows > MOST_ROWS
            or sum(each.size for each in group) + file.size > MOST_BYTES
        ):
            yield group
            group = []
        group.append(file)
    if group:
        yield group


def _bare(table: pa.Table, names: Iterable[str]) -> pa.Table:
    """Without the columns that the place tells."""
    return table.drop_columns([name for name in names if name in table.column_names])


def _distinct(_: pa.Schema, table: pa.Table) -> dict[str, pa.Array]:
    return {name: table[name].cast(pa.string()).unique() for name in table.column_names}


def _plain(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata(None)
