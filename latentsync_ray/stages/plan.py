"""Plan: fetch and measure a pair, and decide once what every output frame shows and how the clip is cut.

Whatever ties the frames of a clip together (frame rate, loop, audio level, window grid) is settled here, so that segments can
be worked on anywhere and in any order without changing the result.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

from latentsync_ray import __version__, storage
from latentsync_ray.config import WINDOW, Recipe
from latentsync_ray.media.grid import frame_grid, repeat
from latentsync_ray.media.source import probe_video
from latentsync_ray.media.speech import SAMPLE_RATE, decode_speech, read_speech
from latentsync_ray.model.mel import audio_step_count, log_mel_peak
from latentsync_ray.stages.parts import finished_parts
from latentsync_ray.types import Clip, Pair, Span

__all__ = ["Plan", "part_key", "segment_stops", "settle"]


class Plan:
    """``Plan(recipe, output)(pair) -> [Span, ...]``; raises ClipError for inputs that cannot be dubbed."""

    def __init__(self, recipe: Recipe, output: str) -> None:
        self.recipe, self.output = recipe, output

    def __call__(self, pair: Pair) -> list[Span]:
        began, recipe = time.perf_counter(), self.recipe
        pair = settle(pair, recipe)
        video, audio = storage.fetch(pair.video), storage.fetch(pair.audio)
        index = probe_video(video, max_pixels=recipe.max_pixels, max_seconds=recipe.max_seconds)
        rate = recipe.frame_rate(index.rate)
        with tempfile.TemporaryDirectory(prefix="latentsync-") as folder:
            samples_path = Path(folder) / "speech.raw"
            sample_count = decode_speech(audio, samples_path, max_seconds=recipe.max_seconds)
            mel_peak = log_mel_peak(read_speech(samples_path))
        frame_count = max(1, round(Fraction(sample_count, SAMPLE_RATE) * rate))
        grid = repeat(frame_grid(index, rate, recipe.fps_rule), frame_count, pair.loop_mode or recipe.loop_mode)
        stops = segment_stops(frame_count, recipe.segment_frames)
        key = part_key(pair, recipe, video, audio)
        clip = Clip.of(
            pair,
            key=key,
            frame_count=frame_count,
            segment_count=len(stops),
            fps_num=rate.numerator,
            fps_den=rate.denominator,
            width=index.width + index.width % 2,
            height=index.height + index.height % 2,
            audio_steps=audio_step_count(sample_count),
            mel_peak=mel_peak,
        )
        finished = finished_parts(self.output, clip)
        segments_per_span = max(1, int(recipe.span_seconds * rate / recipe.segment_frames))
        seconds = time.perf_counter() - began
        spans = []
        for first in range(0, len(stops), segments_per_span):
            start = int(stops[first - 1]) if first else 0
            own = stops[first : first + segments_per_span]
            spans.append(
                Span.of(
                    clip,
                    start=start,
                    first_segment=first,
                    source_frames=grid[start : own[-1]],
                    segment_stops=own,
                    finished=finished[(finished >= first) & (finished < first + len(own))],
                    plan_seconds=seconds,
                )
            )
        return spans


def settle(pair: Pair, recipe: Recipe) -> Pair:
    """The pair with its open settings filled from the recipe."""
    return Pair.of(
        pair,
        guidance_scale=recipe.guidance_scale if pair.guidance_scale is None else pair.guidance_scale,
        seed=recipe.seed if pair.seed is None else pair.seed,
        loop_mode=pair.loop_mode or recipe.loop_mode,
    )


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


def part_key(pair: Pair, recipe: Recipe, video: Path, audio: Path) -> str:
    """Names the parts of a clip by everything that makes them: a retry finds them again, any change does not."""
    digest = hashlib.sha256(
        json.dumps([__version__, recipe.fingerprint(), pair.guidance_scale, pair.seed, pair.loop_mode]).encode()
    )
    for path in (video, audio):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
