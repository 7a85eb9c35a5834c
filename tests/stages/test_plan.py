"""Plan: how a clip is cut, and what names its parts."""

from __future__ import annotations

import numpy as np
import pytest
from make_clips import moving, speech_like, write_clip, write_speech

from latentsync_ray.errors import InvalidPair
from latentsync_ray.recipe import ROW_SETTINGS, Recipe, settle
from latentsync_ray.stages.plan import Plan, part_key, segment_stops
from latentsync_ray.types import Pair

PAIR = Pair(clip_id="a", video="v", audio="s")


@pytest.mark.parametrize(("segment_frames", "window"), [(128, 16), (113, 16), (128, 5)])
@pytest.mark.parametrize("frame_count", [1, 15, 16, 17, 127, 128, 129, 143, 144, 145, 256, 1000])
def test_segments_cover_the_clip_once_and_start_on_the_window_grid(frame_count: int, segment_frames: int, window: int) -> None:
    stops = segment_stops(frame_count, segment_frames, window)
    starts = np.concatenate([[0], stops[:-1]])
    assert stops[-1] == frame_count
    assert (starts % window == 0).all()
    assert (stops > starts).all()
    assert frame_count < window or (stops - starts >= window).all()
    assert (stops - starts < 128 + 2 * window).all()


def test_settings_of_the_row_win_over_the_recipe() -> None:
    recipe = Recipe(guidance_scale=1.5, seed=3)
    assert settle(PAIR, recipe).guidance_scale == 1.5
    own = settle(Pair(clip_id="a", video="v", audio="s", guidance_scale=1.0, seed=0, loop_mode="loop"), recipe)
    assert (own.guidance_scale, own.seed, own.loop_mode) == (1.0, 0, "loop")


@pytest.mark.parametrize(
    "wrong",
    [{"guidance_scale": 7.0}, {"seed": -1}, {"loop_mode": "bounce"}, {"clip_id": "../a"}],
)
def test_settings_that_no_recipe_allows_are_the_clips_failure(wrong: dict) -> None:
    with pytest.raises(InvalidPair, match=next(iter(wrong))):
        settle(Pair.of(PAIR, **wrong), Recipe())


def test_part_key_changes_with_recipe_settings_and_content() -> None:
    video, audio, recipe = "digest of the video", "digest of the audio", Recipe()
    key = part_key(settle(PAIR, recipe), recipe, video, audio)
    assert key == part_key(settle(PAIR, recipe), recipe, video, audio)
    keys = {key, part_key(settle(PAIR, recipe), recipe, audio, video)}
    keys.add(part_key(settle(PAIR, Recipe(crf=20)), Recipe(crf=20), video, audio))
    keys.add(part_key(settle(PAIR, Recipe(seed=5)), recipe, video, audio))
    keys.add(part_key(settle(PAIR, recipe), recipe, "another", audio))
    assert len(keys) == 5
    for name, value in zip(ROW_SETTINGS, (1.75, 8, "loop", "all"), strict=True):
        assert part_key(settle(Pair.of(PAIR, **{name: value}), recipe), recipe, video, audio) not in keys, name


def test_the_time_before_a_late_sound_track_counts(tmp_path) -> None:
    video = write_clip(
        tmp_path / "a.mkv", moving(50), audio=speech_like(1), audio_rate=16_000, audio_codec="pcm_s16le", audio_offset=0.4
    )
    plan = Plan(Recipe(), str(tmp_path))(Pair(clip_id="a", video=str(video), audio=str(video)))
    assert plan.frame_count == 35
    assert plan.samples == 70 * 320


def test_deinterlacing_is_noted(tmp_path) -> None:
    speech = write_speech(tmp_path / "s.wav", speech_like(1))
    for interlaced, params in ((True, "interlaced=1:tff=1"), (False, "bframes=0")):
        video = write_clip(tmp_path / f"{interlaced}.mp4", moving(10), options={"x264-params": params})
        assert Plan(Recipe(), str(tmp_path))(Pair(clip_id="a", video=str(video), audio=str(speech))).deinterlaced == interlaced


def test_tags_languages_and_credentials_are_noted(tmp_path) -> None:
    with_store = write_speech(tmp_path / "s.wav", speech_like(1))
    with_store.write_bytes(with_store.read_bytes() + b"C2PA" + (8).to_bytes(4, "little") + bytes(8))
    german = write_speech(tmp_path / "german.mka", speech_like(1), language="ger")
    video = write_clip(tmp_path / "a.mkv", moving(10), texts={"title": "A title", "encoder": "x"})
    plan = Plan(Recipe(), str(tmp_path))
    plain = plan(Pair(clip_id="a", video=str(video), audio=str(with_store)))
    assert (plain.language, plain.content_credentials, plain.tags) == (None, "audio", '{"title": "A title"}')
    assert plain.subtitle_seconds == 0
    spoken = plan(Pair(clip_id="a", video=str(video), audio=str(german)))
    assert (spoken.language, spoken.content_credentials) == ("ger", None)
    assert plan(Pair(clip_id="a", video=str(video), audio=str(german), language="German")).language == "German"
