"""Disks that fail, or die in the middle of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from latentsync_ray import retry, storage
from latentsync_ray.errors import StorageUnavailable


@pytest.fixture(autouse=True)
def at_once(monkeypatch) -> None:
    monkeypatch.setattr(retry._RETRYING, "sleep", lambda seconds: None)


@pytest.fixture
def stale(monkeypatch):
    """Lets a folder be listed only after so many failures; the list counts them."""

    def fail(folder: Path, times: int) -> list[str]:
        failed: list[str] = []

        def listed(path="."):
            if Path(path) == folder and len(failed) < times:
                failed.append(str(path))
                raise OSError(errno.ESTALE, "Stale file handle", str(path))
            return scandir(path)

        scandir = os.scandir
        monkeypatch.setattr(os, "scandir", listed)
        return failed

    return fail


def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path, stale):
    below = tmp_path / "metadata" / "language=de"
    below.mkdir(parents=True)
    (below / "x.parquet").write_bytes(b"rows")
    failed = stale(below, 2)
    assert storage.file_sizes(str(tmp_path)) == {str(below / "x.parquet"): 4}
    assert len(failed) == 2
    stale(below, 99)
    with pytest.raises(StorageUnavailable, match="Stale file handle"):
        storage.find_files(str(tmp_path))


def test_what_is_not_there_has_no_files(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert storage.file_sizes(str(tmp_path)) == {}
    assert storage.find_files(str(tmp_path / "nowhere")) == []
