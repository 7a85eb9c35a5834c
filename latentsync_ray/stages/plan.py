"""Plan: fetch and measure a pair, and decide once what every output frame shows and how the clip is cut.

Whatever ties the frames of a clip together (frame rate, loop, audio level, window grid) is settled here, so that segments can
be worked on anywhere and in any order without changing the result.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from latentsync_ray import __version__
from latentsync_ray.config import WINDOW, Recipe
from latentsync_ray.disk import scratch
from latentsync_ray.errors import InvalidPair
from latentsync_ray.media.credentials import has_credentials
from latentsync_ray.media.grid import frame_grid, repeat
from latentsync_ray.media.source import probe_audio
from latentsync_ray.media.speech import SAMPLE_RATE, hear_speech, read_speech
from latentsync_ray.media.tags import read_tags
from latentsync_ray.model.mel import audio_step_count, log_mel_peak
from latentsync_ray.stages.inputs import fetch_input, probe
from latentsync_ray.stages.parts import finished_parts
from latentsync_ray.types import UNUSABLE_ID, Clip, ClipPlan, Pair

__all__ = ["Plan", "part_key", "segment_stops", "settle"]

_SETTINGS = ("guidance_scale", "seed", "loop_mode")


class Plan:
    """``Plan(recipe, output)(pair) -> ClipPlan``; raises ClipError for inputs that cannot be dubbed."""

    def __init__(self, recipe: Recipe, output: str) -> None:
        self.recipe, self.output = recipe, output

    def __call__(self, pair: Pair) -> ClipPlan:
        began, recipe = time.perf_counter(), self.recipe
        pair = settle(pair, recipe)
        video, audio = fetch_input(pair.video), fetch_input(pair.audio)
        index = probe(video, recipe)
        rate = recipe.frame_rate(index.rate)
        with scratch() as folder:
            samples_path = folder / "speech.raw"
            sample_count, channel = hear_speech(audio.path, samples_path, max_seconds=recipe.max_seconds)
            mel_peak = log_mel_peak(read_speech(samples_path))
        frame_count = max(1, round(Fraction(sample_count, SAMPLE_RATE) * rate))
        assert pair.loop_mode is not None
        first_pass = frame_grid(index, rate, recipe.fps_rule)
        grid, tags = repeat(first_pass, frame_count, pair.loop_mode), read_tags(video.path)
        stops = segment_stops(frame_count, recipe.segment_frames)
        clip = Clip.of(
            pair,
            key=part_key(pair, recipe, video.digest, audio.digest),
            video_version=video.version,
            audio_version=audio.version,
            frame_count=frame_count,
            segment_count=len(stops),
            fps_num=rate.numerator,
            fps_den=rate.denominator,
            width=index.width + index.width % 2,
            height=index.height + index.height % 2,
            audio_steps=audio_step_count(sample_count),
            mel_peak=mel_peak,
            language=pair.language or probe_audio(audio.path).language,
            audio_channel=channel,
            deinterlaced=index.fields is not None,
            content_credentials=_credentials(video=video.path, audio=audio.path),
            tags=json.dumps(tags.texts, ensure_ascii=False),
            subtitle_seconds=float(min(len(first_pass), frame_count) / rate) if tags.subtitled else 0.0,
        )
        return ClipPlan.of(
            clip,
            source_frames=grid,
            segment_stops=stops,
            finished=finished_parts(self.output, clip),
            plan_seconds=time.perf_counter() - began,
        )


def _credentials(**inputs: Path) -> str | None:
    """The names of the inputs that carry Content Credentials."""
    return ", ".join(name for name, path in inputs.items() if has_credentials(path)) or None


def settle(pair: Pair, recipe: Recipe) -> Pair:
    """The pair with its open settings filled from the recipe. Raises InvalidPair for what no recipe would allow."""
    if re.search(UNUSABLE_ID, pair.clip_id):
        raise InvalidPair(
            f"clip_id {pair.clip_id!r} cannot be a file name: no slash, '..', '::', control character, leading dot"
        )
    own = {name: value for name in _SETTINGS if (value := getattr(pair, name)) is not None}
    try:
        settled = Recipe.model_validate({**recipe.model_dump(), **own})
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidPair(f"{problem['loc'][0]} is {problem['input']!r}: {problem['msg']}") from error
    return Pair.of(pair, **{name: getattr(settled, name) for name in _SETTINGS})


def segment_stops(frame_count: int, segment_frames: int) -> np.ndarray:
    """Where each segment ends, int32 (N,): every ``segment_frames``, and a tail under one window goes to its neighbour.

    All segments start on the clip's window grid and, unless the clip is shorter, hold at least one window of real frames; so
    the windows, and with them the new faces, do not depend on the segment length.
    """
    stops = np.arange(segment_frames, frame_count + segment_frames, segment_frames, dtype=np.int32)
    stops[-1] = frame_count
    if len(stops) > 1 and stops[-1] - stops[-2] < WINDOW:
        stops = np.delete(stops, -2)
    return stops


def part_key(pair: Pair, recipe: Recipe, *contents: str) -> str:
    """Names the parts of a clip by everything that makes them: a retry finds them again, any change does not.

    ``contents`` are digests of the inputs.
    """
    made_of = [__version__, recipe.fingerprint(), pair.guidance_scale, pair.seed, pair.loop_mode, *contents]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
