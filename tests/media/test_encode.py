"""Encoding parts: reproducible, of equal headers, tags kept, refusals."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from make_clips import moving, opened

from latentsync_ray.media.colour import BT709, Colour
from latentsync_ray.media.decode import Planes
from latentsync_ray.media.encode import encode_part

FPS = Fraction(25)


def planes(count: int, width: int = 96, height: int = 64) -> list[Planes]:
    found = []
    for picture in moving(count, width, height):
        stacked = av.VideoFrame.from_ndarray(picture, "rgb24").to_ndarray(format="yuv420p")
        chroma = stacked[height:].reshape(2, height // 2, width // 2)
        found.append(Planes(stacked[:height], chroma[0], chroma[1]))
    return found


def encode(frames: list[Planes], **settings) -> bytes:
    height, width = frames[0].y.shape if frames else (64, 96)
    defaults = {"fps": FPS, "size": (width, height), "colour": BT709, "crf": 18, "preset": "veryfast"}
    return encode_part(frames, **{**defaults, **settings})


@pytest.mark.parametrize("size", [(96, 64), (108, 192), (152, 270)])
@pytest.mark.parametrize("preset", ["ultrafast", "veryfast", "medium"])
def test_the_same_frames_give_the_same_bytes(size: tuple[int, int], preset: str) -> None:
    frames = planes(30, *size)
    assert encode(frames, preset=preset) == encode(frames, preset=preset)


@pytest.mark.parametrize("count", [1, 2, 3, 60])
def test_every_frame_comes_out_close_to_what_went_in(count: int) -> None:
    frames = planes(count)
    with opened(encode(frames, crf=10)) as container:
        decoded = list(container.decode(video=0))
    assert len(decoded) == count
    assert [frame.time for frame in decoded] == pytest.approx([k / 25 for k in range(count)])
    for frame, source in zip(decoded, frames, strict=True):
        luma = frame.to_ndarray()[:64].astype(int)
        assert np.abs(luma - source.y).mean() < 2


def test_headers_do_not_depend_on_the_content() -> None:
    def header(data: bytes) -> bytes | None:
        with opened(data) as container:
            return container.streams.video[0].codec_context.extradata

    still = [Planes(np.full((64, 96), 80, np.uint8), *(np.full((32, 48), 128, np.uint8) for _ in range(2)))] * 70
    headers = {header(encode(frames)) for frames in (planes(1), planes(2), planes(60), planes(200)[140:], still)}
    assert len(headers) == 1
    assert headers != {header(encode(planes(2), preset="medium"))}


@pytest.mark.parametrize("colour", [Colour(), BT709, Colour(2, 5, 6, 6), Colour(1, 9, 9, 16)])
def test_colour_tags_and_pixel_shape_are_kept(colour: Colour) -> None:
    with opened(encode(planes(3), colour=colour, pixel_aspect=Fraction(4, 3))) as container:
        frame = next(container.decode(video=0))
        assert container.streams.video[0].codec_context.sample_aspect_ratio == Fraction(4, 3)
    tags = Colour(int(frame.color_range), int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc))
    assert tags.full == colour.full
    assert (tags.space, tags.primaries, tags.transfer) == (colour.space, colour.primaries, colour.transfer)


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(30), Fraction(60), Fraction(1823, 86)])
def test_any_rate(fps: Fraction) -> None:
    with opened(encode(planes(20), fps=fps)) as container:
        times = sorted(packet.pts * packet.time_base for packet in container.demux(video=0) if packet.pts is not None)
    assert [round(time * fps) for time in times] == list(range(20))


def test_groups_are_closed_and_two_seconds_long() -> None:
    with opened(encode([*planes(60), *planes(60)][:120])) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert keys[0] == 0
    assert max(np.diff([*keys, len(packets)])) <= 50
    for key in keys:  # nothing decoded after a keyframe is shown before it
        assert all(packet.pts >= packets[key].pts for packet in packets[key:])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        encode([])
    with pytest.raises(ValueError, match="frame 1 is 96x32 px, expected 96x64"):
        encode([*planes(1), *planes(1, 96, 32)], size=(96, 64))
