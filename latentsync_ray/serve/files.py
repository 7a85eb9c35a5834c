"""Uploads and results: bytes in a folder or bucket under random names, and what they are in the database.

A client's file name is shown to people, never used as a path.
"""

from __future__ import annotations

import mimetypes
import re
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, delete, func, select, update
from sqlalchemy.orm import Session

from latentsync_ray import assets, storage
from latentsync_ray.errors import TooLarge
from latentsync_ray.layout import file_uri, join, upload_folder
from latentsync_ray.serve.tables import FileRow
from latentsync_ray.sinks import Published, publish_file

__all__ = ["Files", "MissingParts", "Results", "shown_name"]

_SHIPPED = {"demo/demo.mp4": assets.demo_video, "demo/demo.wav": assets.demo_audio}
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")
_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(;[\w .=+-]*)?", re.ASCII)  # it becomes a header
_DEFAULT_TYPE = "application/octet-stream"
_MOST_PARTS = 10_000


class MissingParts(Exception):
    """An upload was completed with parts that never arrived."""


class Files:
    """The files of a server, whose bytes lie in ``folder`` (a path or URI)."""

    def __init__(self, engine: Engine, folder: str) -> None:
        self._engine, self._folder = engine, folder
        self._arriving: Counter[str] = Counter()

    @contextmanager
    def arriving(self, key_name: str) -> Iterator[Callable[[int], int]]:
        """A counter of bytes on their way: takes some more, and says how many there are of all uploads of the key here."""
        mine = 0

        def count(size: int) -> int:
            nonlocal mine
            mine += size
            self._arriving[key_name] += size
            return self._arriving[key_name]

        try:
            yield count
        finally:
            self._arriving[key_name] -= mine

    def reserve(self, key_name: str, name: str | None, content_type: str | None) -> FileRow:
        """A place for a file that has yet to arrive."""
        kind = content_type if content_type and _TYPE.fullmatch(content_type) else None
        shown = shown_name(name, kind)
        row = FileRow(
            token=secrets.token_urlsafe(24),
            name=shown,
            content_type=(kind or mimetypes.guess_type(shown)[0] or _DEFAULT_TYPE)[:128],
            key_name=key_name,
            size=None,
            created=time.time(),
            result=False,
        )
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            session.add(row)
        return row

    def get(self, token: str) -> FileRow | None:
        """What is known of a file; None when there is none."""
        if not _TOKEN.fullmatch(token):
            return None
        with Session(self._engine, expire_on_commit=False) as session:
            return session.get(FileRow, token)

    def store(self, row: FileRow, local: Path) -> None:
        """Keep the content of ``local`` as the file that was reserved. Raises StorageUnavailable or ConfigError."""
        storage.publish(local, self._uri(row.token))
        self._complete(row.token, local.stat().st_size)

    def named(self, token: str) -> Path | None:
        """The content of a complete file, or of the shipped ``demo/NAME``, on this machine; None when there is none."""
        if token in _SHIPPED:
            return _SHIPPED[token]()
        row = self.get(token)
        return self.local(row) if row and row.size is not None else None

    def local(self, row: FileRow) -> Path:
        """The content on this machine, to be read. Raises InputNotFound or StorageUnavailable."""
        return storage.fetch(self._uri(row.token))

    def store_part(self, row: FileRow, number: int, local: Path) -> None:
        """Keep one part of a file, from 1 on, until all are there."""
        if not 1 <= number <= _MOST_PARTS:
            raise MissingParts(f"part {number} is not one of 1 to {_MOST_PARTS}")
        storage.publish(local, self._part_uri(row.token, number))
        arrived = FileRow.arrived + local.stat().st_size
        with Session(self._engine) as session, session.begin():
            session.execute(update(FileRow).where(FileRow.token == row.token).values(arrived=arrived))

    def assemble(self, row: FileRow, numbers: Iterable[int], *, max_bytes: int) -> int:
        """Make the file of its parts and forget them: its size. Raises MissingParts, TooLarge, and what ``store`` raises."""
        numbers = sorted(set(numbers))
        there = set(storage.list_files(upload_folder(self._folder, row.token)))
        missing = [number for number in numbers if self._part_uri(row.token, number) not in there]
        if missing or not numbers:
            raise MissingParts(f"parts {missing[:5]} have not arrived" if missing else "an upload needs at least one part")
        with tempfile.TemporaryDirectory(prefix="latentsync-") as work:
            whole = Path(work) / "whole"
            with whole.open("wb") as file:
                for number in numbers:
                    with storage.fetch(self._part_uri(row.token, number)).open("rb") as part:
                        while block := part.read(1 << 20):
                            file.write(block)
                    if file.tell() > max_bytes:
                        raise TooLarge(f"the parts are together larger than the {max_bytes / 1e6:g} MB that this key may send")
            self.store(row, whole)
            size = whole.stat().st_size
        storage.delete(there)
        return size

    def used(self, key_name: str) -> int:
        """Bytes that a key's uploads take, unfinished ones included."""
        bytes_of = func.coalesce(FileRow.size, FileRow.arrived)
        mine = select(func.coalesce(func.sum(bytes_of), 0)).where(FileRow.key_name == key_name, FileRow.result.is_(False))
        with Session(self._engine) as session:
            return int(session.scalar(mine) or 0)

    def clean(self, *, older_than: float) -> int:
        """Remove files that are older."""
        with Session(self._engine) as session:
            tokens: Sequence[str] = session.scalars(select(FileRow.token).where(FileRow.created < older_than).limit(1000)).all()
        for token in tokens:
            storage.delete([self._uri(token), *storage.list_files(upload_folder(self._folder, token))])
        with Session(self._engine) as session, session.begin():
            session.execute(delete(FileRow).where(FileRow.token.in_(tokens)))
        return len(tokens)

    def keep_result(self, local: Path, request_id: str, key_name: str) -> tuple[FileRow, Published]:
        """Keep a finished clip."""
        row = self.reserve(key_name, f"{request_id}.mp4", "video/mp4")
        published = publish_file(local, self._uri(row.token), content_type="video/mp4")
        self._complete(row.token, published.bytes, result=True)
        return row, published

    def _complete(self, token: str, size: int, *, result: bool = False) -> None:
        with Session(self._engine) as session, session.begin():
            session.execute(update(FileRow).where(FileRow.token == token).values(size=size, result=result))

    def _uri(self, token: str) -> str:
        return file_uri(self._folder, token)

    def _part_uri(self, token: str, number: int) -> str:
        return join(upload_folder(self._folder, token), f"{number:05d}")


class Results:
    """The sink of one request: its clip becomes a file of the server."""

    content_type = "video/mp4"

    def __init__(self, files: Files, key_name: str) -> None:
        self._files, self._key_name = files, key_name
        self.file: FileRow | None = None

    def uri(self, clip_name: str) -> str:
        return f"{clip_name}.mp4"

    def publish(self, local_mp4: Path, clip_name: str) -> Published:
        self.file, published = self._files.keep_result(local_mp4, clip_name, self._key_name)
        return published


def shown_name(name: str | None, content_type: str | None = None) -> str:
    """A file name fit to be shown and to stand in a URL, whatever a client called it."""
    base = re.sub(r"[^\w.-]+", "_", re.split(r"[/\\]", name or "")[-1])[-100:].strip("._")
    if base:
        return base
    return "file" + (mimetypes.guess_extension((content_type or "").partition(";")[0]) or "")
