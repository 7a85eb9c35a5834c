"""Small media files for tests, made on the spot: every kind of clip that real datasets hold, in a fraction of a second each."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.container import OutputContainer

__all__ = ["damage", "moving", "opened", "rate_of", "speech_like", "write_clip", "write_speech"]


def moving(count: int, width: int = 96, height: int = 64) -> list[np.ndarray]:
    """``count`` different pictures, uint8 (height, width, 3): a soft colour texture that slides along, as real motion would."""
    noise = np.random.default_rng(7).integers(0, 256, (height + count, width + 2 * count, 3)).astype(np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), np.empty_like(noise), 16, 235, cv2.NORM_MINMAX)
    return [np.ascontiguousarray(texture[k : k + height, 2 * k : 2 * k + width]) for k in range(count)]


def speech_like(seconds: float, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    """Tones with a syllable rhythm, int16 (samples, channels), each channel a little different."""
    time = np.arange(round(seconds * rate))[:, None] / rate
    pitch = 140 + 35 * np.arange(channels)
    voice = np.sin(2 * np.pi * pitch * time) + 0.4 * np.sin(2 * np.pi * 3.1 * pitch * time)
    return (voice * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)) * 9000).astype(np.int16)


def write_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    fps: Fraction | int = 25,
    codec: str = "libx264",
    gop: int = 12,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    offset: float = 0.0,
    rotation: int = 0,
    hflip: bool = False,
    colour: tuple[int, int, int, int] | None = None,
    pixel_aspect: Fraction | None = None,
    audio: np.ndarray | None = None,
    audio_rate: int = 44_100,
    audio_codec: str = "aac",
    audio_offset: float = 0.0,
    texts: dict[str, str] | None = None,
) -> Path:
    """Encode RGB ``frames``; the container follows from the suffix.

    ``times`` are display times in milliseconds (variable rate), ``offset`` delays the pictures in seconds, ``rotation`` is in
    degrees, counter-clockwise, ``colour`` is (range, space, primaries, transfer), ``pixel_aspect`` is width over height of a
    stored pixel, ``audio`` int16 (samples, channels), ``texts`` global tags.
    """
    rate = Fraction(fps)
    tick = Fraction(1, 1000) if times is not None else 1 / rate
    with av.open(str(path), "w") as container:
        container.metadata.update(texts or {})
        iterator = iter(frames)
        first = next(iterator)
        video: Any = container.add_stream(codec, rate=rate, options={"g": str(gop), **(options or {})})
        video.height, video.width = first.shape[:2]
        video.pix_fmt = pix_fmt
        video.codec_context.time_base = tick
        video.codec_context.thread_count = 1
        if colour is not None:
            context = video.codec_context
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = colour
        if pixel_aspect is not None:
            video.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation or hflip:
            video.set_display_rotation(rotation, hflip=hflip)
        sound = _add_sound(container, audio_codec, audio_rate, audio.shape[1]) if audio is not None else None
        number = -1
        for number, picture in enumerate([first, *iterator]):
            frame = _frame(picture, pix_fmt, colour)
            frame.pts = (times[number] if times is not None else number) + round(offset / tick)
            frame.time_base = tick
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None and audio is not None:
            _feed(container, sound, audio, audio_rate, offset=audio_offset)
    return path


def write_speech(
    path: Path, samples: np.ndarray, *, rate: int = 16_000, codec: str = "pcm_s16le", language: str | None = None
) -> Path:
    """Encode int16 (samples, channels) as an audio file; the container follows from the suffix."""
    with av.open(str(path), "w") as container:
        stream = _add_sound(container, codec, rate, samples.shape[1])
        if language is not None:
            stream.metadata["language"] = language
        _feed(container, stream, samples, rate)
    return path


def damage(path: Path, ordinals: Iterable[int]) -> Path:
    """Overwrite the inside of the video packets ``ordinals`` (decoding order) of an MP4 with noise, sizes unchanged."""
    with opened(path) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(3)
    for ordinal in ordinals:
        position, size = places[ordinal]
        data[position + 4 : position + size] = noise.bytes(size - 4)
    path.write_bytes(data)
    return path


def opened(source: Path | bytes) -> Any:
    """A container to read, untyped: tests know which times and streams are there, PyAV's types do not."""
    return av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "r")


def rate_of(name: str) -> Fraction:
    """ "29.97" -> 30000/1001 and so on."""
    return {"23.976": Fraction(24000, 1001), "29.97": Fraction(30000, 1001), "59.94": Fraction(60000, 1001)}.get(
        name
    ) or Fraction(name)


def _frame(picture: np.ndarray, pix_fmt: str, colour: tuple[int, int, int, int] | None) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(picture, "rgb24")
    if pix_fmt.startswith(("rgb", "gbr", "bgr", "pal")):
        return frame.reformat(format=pix_fmt) if pix_fmt != "rgb24" else frame
    value_range, space = (colour[0], colour[1]) if colour else (0, 2)
    matrix = {1: "ITU709", 9: "BT2020"}.get(space, "ITU601")
    return frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range="JPEG" if value_range == 2 else "MPEG")


def _add_sound(container: OutputContainer, codec: str, rate: int, channels: int) -> av.AudioStream:
    stream = container.add_stream(codec, rate=rate)
    assert isinstance(stream, av.AudioStream)
    stream.layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[channels]
    return stream


def _feed(container: OutputContainer, stream: av.AudioStream, samples: np.ndarray, rate: int, *, offset: float = 0.0) -> None:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples).reshape(1, -1), "s16", stream.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = rate, round(offset * rate), Fraction(1, rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
