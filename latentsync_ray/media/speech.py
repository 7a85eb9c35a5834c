"""Speech as the model hears it: 16 kHz mono 16-bit PCM, raw on disk, so that hours of it need no memory."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from latentsync_ray.errors import ClipError, TooLarge, UnreadableAudio
from latentsync_ray.media.audio import decoded, resampled
from latentsync_ray.media.source import audio_stream, open_media

__all__ = ["SAMPLE_RATE", "decode_speech", "read_speech", "write_wav"]

SAMPLE_RATE = 16_000
"""Hz; what Whisper was trained on."""


def decode_speech(audio: Path, output: Path, *, max_seconds: float) -> int:
    """Write the audio of any media file to ``output`` as raw 16 kHz mono s16le, and return the number of samples.

    Audio that is 16 kHz mono 16-bit PCM already passes unchanged. Raises UnreadableAudio and TooLarge, and then leaves no file.
    """
    samples = 0
    try:
        with open_media(audio, UnreadableAudio) as container, output.open("wb") as file:
            stream = audio_stream(container, audio.name)
            for frame in resampled(decoded(container, stream), sample_format="s16", layout="mono", rate=SAMPLE_RATE):
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
