from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from latentsync_ray.cache import _lock, cached
from latentsync_ray.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def keep(name: str, size: int = 1000) -> Path:
    def download(draft: Path) -> None:
        draft.write_bytes(b"x" * size)

    return cached(name, download)


def age(path: Path, *, hours: float) -> None:
    used = time.time() - hours * 3600
    os.utime(path, (used, used))


def test_what_is_there_is_not_made_again():
    first = keep("a")
    assert cached("a", lambda draft: pytest.fail("downloaded twice")) == first


def test_what_was_used_longest_ago_is_dropped(monkeypatch):
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE_GB", "25e-7")  # 2,500 bytes
    paths = {}
    for name, hours in [("a", 3), ("b", 5), ("c", 4)]:
        paths[name] = keep(name)
        age(paths[name], hours=hours)
    keep("a")  # used again: now the freshest
    keep("d")
    assert [name for name, path in paths.items() if path.exists()] == ["a"]


def test_what_is_in_use_is_never_dropped(monkeypatch):
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE_GB", "0")
    paths = [keep("a"), keep("b")]
    assert all(path.exists() for path in paths)
    age(paths[0], hours=1)
    keep("c")
    assert [path.exists() for path in paths] == [False, True]


def test_a_file_somebody_is_asking_for_stays(monkeypatch):
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE_GB", "0")
    old = keep("aaa")
    age(old, hours=1)
    with _lock(old):
        keep("bbb")
    assert old.exists()


def test_leftovers_of_a_killed_download_go_too(monkeypatch, folder):
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE_GB", "0")
    keep("a")
    leftover = folder / "b.part"
    leftover.write_bytes(b"half")
    age(leftover, hours=1)
    keep("c")
    assert not leftover.exists()


def test_a_download_that_ends_while_files_are_listed_disturbs_nobody(monkeypatch, folder):
    keep("a")
    (folder / "b.part").write_bytes(b"half")
    scandir = os.scandir

    def listed(place: Path) -> list[os.DirEntry]:
        entries = list(scandir(place))
        if place == folder:
            (folder / "b.part").replace(folder / "b")
        return entries

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", listed)
        assert keep("c").exists()
    assert (folder / "b").exists()


def test_the_size_limit_must_be_a_number(monkeypatch):
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE_GB", "plenty")
    with pytest.raises(ConfigError, match="LATENTSYNC_RAY_CACHE_GB is 'plenty'"):
        keep("a")


def test_the_folder_must_be_writable(monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match="set LATENTSYNC_RAY_CACHE"):
        keep("a")
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE", str(tmp_path / "readonly"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ConfigError, match="set LATENTSYNC_RAY_CACHE"):
        keep("a")
