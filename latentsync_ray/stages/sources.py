"""What is known of a video and of a speech. Facts of the source: all clips that are made of it share them.

A dataset names one video in many rows, once per language: each process measures it once, as long as it remembers it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from latentsync_ray.config import Recipe
from latentsync_ray.disk import scratch
from latentsync_ray.media.credentials import has_credentials
from latentsync_ray.media.source import VideoIndex, probe_audio
from latentsync_ray.media.speech import decode_speech, hear_speech, read_speech
from latentsync_ray.media.tags import Tags, read_tags
from latentsync_ray.models.mel import log_mel_peak
from latentsync_ray.stages.inputs import Input, probe

__all__ = ["SpeechFacts", "VideoFacts", "speech_facts", "speech_samples", "video_facts"]


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """Of a video."""

    index: VideoIndex
    tags: Tags
    has_credentials: bool
    """Whether it carries Content Credentials (C2PA)."""


@dataclass(frozen=True, slots=True)
class SpeechFacts:
    """Of a speech."""

    samples: int
    """At 16 kHz."""
    channel: int | None
    """The channel, counted from 1, that models hear because a mix of all would cancel; None: the mix."""
    mel_peak: float
    """Largest log10 mel power."""
    language: str | None
    """As the file says it."""
    has_credentials: bool


def video_facts(video: Input, recipe: Recipe) -> VideoFacts:
    """What is known of a video. Raises UnreadableVideo or TooLarge."""
    index = probe(video, recipe)
    return VideoFacts(index, *_told(video.path, video.digest))


def speech_facts(audio: Input, recipe: Recipe) -> SpeechFacts:
    """What is known of a speech. Raises UnreadableAudio or TooLarge."""
    return _heard(audio.path, audio.digest, recipe.max_seconds)


def speech_samples(audio: Input, recipe: Recipe, *, channel: int | None = None) -> np.ndarray:
    """All of a speech, int16 (n,) at 16 kHz, mapped from disk: the mix, or one ``channel``. Raises as ``speech_facts``.

    Decoded once per process, as long as it remembers it: the segments of a clip follow each other.
    """
    return _samples(audio.path, audio.digest, recipe.max_seconds, channel)


@lru_cache(maxsize=2)
def _samples(path: Path, digest: str, max_seconds: float, channel: int | None) -> np.ndarray:
    with scratch() as folder:
        file = folder / "speech.raw"
        decode_speech(path, file, max_seconds=max_seconds, channel=channel)
        return read_speech(file)  # mapped: it stays readable when the folder goes, and leaves nothing behind


@lru_cache(maxsize=64)
def _told(path: Path, digest: str) -> tuple[Tags, bool]:
    return read_tags(path), has_credentials(path)


@lru_cache(maxsize=64)
def _heard(path: Path, digest: str, max_seconds: float) -> SpeechFacts:
    with scratch() as folder:
        samples = folder / "speech.raw"
        count, channel = hear_speech(path, samples, max_seconds=max_seconds)
        peak = log_mel_peak(read_speech(samples))
    return SpeechFacts(count, channel, peak, probe_audio(path).language, has_credentials(path))
