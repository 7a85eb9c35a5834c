from __future__ import annotations

import errno
import shutil
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from latentsync_ray import Recipe, assets, disk
from latentsync_ray.errors import StorageUnavailable, UnreadableAudio
from latentsync_ray.media.colour import BT709
from latentsync_ray.media.encode import encode_part, planes_of
from latentsync_ray.media.join import join_parts
from latentsync_ray.media.speech import decode_speech
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.plan import Plan
from latentsync_ray.stages.sources import _samples
from latentsync_ray.stages.track import Track
from latentsync_ray.types import Pair


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_told_as_a_failure_that_passes(number):
    error = OSError(number, "no room")
    assert disk.is_full(error)
    with (
        pytest.raises(StorageUnavailable, match=r"the disk of /data is full \(no room\); free some space") as caught,
        disk.telling_full("/data"),
    ):
        raise error
    assert caught.value.__cause__ is error
    assert caught.value.transient


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "broken"), PermissionError("no"), ValueError("bug"), UnreadableAudio("x")]
)
def test_other_errors_pass(error):
    assert not disk.is_full(error)
    with pytest.raises(type(error)) as caught, disk.scratch():
        raise error
    assert caught.value is error


def test_a_scratch_folder_is_gone_afterwards():
    with disk.scratch() as folder:
        (folder / "a").write_bytes(b"x")
    assert not folder.exists()


def test_no_place_for_temporary_files(monkeypatch):
    """As Python tells it when the disks of /tmp, /var/tmp and the working folder are all full."""

    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(StorageUnavailable, match=r"No usable temporary directory .* set TMPDIR"), disk.scratch():
        pass


@pytest.fixture
def full_temp(tiny_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Temporary files lie on a disk of 64 kB."""
    monkeypatch.setattr(tempfile, "tempdir", str(tiny_disk))
    return tiny_disk


def test_stages_tell_of_a_full_disk_of_temporary_files(
    tiny_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pair = Recipe(detector="embedded"), Pair(clip_id="a", video=assets.demo_video(), audio=assets.demo_audio())
    plan, crop = Plan(recipe, str(tmp_path / "out")), Crop(recipe)
    tracked = next(Track(recipe, str(tmp_path / "out"))(plan(pair)))
    shutil.copy(pair.audio, tmp_path / "other.wav")  # what is known of a speech is kept, by its content and place
    other = Pair(clip_id="b", video=pair.video, audio=tmp_path / "other.wav")
    _samples.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", str(tiny_disk))
    for work in (lambda: plan(other), lambda: crop(tracked)):
        with pytest.raises(StorageUnavailable, match=rf"the disk of {tiny_disk} is full \(No space left on device\)"):
            work()
        assert list(tiny_disk.iterdir()) == []


@pytest.mark.parametrize("left", [0, 4096, 20_000, 40_000, 60_000])
def test_whoever_writes_there_is_told(full_temp: Path, left: int) -> None:
    """Speech by Python, the joined clip by FFmpeg, which writes when it likes."""
    noise = np.random.default_rng(0).integers(0, 255, (25, 128, 128, 3), dtype=np.uint8)
    part = encode_part(map(planes_of, noise), fps=Fraction(25), size=(128, 128), colour=BT709, crf=18, preset="ultrafast")
    for write in (
        lambda folder: decode_speech(assets.demo_audio(), folder / "speech.raw", max_seconds=60),
        lambda folder: join_parts([part], assets.demo_audio(), folder / "a.mp4", fps=Fraction(25)),
    ):
        told = pytest.raises(StorageUnavailable, match=f"the disk of {full_temp} is full")
        with told, disk.scratch() as folder:
            (folder / "ballast").write_bytes(b"x" * (65536 - left))
            write(folder)
        assert list(full_temp.iterdir()) == []
