"""What a run tells of itself from its first moment to its last."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from latentsync_ray import Cluster, ConfigError, Job, Pair, Recipe, run
from latentsync_ray.types import ClipRecord, Part


class Heard:
    """A display that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def phase(self, text: str) -> None:
        self.told.append(text)

    def start(self, total: int, done: int) -> None:
        self.told.append(f"start {total} {done}")

    def frames(self, count: int) -> None:
        self.told.append(f"frames {count}")

    def clip(self, record: ClipRecord) -> None:
        self.told.append(f"clip {record.clip_id}")

    def note(self, text: str) -> None:
        self.told.append(f"note {text}")

    def stop(self) -> None:
        self.told.append("stop")


def job(folder: Path) -> Job:
    for name in ("v.mp4", "a.wav"):
        (folder / name).write_bytes(b"")
    (folder / "pairs.csv").write_text("clip_id,video,audio\nanna,v.mp4,a.wav\n")
    recipe = Recipe(model="tiny-random")
    return Job(manifest=folder / "pairs.csv", output=folder / "out", recipe=recipe, cluster=Cluster(runner="local"))


def dub(pairs: Iterable[Pair], job: Job, *, on_phase: Callable[[str], None]) -> Iterator[Part | ClipRecord]:
    """A runner without a model."""
    for pair in pairs:
        on_phase("loading the model")
        yield Part(clip_id=pair.clip_id, video=pair.video, audio=pair.audio, stop=32, segment_count=1)
        yield ClipRecord(clip_id=pair.clip_id, video=pair.video, audio=pair.audio, status="ok", output="o", frames=32)


def test_every_phase_is_told_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentsync_ray.local.dub", dub)
    heard = Heard()
    run(job(tmp_path), progress=heard)
    assert [told for told in heard.told if not told.startswith("note")] == [
        "reading the manifest",
        "reading the records of earlier runs",
        "checking the inputs",
        "checking the model",
        "start 1 0",
        "loading the model",
        "dubbing",
        "frames 32",
        "clip anna",
        "writing the table",
        "stop",
    ]


def test_a_run_that_breaks_off_tells_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    with pytest.raises(ConfigError, match="cannot read the manifest"):
        run(Job(manifest=tmp_path / "nowhere.csv", output=tmp_path / "out"), progress=heard)
    assert heard.told == ["reading the manifest", "stop"]

    def broken(pairs: Iterable[Pair], job: Job, *, on_phase: Callable[[str], None]) -> Iterator[Part | ClipRecord]:
        logging.getLogger("latentsync_ray.pipeline").warning("a worker died")
        yield from ()
        raise ZeroDivisionError

    monkeypatch.setattr("latentsync_ray.local.dub", broken)
    heard = Heard()
    with pytest.raises(ZeroDivisionError):
        run(job(tmp_path), progress=heard)
    assert heard.told[-2:] == ["note a worker died", "stop"]
