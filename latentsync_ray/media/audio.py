"""Decoded audio as a gapless run of frames of one kind: for what the model hears (``speech``) and what is heard (``join``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
from av.container import InputContainer

from latentsync_ray.media.source import decode_packet

__all__ = ["decoded", "resampled"]


def decoded(container: InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Every frame of ``stream``; damaged packets are left out."""
    for packet in container.demux(stream):
        yield from decode_packet(packet)


def resampled(frames: Iterable[av.AudioFrame], *, sample_format: str, layout: str, rate: int) -> Iterator[av.AudioFrame]:
    """``frames`` in one sample format, channel layout and rate (Hz), nothing lost at the end, timed from 0 without gaps.

    Streams may change format on the way (AAC that announces mono and turns out stereo): each stretch is converted by itself.
    """
    resampler, current, position = None, None, 0

    def timed(pieces: Iterable[av.AudioFrame]) -> Iterator[av.AudioFrame]:
        nonlocal position
        for piece in pieces:
            piece.pts, piece.time_base = position, Fraction(1, rate)
            position += piece.samples
            yield piece

    for frame in frames:
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or kind != current:
            if resampler is not None:
                yield from timed(resampler.resample(None))
            resampler, current = av.AudioResampler(sample_format, layout, rate), kind
        frame.pts = None  # the source's own times may have gaps; samples are counted instead
        yield from timed(resampler.resample(frame))
    if resampler is not None:
        yield from timed(resampler.resample(None))
