"""Speech as the model hears it: 16 kHz mono 16-bit PCM, raw on disk, so that hours of it need no memory."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from latentsync_ray.errors import ClipError, TooLarge, UnreadableAudio
from latentsync_ray.media.audio import Levels, decoded, finite, one_channel, resampled
from latentsync_ray.media.source import audio_stream, open_media, picture_clock

__all__ = ["SAMPLE_RATE", "decode_speech", "hear_speech", "read_speech", "write_wav"]

SAMPLE_RATE = 16_000
"""Hz; what Whisper was trained on."""


def hear_speech(audio: Path, output: Path, *, max_seconds: float) -> tuple[int, int | None]:
    """``decode_speech`` of the channel that the model should hear; returns the number of samples and that channel.

    The channel is None, for a mix of all, unless the channels cancel (see ``Levels``).
    """
    levels = Levels()
    samples = _write(audio, output, max_seconds=max_seconds, levels=levels)
    channel = levels.channel
    if channel is not None:
        samples = _write(audio, output, max_seconds=max_seconds, channel=channel)
    return samples, channel


def decode_speech(audio: Path, output: Path, *, max_seconds: float, channel: int | None = None) -> int:
    """Write the audio of any media file to ``output`` as raw 16 kHz mono s16le, and return the number of samples.

    ``channel`` (from 1) is the one to take; by default all are mixed. Audio that is 16 kHz mono 16-bit PCM already passes
    unchanged; sound that begins later than its container's pictures is preceded by silence. Raises UnreadableAudio and
    TooLarge, and then leaves no file.
    """
    return _write(audio, output, max_seconds=max_seconds, channel=channel)


def _write(audio: Path, output: Path, *, max_seconds: float, channel: int | None = None, levels: Levels | None = None) -> int:
    samples = 0
    try:
        with open_media(audio, UnreadableAudio) as container, output.open("wb") as file:
            stream = audio_stream(container, audio.name)
            frames = finite(decoded(container, stream), audio.name)
            if channel is not None:
                frames = one_channel(frames, channel)
            elif levels is not None:
                frames = _measured(frames, levels)
            zero = picture_clock(container)
            for frame in resampled(frames, sample_format="s16", layout="mono", rate=SAMPLE_RATE, zero=zero):
                file.write(frame.to_ndarray().astype("<i2").tobytes())
                samples += frame.samples
                if samples > max_seconds * SAMPLE_RATE:
                    raise TooLarge(f"{audio.name} is longer than max_seconds = {max_seconds:g}; raise recipe.max_seconds")
        if not samples:
            raise UnreadableAudio(f"{audio.name}: nothing in its {stream.codec_context.name} stream can be decoded")
    except ClipError:
        output.unlink(missing_ok=True)
        raise
    return samples


def _measured(frames: Iterator[av.AudioFrame], levels: Levels) -> Iterator[av.AudioFrame]:
    for frame in frames:
        levels.add(frame)
        yield frame


def read_speech(path: Path) -> np.memmap:
    """What ``decode_speech`` wrote, as int16 (samples,) mapped from disk, read-only."""
    return np.memmap(path, dtype="<i2", mode="r")


def write_wav(path: Path, samples: np.ndarray, *, rate: int = SAMPLE_RATE) -> None:
    """Save mono speech, int16 (samples,) at ``rate`` Hz, as a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
