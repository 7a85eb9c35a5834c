"""Plan: fetch and measure a pair, and decide once what every output frame shows and how the clip is cut.

Whatever ties the frames of a clip together (frame rate, loop, audio level, window grid) is settled here, so that segments can
be worked on anywhere and in any order without changing the result.
"""

from __future__ import annotations

import hashlib
import json
import time
from fractions import Fraction

import numpy as np

from latentsync_ray import __version__
from latentsync_ray.faces.find import detector_version
from latentsync_ray.gate import Quality
from latentsync_ray.media.grid import frame_grid, repeat
from latentsync_ray.media.speech import SAMPLE_RATE
from latentsync_ray.models.find import find_model
from latentsync_ray.recipe import ROW_SETTINGS, Recipe, own_settings, settle
from latentsync_ray.stages.failures import telling
from latentsync_ray.stages.inputs import fetch_input
from latentsync_ray.stages.parts import finished_parts
from latentsync_ray.stages.sources import speech_facts, video_facts
from latentsync_ray.stages.tried import attempts_made
from latentsync_ray.types import Clip, ClipPlan, Pair

__all__ = ["Plan", "part_key", "segment_stops"]


class Plan:
    """``Plan(recipe, output)(pair) -> ClipPlan``; raises ClipError for inputs that cannot be dubbed."""

    def __init__(self, recipe: Recipe, output: str, quality: Quality | None = None) -> None:
        self.recipe, self.output, self.quality = recipe, output, quality
        self.window = find_model(recipe.model).window
        self.detector = detector_version(recipe.detector)

    def __call__(self, pair: Pair) -> ClipPlan:
        began, recipe = time.perf_counter(), self.recipe
        made_of: dict[str, str] = {"settings": own_settings(pair)}
        pair = settle(pair, recipe)
        video, audio = fetch_input(pair.video), fetch_input(pair.audio)
        made_of |= {"video_version": video.version, "video_sha256": video.digest}
        made_of |= {"audio_version": audio.version, "audio_sha256": audio.digest}
        with telling(made_of):  # a clip that fails is tried again when its inputs change
            seen, heard = video_facts(video, recipe), speech_facts(audio, recipe)
        first_key = part_key(pair, recipe, video.digest, audio.digest, self.detector, pair.language or "")
        pair, attempt = self._varied(pair, first_key)
        rate = recipe.frame_rate(seen.index.rate)
        frame_count = max(1, round(Fraction(heard.samples, SAMPLE_RATE) * rate))
        assert pair.loop_mode is not None
        first_pass = frame_grid(seen.index, rate, recipe.fps_rule)
        grid = repeat(first_pass, frame_count, pair.loop_mode)
        stops = segment_stops(frame_count, recipe.segment_frames, self.window)
        signed = [name for name, facts in (("video", seen), ("audio", heard)) if facts.has_credentials]
        clip = Clip.of(
            pair,
            key=part_key(pair, recipe, video.digest, audio.digest, self.detector),
            attempt=attempt,
            first_key=first_key,
            **made_of,
            frame_count=frame_count,
            segment_count=len(stops),
            fps_num=rate.numerator,
            fps_den=rate.denominator,
            width=seen.index.width + seen.index.width % 2,
            height=seen.index.height + seen.index.height % 2,
            samples=heard.samples,
            mel_peak=heard.mel_peak,
            language=pair.language or heard.language,
            audio_channel=heard.channel,
            deinterlaced=seen.index.fields is not None,
            content_credentials=", ".join(signed) or None,
            tags=json.dumps(seen.tags.texts, ensure_ascii=False),
            subtitle_seconds=float(min(len(first_pass), frame_count) / rate) if seen.tags.subtitled else 0.0,
        )
        return ClipPlan.of(
            clip,
            source_frames=grid,
            segment_stops=stops,
            finished=finished_parts(self.output, clip),
            plan_seconds=time.perf_counter() - began,
        )

    def _varied(self, pair: Pair, first_key: str) -> tuple[Pair, int]:
        """The pair with seed and guidance of the attempt whose turn it is, and its number."""
        if self.quality is None or not self.quality.retry:
            return pair, 0
        assert pair.seed is not None
        assert pair.guidance_scale is not None
        attempt = min(self.quality.retry, attempts_made(self.output, pair.clip_id, first_key))
        seed, guidance_scale = self.quality.varied(pair.seed, pair.guidance_scale, attempt)
        return Pair.of(pair, seed=seed, guidance_scale=guidance_scale), attempt


def segment_stops(frame_count: int, segment_frames: int, window: int) -> np.ndarray:
    """Where each segment ends, int32 (N,): every ``segment_frames``, in whole windows; a tail under one goes to the last.

    All segments start on the clip's window grid and, unless the clip is shorter, hold at least one window of real frames; so
    the windows, and with them the new faces, do not depend on the segment length.
    """
    segment_frames += -segment_frames % window
    stops = np.arange(segment_frames, frame_count + segment_frames, segment_frames, dtype=np.int32)
    stops[-1] = frame_count
    if len(stops) > 1 and stops[-1] - stops[-2] < window:
        stops = np.delete(stops, -2)
    return stops


def part_key(pair: Pair, recipe: Recipe, *contents: str) -> str:
    """Names the parts of a clip by everything that makes them: a retry finds them again, any change does not.

    ``contents`` are digests of the inputs and the detector's version.
    """
    made_of = [__version__, recipe.fingerprint(), *(getattr(pair, name) for name in ROW_SETTINGS), *contents]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
