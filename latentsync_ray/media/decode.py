"""Reading chosen frames of a video, bit-identical to decoding it from the start, as plain arrays the right way up.

Knows seeking, damaged streams and PyAV's frames; which frames are wanted is decided elsewhere (``grid``).
"""

from __future__ import annotations

import dataclasses as dc
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from latentsync_ray.errors import UnreadableVideo
from latentsync_ray.media.colour import Colour, colour_matrix
from latentsync_ray.media.deinterlace import BEFORE, deinterlaced
from latentsync_ray.media.index import VideoIndex
from latentsync_ray.media.source import decode_packet, open_media, video_stream

__all__ = ["FrameReader", "Picture", "Planes", "read_frames"]

_NEAR = 12
"""Frames ahead that are decoded rather than sought: a seek may land a group of pictures early."""
_MATRICES = {1: Colorspace.ITU709, 4: Colorspace.FCC, 7: Colorspace.SMPTE240M, 9: Colorspace.BT2020, 10: Colorspace.BT2020}
"""Colour.space -> what the converter calls it; everything else is BT.601, as in ``colour_matrix``."""


@dc.dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """One 4:2:0 picture with even sides: ``y`` uint8 (H, W), ``u`` and ``v`` uint8 (H/2, W/2), writable and contiguous."""

    y: np.ndarray
    u: np.ndarray
    v: np.ndarray


class Picture:
    """One decoded picture; converted only when asked, since most users need one of the two forms."""

    __slots__ = ("_converter", "_frame", "_index", "_rgb", "corrupt")

    def __init__(self, frame: av.VideoFrame, index: VideoIndex, *, converter: VideoReformatter, corrupt: bool) -> None:
        self._frame = frame
        self._index = index
        self._converter = converter
        self._rgb: np.ndarray | None = None
        self.corrupt = corrupt
        """Whether this frame of the source is damaged: concealed by the decoder, or another picture in its place."""

    def as_corrupt(self) -> Picture:
        """The same picture, standing in for a frame that could not be decoded."""
        standing_in = Picture(self._frame, self._index, converter=self._converter, corrupt=True)
        standing_in._rgb = self._rgb
        return standing_in

    def rgb(self) -> np.ndarray:
        """uint8 (H, W, 3) in display orientation, to be read only; H and W are the displayed size, not padded."""
        if self._rgb is None:
            stored = self._converted("rgb24").to_ndarray()
            # A view of the converted frame unless it has to be turned: copying 1080p takes as long as decoding it.
            turned = self._index.turns or self._index.flip
            self._rgb = np.ascontiguousarray(_upright(stored, self._index)) if turned else stored
        return self._rgb

    def rgb_within(self, box: tuple[int, int, int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        """The same of a part: what lies around ``box`` (left, top, right, bottom, px), and its top left corner in the picture.

        Pixels are those of ``rgb``. Only the part is converted where the picture is stored as it is shown.
        """
        width, height = self._index.coded_size
        x0, y0 = max(0, box[0] - box[0] % 2), max(0, box[1] - box[1] % 2)  # whole chroma samples
        x1, y1 = min(width, box[2] + box[2] % 2), min(height, box[3] + box[3] % 2)
        frame = self._frame
        whole = (  # of odd sizes, the converter blends chroma
            width % 2
            or height % 2
            or self._index.turns
            or self._index.flip
            or frame.format.name != "yuv420p"
            or x1 - x0 < 2
            or y1 - y0 < 2
        )
        if whole or (frame.width, frame.height) != (width, height):
            return self.rgb(), (0, 0)
        part = av.VideoFrame(x1 - x0, y1 - y0, "yuv420p")
        for number, plane in enumerate(frame.planes):
            half = 2 if number else 1
            _plane_array(part.planes[number])[:] = _plane_array(plane)[y0 // half : -(-y1 // half), x0 // half : -(-x1 // half)]
        part.colorspace, part.color_range = frame.colorspace, frame.color_range
        return self._converted("rgb24", part).to_ndarray(), (x0, y0)

    def sparse(self) -> np.ndarray:
        """Some of its pixels, evenly spread: uint8 (h, w, 3) RGB in display orientation, about as ``rgb`` has them."""
        width, height = self._index.coded_size
        step = max(4, min(width, height) // 135 // 2 * 2)  # whole chroma samples
        frame = self._frame
        if frame.format.name not in ("yuv420p", "yuvj420p") or (frame.width, frame.height) != (width, height):
            return self.rgb()[::step, ::step]
        luma, *chroma = (_plane_array(plane) for plane in frame.planes)
        few = luma[::step, ::step]
        parts = [few, *(plane[:: step // 2, :: step // 2][: few.shape[0], : few.shape[1]] for plane in chroma)]
        yuv = cv2.merge([np.ascontiguousarray(part) for part in parts])
        return _upright(cv2.transform(yuv, _to_rgb(self._index.colour)), self._index)

    def planes(self) -> Planes:
        """8-bit 4:2:0 planes in display orientation, padded to even by repeating the last row and column.

        Such sources are copied bit for bit (turning moves whole pixels); others are converted, keeping their matrix and range.
        The chroma of turned pictures of odd size sits one luma pixel off, which is cheaper than resampling it.
        """
        frame = self._frame if self._frame.format.name in ("yuv420p", "yuvj420p") else None
        if frame is None or (frame.width, frame.height) != self._index.coded_size:
            frame = self._converted("yuv420p")
        y, u, v = (_upright(_plane_array(plane), self._index) for plane in frame.planes)
        height, width = y.shape
        return Planes(np.pad(y, ((0, height % 2), (0, width % 2)), "edge"), u.copy(), v.copy())

    def _converted(self, pixel_format: str, part: av.VideoFrame | None = None) -> av.VideoFrame:
        """The stored picture in ``pixel_format``; frames that change size mid-stream are brought to the size of the first.

        Or a ``part`` of it, in its own size.
        """
        colour = self._index.colour
        matrix = _MATRICES.get(colour.space, Colorspace.ITU601)
        levels = ColorRange.JPEG if colour.full else ColorRange.MPEG
        is_rgb = self._frame.format.is_rgb or self._frame.format.has_palette
        to_rgb = pixel_format == "rgb24"
        width, height = (part.width, part.height) if part else self._index.coded_size
        try:
            return self._converter.reformat(
                part or self._frame,
                width,
                height,
                pixel_format,
                src_colorspace=None if is_rgb else matrix,
                src_color_range=ColorRange.JPEG if is_rgb else levels,
                dst_colorspace=None if to_rgb else matrix,
                dst_color_range=ColorRange.JPEG if to_rgb else levels,
                threads=1,
            )
        except FFmpegError as error:
            raise UnreadableVideo(f"cannot convert pixel format {self._frame.format.name}: {error.strerror}") from error


class FrameReader:
    """Reads chosen frames of one video after another, and goes on decoding where it was when the next ones lie ahead.

    The segments of a clip follow each other, and decoding each from the keyframe before it would take several times as long.
    Holds one file open.
    """

    def __init__(self) -> None:
        self._video: tuple[Path, VideoIndex] | None = None
        self._frames: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._converter = VideoReformatter()  # one for all pictures: setting it up takes four times as long as converting 1080p
        self._row = -1
        self._held: Picture | None = None

    def read(self, path: Path, index: VideoIndex, rows: np.ndarray) -> Iterator[tuple[int, Picture]]:
        """See ``read_frames``."""
        wanted = deque(np.unique(rows).tolist())
        if not wanted:
            return
        if not self._goes_on(path, index, wanted[0]):
            self._video, self._row, self._held = (path, index), -1, None
            self._frames = _whole_frames(path, index, wanted[0])
        finished = False
        try:
            if self._held is not None and wanted[0] == self._row:
                yield wanted.popleft(), self._held
            while wanted and (step := next(self._frames, None)):
                row, frame = step
                picture = Picture(frame, index, converter=self._converter, corrupt=frame.is_corrupt)
                while wanted and wanted[0] < row:
                    yield wanted.popleft(), (self._held or picture).as_corrupt()
                self._row, self._held = row, picture
                if wanted and wanted[0] == row:
                    yield wanted.popleft(), picture
            for row in wanted:
                if self._held is None:
                    raise UnreadableVideo(
                        f"{path.name}: no {index.codec} frame can be decoded from frame {row} on; the file is damaged"
                    )
                yield row, self._held.as_corrupt()
            finished = True
        finally:
            if not finished:  # in the middle of something
                self.close()

    def close(self) -> None:
        """Let go of the file; the next one is opened anew."""
        self._video, self._frames, self._held = None, iter(()), None

    def _goes_on(self, path: Path, index: VideoIndex, row: int) -> bool:
        """Whether the frame of that row comes sooner by decoding on than from the keyframe before it."""
        if self._video is None or self._video[0] != path or self._video[1] is not index or row < self._row:
            return False
        if not index.timed or row <= self._row + _NEAR:
            return True
        keyframe = int(np.searchsorted(index.key_pts, index.pts[row], side="right")) - 1
        return keyframe < 0 or index.key_pts[keyframe] <= index.pts[max(self._row, 0)]


def read_frames(path: Path, index: VideoIndex, rows: np.ndarray) -> Iterator[tuple[int, Picture]]:
    """Decode the source frames ``rows`` (int32, non-decreasing) and yield (row, picture) once per distinct row, in order.

    Pictures of interlaced streams are deinterlaced.

    A frame that cannot be decoded is replaced by the nearest earlier picture (at the very start of a file, the first one) and
    marked ``corrupt``; so are pictures that the decoder had to conceal. Raises UnreadableVideo when nothing decodes.
    """
    return FrameReader().read(path, index, rows)


def _whole_frames(path: Path, index: VideoIndex, row: int) -> Iterator[tuple[int, av.VideoFrame]]:
    if index.fields is None:
        return _frames_before(path, index, row)
    return deinterlaced(_frames_before(path, index, max(row - BEFORE, 0)), row, order=index.fields)


def _frames_before(path: Path, index: VideoIndex, row: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """(row, frame) in display order, beginning at ``row`` or somewhat before it: at the last keyframe from which that works.

    Seeking may land late (transport streams have no index), and a keyframe may be damaged: then an earlier one is tried,
    in doubling steps, and in the end the beginning of the file.
    """
    keyframe = int(np.searchsorted(index.key_pts, index.pts[row], side="right")) - 1
    step = 1
    while keyframe > 0 and index.timed:
        frames = _decoded(path, index, seek_to=int(index.key_dts[keyframe]))
        first = next(frames, None)
        if first is not None and first[0] <= row:
            yield first
            yield from frames
            return
        keyframe, step = keyframe - step, 2 * step
    yield from _decoded(path, index, seek_to=None)


def _decoded(path: Path, index: VideoIndex, *, seek_to: int | None) -> Iterator[tuple[int, av.VideoFrame]]:
    with open_media(path, UnreadableVideo, max_pixels=index.max_pixels) as container:
        stream = video_stream(container, path.name, max_pixels=index.max_pixels)
        if seek_to is not None:
            container.seek(seek_to, stream=stream)
        started, decoded = seek_to is None, 0
        for packet in container.demux(stream):
            started = started or packet.is_keyframe  # a seek may land inside a group of pictures
            for frame in decode_packet(packet) if started else ():
                row = int(np.searchsorted(index.pts, frame.pts or 0)) if index.timed else decoded
                decoded += 1
                if row < len(index) and (not index.timed or index.pts[row] == frame.pts):
                    yield row, frame


@cache
def _to_rgb(colour: Colour) -> np.ndarray:
    """YUV to RGB for 8-bit values, as an affine (3, 4)."""
    matrix, offset = colour_matrix(colour)
    back = np.linalg.inv(matrix)
    return np.column_stack([back, -back @ offset])


def _plane_array(plane: VideoPlane) -> np.ndarray:
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def _upright(stored: np.ndarray, index: VideoIndex) -> np.ndarray:
    turned = np.rot90(stored, index.turns)
    return turned[:, ::-1] if index.flip else turned
