"""One clip in one process: inputs at the edge of what there is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from eight_pairs import decoded, portrait
from make_clips import speech_like, write_clip, write_speech

from latentsync_ray import Cluster, ConfigError, Job, LipSync, Pair, Recipe, assets, lipsync, read_records, run, storage
from latentsync_ray.driver import dub
from latentsync_ray.errors import NoFace
from latentsync_ray.local import one_pass
from latentsync_ray.models.latentsync.denoise import denoise
from latentsync_ray.stages.crop import Crop
from latentsync_ray.stages.paste import Paste
from latentsync_ray.stages.under_way import UnderWay
from latentsync_ray.types import ClipRecord, FaceCrops, GeneratedFaces, Part, TrackedFaces

RECIPE = Recipe(model="tiny-random", steps=1, preset="ultrafast")


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return portrait(40)


def test_one_picture_and_a_second_of_speech(frames: np.ndarray, tmp_path: Path) -> None:
    video, audio = write_clip(tmp_path / "one.mp4", frames[:1]), write_speech(tmp_path / "s.wav", speech_like(1))
    record = lipsync(video, audio, tmp_path / "take..1.mp4", recipe=RECIPE)
    assert (record.status, record.frames, record.error) == ("ok", 25, None)
    assert record.clip_id == "take_1", "an id may not hold what the name of a file may"


@pytest.mark.parametrize("samples", [1, 160, 640])
def test_hardly_any_speech(samples: int, frames: np.ndarray, tmp_path: Path) -> None:
    video = write_clip(tmp_path / "v.mp4", frames)
    audio = write_speech(tmp_path / "s.wav", speech_like(1)[:samples])
    record = lipsync(video, audio, tmp_path / "out.mp4", recipe=RECIPE)
    assert (record.status, record.frames, record.error) == ("ok", 1, None)
    assert len(decoded(tmp_path / "out.mp4")) == 1


def test_the_rate_of_the_source_is_kept(frames: np.ndarray, tmp_path: Path) -> None:
    rate = Fraction(30000, 1001)
    video, audio = write_clip(tmp_path / "v.mp4", frames, fps=rate), write_speech(tmp_path / "s.wav", speech_like(1.2))
    record = lipsync(video, audio, tmp_path / "out.mp4", recipe=RECIPE.model_copy(update={"fps": "source"}))
    assert (record.status, record.frames) == ("ok", round(1.2 * rate))
    with av.open(tmp_path / "out.mp4") as container:
        assert container.streams.video[0].average_rate == rate


def test_speech_may_be_the_sound_of_a_video_and_is_copied(tmp_path: Path) -> None:
    record = lipsync(assets.demo_video(), assets.demo_video(), tmp_path / "out.mp4", recipe=RECIPE)
    assert record.status == "ok"
    with av.open(tmp_path / "out.mp4") as made, av.open(assets.demo_video()) as source:
        packets = [[bytes(packet) for packet in each.demux(audio=0) if packet.size] for each in (made, source)]
    assert packets[0] == packets[1]


def test_seeds_and_guidance_of_the_pair_count(frames: np.ndarray, tmp_path: Path) -> None:
    video, audio = write_clip(tmp_path / "v.mp4", frames[:20]), write_speech(tmp_path / "s.wav", speech_like(0.7))
    model = LipSync(str(tmp_path / "out"), recipe=RECIPE)
    made = {
        name: model(Pair(clip_id=name, video=str(video), audio=str(audio), **settings)).sha256
        for name, settings in {"a": {}, "b": {"seed": 1247}, "c": {"seed": 8}, "d": {"guidance_scale": 2.0}}.items()
    }
    assert made["a"] == made["b"]
    assert len(set(made.values())) == 3


@pytest.mark.parametrize(
    ("video", "audio", "code"),
    [
        ("missing.mp4", "s.wav", "input_not_found"),
        ("v.mp4", "missing.wav", "input_not_found"),
        ("v.mp4", "v.mp4", "unreadable_audio"),
    ],
)
def test_bad_inputs_are_records(video: str, audio: str, code: str, frames: np.ndarray, tmp_path: Path) -> None:
    write_clip(tmp_path / "v.mp4", frames[:5])
    write_speech(tmp_path / "s.wav", speech_like(0.2))
    record = lipsync(tmp_path / video, tmp_path / audio, tmp_path / "out.mp4", recipe=RECIPE)
    assert (record.status, record.error_code) == ("failed", code)
    assert record.error
    assert not (tmp_path / "out.mp4").exists()


def test_a_bug_is_raised_to_who_dubs_one_clip_and_recorded_by_a_job(tmp_path: Path) -> None:
    write_clip(tmp_path / "blue.mp4", np.full((20, 96, 96, 3), (20, 20, 230), np.uint8))
    write_speech(tmp_path / "s.wav", speech_like(0.8))
    recipe = RECIPE.model_copy(update={"detector": "faulty:Faulty"})
    job = Job(manifest="none", output=str(tmp_path / "out"), recipe=recipe, cluster=Cluster(runner="local"))
    pair = Pair(clip_id="blue", video=str(tmp_path / "blue.mp4"), audio=str(tmp_path / "s.wav"))
    with pytest.raises(ZeroDivisionError):
        LipSync(tmp_path / "one", recipe=recipe)(pair)
    (record,) = dub([pair], job)
    assert isinstance(record, ClipRecord)
    assert record.error_code == "internal_error"
    assert str(record.error).startswith("ZeroDivisionError: a bug in a detector (a bug; please report it)\n")
    assert "faulty.py" in str(record.error)


def test_a_window_that_fails_costs_its_clip_and_not_the_job(
    frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(tmp_path / "v.mp4", frames[:20])
    write_speech(tmp_path / "s.wav", speech_like(0.7))
    (tmp_path / "pairs.csv").write_text("clip_id,video,audio,guidance_scale\na,v.mp4,s.wav,\nb,v.mp4,s.wav,2\nc,v.mp4,s.wav,\n")
    job = Job(
        manifest=tmp_path / "pairs.csv",
        output=tmp_path / "out",
        recipe=RECIPE,
        cluster=Cluster(runner="local"),
        failure_budget=0.5,
    )

    def guidance_overflows(*args: Any, guidance_scale: float, **options: Any) -> Iterator[torch.Tensor]:
        for latents in denoise(*args, guidance_scale=guidance_scale, **options):
            yield latents * (torch.nan if guidance_scale > 1 else 1)

    with monkeypatch.context() as patch:
        patch.setattr("latentsync_ray.models.latentsync.model.denoise", guidance_overflows)
        summary = run(job)
    assert (summary.ok, summary.failed, summary.exit_code) == (2, 1, 0)
    codes = {row["clip_id"]: row["error_code"] for row in read_records(tmp_path / "out").to_pylist()}
    assert codes == {"a": None, "b": "not_finite", "c": None}
    cured = job.model_copy(update={"recipe": RECIPE.model_copy(update={"dtype": "float32"}), "mixed_recipes": True})
    summary = run(cured)
    assert (summary.done_before, summary.ok, summary.failed) == (2, 1, 0)


def test_an_input_is_never_written_over(frames: np.ndarray, tmp_path: Path) -> None:
    video, audio = write_clip(tmp_path / "v.mp4", frames[:5]), write_speech(tmp_path / "s.wav", speech_like(0.2))
    for output, what_to_do in ((video, "name another file"), (tmp_path, "name the file to write to")):
        with pytest.raises(ConfigError, match=what_to_do):
            lipsync(video, audio, output, recipe=RECIPE)


def test_only_names_of_an_mp4_are_written(tmp_path: Path) -> None:
    for name in ("out.avi", "out", "out.mov", "mp4"):
        with pytest.raises(ConfigError, match=r"let its name end in \.mp4"):
            lipsync("v.mp4", "a.wav", tmp_path / name, recipe=RECIPE)
    record = lipsync(tmp_path / "none.mp4", "a.wav", tmp_path / "OUT.M4V", recipe=RECIPE)
    assert record.error_code == "input_not_found", "the name is fine"


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_an_existing_output_can_be_kept(tmp_path: Path, place: str) -> None:
    target = str(tmp_path / "out.mp4") if place == "disk" else "memory://local-test/out.mp4"
    storage.write_bytes(target, b"precious")
    try:
        with pytest.raises(ConfigError, match="exists already"):
            lipsync("none.mp4", "a.wav", target, recipe=RECIPE, overwrite=False)
        assert lipsync("none.mp4", "a.wav", target, recipe=RECIPE).error_code == "input_not_found"
        assert storage.read_bytes(target) == b"precious", "until there is another to replace it"
    finally:
        storage.delete([target])


def test_too_large_names_the_limit(frames: np.ndarray, tmp_path: Path) -> None:
    write_speech(tmp_path / "s.wav", speech_like(2))
    write_clip(tmp_path / "v.mp4", frames[:5])
    for limit, value in (("max_pixels", 1000), ("max_seconds", 1.0)):
        recipe = RECIPE.model_copy(update={limit: value})
        record = lipsync(tmp_path / "v.mp4", tmp_path / "s.wav", tmp_path / "out.mp4", recipe=recipe)
        assert record.error_code == "too_large"
        assert limit in str(record.error)


def test_progress_is_told_window_by_window_and_adds_up(frames: np.ndarray, tmp_path: Path) -> None:
    video, audio = write_clip(tmp_path / "v.mp4", frames), write_speech(tmp_path / "s.wav", speech_like(1.4))
    told: list[int | str] = []
    recipe = RECIPE.model_copy(update={"micro_batch": 1})
    record = lipsync(video, audio, tmp_path / "out.mp4", recipe=recipe, on_frames=told.append, on_phase=told.append)
    counts = [each for each in told if isinstance(each, int)]
    assert (record.frames, sum(counts)) == (35, 35)
    assert counts[:3] == [16, 16, 3], "three windows of 16, the last of which overlaps"
    assert [each for each in told if isinstance(each, str)] == [
        "fetching the inputs",
        "loading the model",
        "reading the video and the speech",
        "dubbing 35 frames",
        "writing the MP4",
    ]


def test_a_pass_tells_what_each_stage_has_in_work(frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Callable[[], UnderWay]] = []
    seen: list[UnderWay] = []
    paste = Paste.__call__
    monkeypatch.setattr(Paste, "__call__", lambda self, faces: (seen.append(asked[0]()), paste(self, faces))[1])
    video = str(write_clip(tmp_path / "v.mp4", frames))
    audio = str(write_speech(tmp_path / "s.wav", speech_like(6)))
    pairs = [Pair(clip_id="a", video=video, audio=audio), Pair(clip_id="b", video=str(tmp_path / "no.mp4"), audio=audio)]
    recipe = RECIPE.model_copy(update={"segment_frames": 48})
    job = Job(manifest="m", output=tmp_path / "out", recipe=recipe, cluster=Cluster(runner="local", device="cpu"))
    made = list(one_pass(pairs, job, watch=asked.append))
    assert sorted(each.clip_id for each in made if isinstance(each, ClipRecord)) == ["a", "b"]
    assert len(seen) >= 3
    for work in seen[:3]:
        assert work.segments["paste"] >= 1
        assert 1 <= sum(work.segments.values()) <= 6, "no more than the threads hold"
    assert asked[0]() == UnderWay(), "nothing is left when it is over"


def test_a_clip_that_fails_in_two_stages_at_once_has_one_record(
    frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cutting, pasted = threading.Event(), threading.Event()
    cut = Crop.__call__

    def crop(self: Crop, faces: TrackedFaces) -> FaceCrops:
        if faces.clip_id == "a" and faces.index == 2:
            cutting.set()
            assert pasted.wait(20)
            raise NoFace("crop")
        return cut(self, faces)

    def paste(self: Paste, faces: GeneratedFaces) -> Part:
        assert cutting.wait(20)
        pasted.set()
        raise NoFace("paste")

    monkeypatch.setattr(Crop, "__call__", crop)
    monkeypatch.setattr(Paste, "__call__", paste)
    video = str(write_clip(tmp_path / "v.mp4", frames))
    audio = str(write_speech(tmp_path / "s.wav", speech_like(6)))
    pairs = [Pair(clip_id=name, video=video, audio=audio) for name in ("a", "b")]
    recipe = RECIPE.model_copy(update={"segment_frames": 48})
    job = Job(manifest="m", output=tmp_path / "out", recipe=recipe, cluster=Cluster(runner="local", device="cpu"))
    assert [(made.clip_id, str(made.error)) for made in dub(pairs, job)] == [("a", "paste"), ("b", "paste")]  # pyright: ignore
