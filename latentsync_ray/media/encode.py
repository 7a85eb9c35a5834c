"""Encoding one part of a clip, so that parts can be joined without re-encoding. Knows x264; nothing of joining or sound."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction

import av
import cv2
import numpy as np

from latentsync_ray.media.colour import BT709, Colour, colour_matrix
from latentsync_ray.media.decode import Planes

__all__ = ["encode_part", "planes_of"]


def encode_part(
    frames: Iterable[Planes],
    *,
    fps: Fraction,
    size: tuple[int, int],
    colour: Colour,
    crf: int,
    preset: str,
    pixel_aspect: Fraction = Fraction(1),
) -> bytes:
    """An MP4 in memory with ``frames`` as H.264, 8-bit 4:2:0; ``size`` is (width, height) in px, even.

    The same input gives the same bytes, and parts of one clip, made with the same settings, have the same headers.
    Raises ValueError without frames or when a frame is not of ``size``.
    """
    width, height = size
    # Closed groups of two seconds and headers that do not depend on the content make parts stitchable.
    # Macroblock-tree rate control reads uninitialised memory on some sizes, and threads change decisions: both would
    # give a retried part other bytes.
    x264 = {"keyint": max(1, round(2 * fps)), "open-gop": 0, "stitchable": 1, "mbtree": 0}
    options = {"crf": str(crf), "preset": preset, "x264-params": ":".join(f"{key}={value}" for key, value in x264.items())}
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=options, width=width, height=height, pix_fmt="yuv420p")
        codec = stream.codec_context
        codec.time_base = 1 / fps
        codec.thread_count = 1
        codec.sample_aspect_ratio = pixel_aspect
        codec.color_range, codec.colorspace = colour.range, colour.space
        codec.color_primaries, codec.color_trc = colour.primaries, colour.transfer
        count = 0
        for count, planes in enumerate(frames, start=1):
            if planes.y.shape != (height, width):
                raise ValueError(f"frame {count - 1} is {planes.y.shape[1]}x{planes.y.shape[0]} px, expected {width}x{height}")
            stacked = np.concatenate([planes.y.ravel(), planes.u.ravel(), planes.v.ravel()]).reshape(-1, width)
            frame = av.VideoFrame.from_ndarray(stacked, "yuv420p")
            frame.pts, frame.time_base = count - 1, 1 / fps
            container.mux(stream.encode(frame))
        if not count:
            raise ValueError("a part needs at least one frame")
        container.mux(stream.encode(None))
    return memory.getvalue()


def planes_of(picture: np.ndarray, colour: Colour = BT709) -> Planes:
    """An RGB picture, uint8 (H, W, 3) with even sides, as the planes that ``encode_part`` takes."""
    matrix, offset = colour_matrix(colour)
    yuv = cv2.transform(picture.astype(np.float32), np.column_stack([matrix, offset]))
    height, width = picture.shape[:2]
    chroma = cv2.resize(yuv[..., 1:], (width // 2, height // 2), interpolation=cv2.INTER_AREA)  # the mean of each 2 x 2
    y, u, v = (np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in (yuv[..., 0], chroma[..., 0], chroma[..., 1]))
    return Planes(y, u, v)
