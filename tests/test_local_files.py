"""Disks that fail, or die in the middle of it."""

from __future__ import annotations

import errno
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from latentsync_ray import local_files, retry, storage
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


def test_drafts_of_an_output_lie_where_the_next_run_sweeps_them(tmp_path, monkeypatch):
    drafts, move = [], local_files.move

    def moved(draft: str, path: str) -> None:
        drafts.append(Path(draft))
        move(draft, path)

    monkeypatch.setattr(local_files, "move", moved)
    record = ClipRecord(clip_id="a", video="v", audio="a", status="ok", output_path="clips/a.mp4")
    commit_pending(str(tmp_path), record)
    with Records(str(tmp_path), partition_by=["status"]) as table:
        table.add(ClipRecord(clip_id="b", video="v", audio="a", status="failed"))
    storage.write_bytes(str(tmp_path / "_work" / "run.json"), b"{}")
    assert len(drafts) >= 4
    assert {draft.parent for draft in drafts} == {tmp_path / "_work" / "drafts"}
    assert not (tmp_path / "_work" / "drafts").exists()


@pytest.mark.parametrize("full", [False, True])
def test_a_folder_on_another_disk_is_written_too(tmp_path, monkeypatch, full):
    replace, copy = Path.replace, shutil.copyfile

    def replaced(self: Path, target: str | Path) -> Path:
        if self.parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(self, target)

    def copied(source: str, target: Path) -> None:
        copy(source, target)
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", replaced)
    monkeypatch.setattr(shutil, "copyfile", copied)
    local, clip = tmp_path / "x.mp4", tmp_path / "out" / "clips" / "talk" / "x.mp4"
    local.write_bytes(b"content")
    publish = partial(storage.publish, local, str(clip), drafts=str(tmp_path / "out" / "_work" / "drafts"))
    if full:
        with pytest.raises(StorageUnavailable, match="is full"):
            publish()
    else:
        publish()
    left = {Path(uri): size for uri, size in storage.file_sizes(str(tmp_path / "out")).items()}
    assert left == ({} if full else {clip: 7})
