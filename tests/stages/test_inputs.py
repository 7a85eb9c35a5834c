"""Inputs of a clip: fetched once, probed once, and the same in every stage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from cutting import cut
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech

from latentsync_ray import Pair, Recipe, storage
from latentsync_ray.errors import InputChanged
from latentsync_ray.local import LipSync
from latentsync_ray.stages import inputs
from latentsync_ray.stages.inputs import fetch_input, planned_input
from latentsync_ray.stages.paste import Paste
from latentsync_ray.stages.plan import Plan
from latentsync_ray.types import ClipPlan, FaceCrops, GeneratedFaces

RECIPE = Recipe(model="tiny-random", detector="embedded", steps=1, segment_frames=48, preset="ultrafast")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    frames = portrait(60)
    write_clip(folder / "v.mp4", frames)
    write_clip(folder / "other.mp4", frames[::-1])
    write_speech(folder / "a.wav", speech_like(5))
    write_speech(folder / "other.wav", speech_like(5)[::-1])
    return folder


Place = Callable[[str, str], str]


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, made: Path, tmp_path: Path) -> Place:
    """``place(name, as_)`` puts a file where inputs lie, over what is there, and gives its address."""

    def put(name: str, as_: str) -> str:
        if request.param == "disk":
            shutil.copy(made / name, tmp_path / as_)
            return str(tmp_path / as_)
        storage.write_bytes(f"memory://in/{as_}", (made / name).read_bytes())
        return f"memory://in/{as_}"

    return put


@pytest.fixture
def pair(place: Place) -> Pair:
    return Pair(clip_id="a", video=place("v.mp4", "v.mp4"), audio=place("a.wav", "a.wav"))


def counting(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    calls: list[Any] = []
    call = getattr(owner, name)

    def counted(*args: object, **options: object) -> object:
        calls.append(args[0])
        return call(*args, **options)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_a_clip_of_many_segments_is_probed_once(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed, fetched = counting(monkeypatch, inputs, "probe_video"), counting(monkeypatch, storage, "fetch_version")
    record = LipSync(tmp_path / "out", recipe=RECIPE)(pair)
    assert (record.status, record.frames) == ("ok", 125)
    assert len(probed) == 1
    if storage.is_remote(pair.video):
        assert sorted(fetched) == [pair.audio, pair.video], "what is in the cache is asked for once"


@pytest.mark.parametrize("name", ["video", "audio"])
def test_an_input_that_is_replaced_is_noticed_by_every_stage(
    pair: Pair, place: Place, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(RECIPE, str(tmp_path / "out"))(pair)
    first = cut(plan, RECIPE)[0]
    place("other.mp4" if name == "video" else "other.wav", "v.mp4" if name == "video" else "a.wav")
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE", str(tmp_path / "another-node"))
    told = f"the {name} .* was replaced while the clip was in work"
    with pytest.raises(InputChanged, match=told):
        cut(plan, RECIPE)
    if name == "video":
        with pytest.raises(InputChanged, match=told):
            Paste(RECIPE, str(tmp_path / "out"))(GeneratedFaces.of(first))
    assert Plan(RECIPE, str(tmp_path / "out"))(pair).key != plan.key


def test_what_lies_in_the_cache_is_what_was_planned(made: Path) -> None:
    storage.write_bytes("memory://in/v.mp4", (made / "v.mp4").read_bytes())
    planned = fetch_input("memory://in/v.mp4")
    clip = FaceCrops(
        clip_id="a", video="memory://in/v.mp4", audio="", video_version=planned.version, video_sha256=planned.digest
    )
    fsspec.filesystem("memory").store.clear()
    assert planned_input(clip, "video") == planned, "storage is not asked"


def test_a_local_file_is_known_by_its_content(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "a.wav", tmp_path / "a.wav")
    planned = fetch_input(str(made / "a.wav"))
    audio = str(tmp_path / "a.wav")
    clip = FaceCrops(clip_id="a", video="", audio=audio, audio_version=planned.version, audio_sha256=planned.digest)
    os.utime(tmp_path / "a.wav", (1, 1))
    assert planned_input(clip, "audio").path == tmp_path / "a.wav", "as on another node, with a copy of its own"
    (tmp_path / "a.wav").write_bytes(b"x" * (made / "a.wav").stat().st_size)
    with pytest.raises(InputChanged):
        planned_input(clip, "audio")


def test_segments_come_in_order_whatever_is_finished(made: Path, tmp_path: Path) -> None:
    grey = np.full((50, *portrait(1).shape[1:]), 128, np.uint8)
    write_clip(tmp_path / "late.mp4", np.concatenate([grey, portrait(60), grey]))
    pair = Pair(clip_id="a", video=str(tmp_path / "late.mp4"), audio=str(made / "a.wav"))
    plan = Plan(RECIPE, str(tmp_path / "out"))(pair)
    assert plan.segment_count == 3
    whole = cut(plan, RECIPE)
    assert [len(crops.frames) > 0 for crops in whole] == [False, True, True]
    for finished in ([0], [1], [0, 2], [0, 1, 2]):
        again = cut(ClipPlan.of(plan, finished=np.array(finished, np.int32)), RECIPE)
        assert [crops.index for crops in again] == [0, 1, 2]
        for crops in again:
            if crops.index not in finished:
                assert np.array_equal(crops.faces, whole[crops.index].faces)
                assert np.array_equal(crops.speech, whole[crops.index].speech)
                assert np.array_equal(crops.affines, whole[crops.index].affines)
