"""Decoded audio as a gapless run of frames of one kind: for what the model hears (``speech``) and what is heard (``join``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain

import av
import numpy as np
from av.container import InputContainer

from latentsync_ray.errors import UnreadableAudio
from latentsync_ray.media.source import decode_packet

__all__ = ["Levels", "decoded", "finite", "lateness", "one_channel", "resampled"]

_ROUNDED = Fraction(5, 1000)
"""Streams that start this close together (s) start together: some containers count in milliseconds and round the priming."""

_LOUDEST = 40_000.0
"""Times full scale. 16-bit numbers that were never divided stay below; of noise at 1e5 FFmpeg's AAC encoder never ends."""

_LEFT_OF_A_MIX = 0.25
"""A mix of independent channels keeps their power and one of equal channels doubles it; wide stereo goes down to about half.
At a quarter (-6 dB) the sound that is common to the channels is going, and noise, which is not common, stays."""


def decoded(container: InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Every frame of ``stream``; damaged packets are left out."""
    for packet in container.demux(stream):
        yield from decode_packet(packet)


def finite(frames: Iterable[av.AudioFrame], name: str) -> Iterator[av.AudioFrame]:
    """``frames`` as they are; raises UnreadableAudio at the first sample of ``name`` that is NaN, infinite or too loud.

    Floating-point sound can hold such samples, and one of them spoils everything that is computed from it.
    """
    position = Fraction(0)
    for frame in frames:
        if frame.format.name.startswith(("flt", "dbl")):
            with np.errstate(over="ignore"):
                samples = _floats(frame)
            wrong = ~(np.abs(samples) < _LOUDEST)
            if wrong.any():
                first = int(wrong.any(axis=0).argmax())
                kind = _kind_of(samples[:, first])
                raise UnreadableAudio(
                    f"{name}: its sound is {kind} at {float(position + Fraction(first, frame.sample_rate)):.3f} s; "
                    "the file is damaged or was written by a faulty program; export it again"
                )
        position += Fraction(frame.samples, frame.sample_rate)
        yield frame


def _kind_of(samples: np.ndarray) -> str:
    """What is wrong with the samples of one moment."""
    if np.isnan(samples).any():
        return "not a number (NaN)"
    loudest = float(np.abs(samples).max())
    return f"{loudest:.1g} times as loud as full scale" if np.isfinite(loudest) else "infinite"


def lateness(start: Fraction, zero: Fraction | None) -> Fraction:
    """How many seconds after ``zero`` (see ``picture_clock``) a sound track begins that begins at ``start``; below 0 sooner."""
    late = Fraction(0) if zero is None else start - zero
    return Fraction(0) if abs(late) < _ROUNDED else late


def resampled(
    frames: Iterable[av.AudioFrame], *, sample_format: str, layout: str, rate: int, zero: Fraction | None = None
) -> Iterator[av.AudioFrame]:
    """``frames`` in one sample format, channel layout and rate (Hz), nothing lost at the end, timed from 0 without gaps.

    Sound that begins later than ``zero`` (see ``picture_clock``) is preceded by silence, and what comes sooner is cut.
    Streams may change format on the way (AAC that announces mono and turns out stereo): each stretch is converted by itself.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return
    late = lateness(first.pts * first.time_base, zero) if first.pts is not None and first.time_base else Fraction(0)
    pieces = _converted(chain([first], frames), sample_format=sample_format, layout=layout, rate=rate)
    cut, position = max(0, round(-late * rate)), 0
    for piece in chain(_silence(max(0, round(late * rate)), sample_format=sample_format, layout=layout, rate=rate), pieces):
        if cut >= piece.samples:
            cut -= piece.samples
            continue
        shown, cut = _tail(piece, cut) if cut else piece, 0
        shown.pts, shown.time_base = position, Fraction(1, rate)
        position += shown.samples
        yield shown


def _converted(frames: Iterable[av.AudioFrame], *, sample_format: str, layout: str, rate: int) -> Iterator[av.AudioFrame]:
    resampler, current = None, None
    for frame in frames:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or kind != current:
            if resampler is not None:
                yield from resampler.resample(None)
            resampler, current = av.AudioResampler(sample_format, layout, rate), kind
        frame.pts = None  # the source's own times may have gaps; samples are counted instead
        yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)


def _silence(samples: int, *, sample_format: str, layout: str, rate: int) -> Iterator[av.AudioFrame]:
    """So many samples of silence, a second at a time."""
    for begin in range(0, samples, rate):
        quiet = np.zeros((1, min(rate, samples - begin) * av.AudioLayout(layout).nb_channels), np.float32)
        yield from _of_packed(quiet, sample_format=sample_format, layout=layout, rate=rate)


def _tail(frame: av.AudioFrame, cut: int) -> av.AudioFrame:
    """A frame without its first ``cut`` samples."""
    packed = av.AudioResampler("flt", frame.layout, frame.sample_rate).resample(frame)[0].to_ndarray()
    left = np.ascontiguousarray(packed[:, cut * frame.layout.nb_channels :])
    return next(_of_packed(left, sample_format=frame.format.name, layout=frame.layout.name, rate=frame.sample_rate))


def _of_packed(samples: np.ndarray, *, sample_format: str, layout: str, rate: int) -> Iterator[av.AudioFrame]:
    frame = av.AudioFrame.from_ndarray(samples, "flt", layout)
    frame.sample_rate = rate
    yield from av.AudioResampler(sample_format, layout, rate).resample(frame)


class Levels:
    """Finds out, frame by frame, whether a mono mix would lose what the channels hold, and which channel holds most.

    Speech recorded with one channel inverted (right = minus left) cancels in the mix. Memory does not grow with length.
    """

    def __init__(self) -> None:
        self._heard = self._lost = 0.0
        self._powers: dict[int, float] = {}
        self._weights: dict[tuple[str, int], np.ndarray] = {}

    def add(self, frame: av.AudioFrame) -> None:
        """Take in the next frame, of any format."""
        if frame.layout.nb_channels < 2:
            return
        kind = (frame.layout.name, frame.layout.nb_channels)
        if kind not in self._weights:
            self._weights[kind] = _mix_weights(frame)
        with np.errstate(over="ignore", invalid="ignore"):  # absurd floating-point samples decide nothing
            each = self._weights[kind][:, None] * _floats(frame)
            powers = np.square(each).sum(axis=1, dtype=np.float64)
            of_mix = float(np.square(each.sum(axis=0)).sum(dtype=np.float64))
        for channel, power in enumerate(powers.tolist(), start=1):
            self._powers[channel] = self._powers.get(channel, 0.0) + power
        together = float(powers.sum())
        self._heard += together
        if of_mix < _LEFT_OF_A_MIX * together:
            self._lost += together

    @property
    def channel(self) -> int | None:
        """The loudest channel, counted from 1, when most of the sound would cancel in the mix; None when it would not.

        Of channels within 1 % of the loudest the first: rounding must not choose.
        """
        if self._lost <= self._heard / 2:
            return None
        loudest = max(self._powers.values())
        return next(channel for channel, power in self._powers.items() if power >= 0.99 * loudest)


def one_channel(frames: Iterable[av.AudioFrame], channel: int) -> Iterator[av.AudioFrame]:
    """Channel ``channel`` (from 1) of each frame as mono; frames that have fewer channels pass as they are."""
    for frame in frames:
        if frame.layout.nb_channels < channel:
            yield frame
            continue
        mono = av.AudioFrame.from_ndarray(_floats(frame)[channel - 1 : channel], "fltp", "mono")
        mono.sample_rate, mono.pts, mono.time_base = frame.sample_rate, frame.pts, frame.time_base
        yield mono


def _mix_weights(frame: av.AudioFrame) -> np.ndarray:
    """How much of each channel the mono mix takes, float32 (channels,): what becomes of one impulse in each."""
    channels = frame.layout.nb_channels
    impulses = av.AudioFrame.from_ndarray(np.eye(channels, dtype=np.float32).reshape(1, -1), "flt", frame.layout.name)
    impulses.sample_rate = frame.sample_rate
    return av.AudioResampler("flt", "mono", frame.sample_rate).resample(impulses)[0].to_ndarray()[0]


def _floats(frame: av.AudioFrame) -> np.ndarray:
    """float32 (channels, samples), full scale at 1."""
    if frame.format.is_planar and frame.layout.nb_channels >= 8:  # PyAV 18 reads past the last of eight planes
        frame = av.AudioResampler("flt", frame.layout, frame.sample_rate).resample(frame)[0]
    samples = frame.to_ndarray()
    if frame.format.is_packed:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype.kind == "f":
        return np.ascontiguousarray(samples, np.float32)
    bits, middle = 8 * samples.itemsize, 128 if samples.dtype == np.uint8 else 0
    return (np.ascontiguousarray(samples, np.float32) - np.float32(middle)) / np.float32(1 << (bits - 1))
