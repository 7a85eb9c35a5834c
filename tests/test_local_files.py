"""Disks that fail, or die in the middle of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from latentsync_ray import retry, storage
from latentsync_ray.errors import StorageUnavailable
from latentsync_ray.layout import record_uri
from latentsync_ray.records import Records, commit_pending
from latentsync_ray.types import ClipRecord


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


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b'{"clip_id": "b", "sta'])
def test_a_torn_record_is_none(tmp_path, caplog, content):
    output = str(tmp_path)
    for name in ("a", "b"):
        commit_pending(output, ClipRecord(clip_id=name, video="v", audio="a", status="ok", output_path=f"clips/{name}.mp4"))
    torn = record_uri(output, "b")
    Path(torn).write_bytes(content)
    assert len(Records(output, read_only=True)) == 1
    assert Path(torn).exists()
    assert len(Records(output)) == 1
    assert not Path(torn).exists()
    assert f"{torn} is no whole record" in caplog.text


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda file: seen.append((os.fstat(file).st_size, (tmp_path / "a" / "b").exists())))
    storage.write_bytes(str(tmp_path / "a" / "b"), b"content")
    assert seen == [(7, False)]
