"""Opening media files safely, and probing what is in them.

Every read of a media file goes through ``open_media``: only local files, only ordinary containers. Playlists, concat scripts,
SDP and image sequences are refused, because their demuxers open what the file's text points at. Decodes a few pictures at most.
"""

from __future__ import annotations

import dataclasses as dc
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition

from latentsync_ray.errors import ClipError, InputNotFound, TooLarge, UnreadableAudio, UnreadableVideo
from latentsync_ray.media.colour import BT709, UNSPECIFIED, Colour
from latentsync_ray.media.index import FieldOrder, VideoIndex

__all__ = [
    "AudioInfo",
    "audio_stream",
    "decode_packet",
    "open_media",
    "picture_clock",
    "probe_audio",
    "probe_video",
    "video_stream",
]

_CONTAINERS = "mov,matroska,mpegts,mpeg,avi,flv,asf,gif,ogg,wav,w64,mp3,aac,ac3,eac3,flac,aiff,caf,amr,au"
_PIXELS_OF_AUDIO = 1 << 24
"""Cover art in audio files is never decoded; this only bounds what FFmpeg may allocate while it looks at a file."""

_LOOKED_AT = 8
"""Pictures at the start that are decoded: one of them flagged as interlaced makes the stream so. Streams that mix (MBAFF, PAFF,
soft telecine) often begin with pictures that are not flagged; a progressive picture loses little by being deinterlaced."""
_FIELD_ORDERS: dict[int, FieldOrder] = {2: "tff", 3: "bff", 4: "bff", 5: "tff"}
"""AVFieldOrder -> the field shown first."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class AudioInfo:
    """What an audio stream declares."""

    codec: str
    sample_rate: int
    channels: int
    layout: str
    language: str | None = None
    """As the file says it."""


@contextmanager
def open_media(
    source: Path | bytes, refuse: type[ClipError], *, max_pixels: int = _PIXELS_OF_AUDIO
) -> Iterator[InputContainer]:
    """Open a local file (or one held in memory) for reading; what FFmpeg cannot read in it is raised as ``refuse``.

    ``max_pixels`` bounds what a forged header can make FFmpeg allocate. Raises InputNotFound when there is no such file.
    """
    name = source.name if isinstance(source, Path) else "data in memory"
    options = {"format_whitelist": _CONTAINERS, "max_pixels": _allowance(max_pixels)}
    if isinstance(source, bytes):
        file, size = io.BytesIO(source), len(source)
        options["protocol_whitelist"] = "none"
    else:
        if not source.is_file():
            raise InputNotFound(f"{source} is not a file")
        file, size = str(source.absolute()), source.stat().st_size  # an absolute path can not be taken for a URL
        options["protocol_whitelist"] = "file"
    if size == 0:
        raise refuse(f"{name} is empty (0 bytes)")
    try:
        # Damaged text tags are no reason to lose a clip: metadata is replaced, not decoded strictly.
        container = av.open(file, "r", options=options, metadata_errors="replace")
    except FFmpegError as error:
        hint = "it is cut off, damaged or not an accepted container (mp4, mov, mkv, webm, ts, avi, wav, mp3, flac, ogg ...)"
        raise refuse(f"{name} cannot be opened ({error.strerror}): {hint}") from error
    with container:
        try:
            yield container
        except FFmpegError as error:
            raise refuse(f"{name} cannot be read: {error.strerror}") from error


def video_stream(container: InputContainer, name: str, *, max_pixels: int) -> av.VideoStream:
    """The first stream of moving pictures, set up to decode on one thread; raises UnreadableVideo or TooLarge."""
    covers = [bool(stream.disposition & Disposition.attached_pic) for stream in container.streams.video]
    if all(covers):
        raise UnreadableVideo(f"{name} has no video stream" + (", only a cover picture" if covers else ""))
    stream = container.streams.video[covers.index(False)]
    if stream.codec_context is None:
        raise UnreadableVideo(f"{name}: its video codec is not supported")
    _check_pixels(name, stream.codec_context.width, stream.codec_context.height, max_pixels)
    # One thread: error concealment in damaged frames depends on how threads are scheduled.
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": _allowance(max_pixels)}
    return stream


def audio_stream(container: InputContainer, name: str) -> av.AudioStream:
    """The audio stream that a player would choose; raises UnreadableAudio when there is none."""
    stream = container.streams.best("audio")
    if not isinstance(stream, av.AudioStream):
        raise UnreadableAudio(f"{name} has no audio stream; give a file with speech")
    if stream.codec_context is None or not stream.codec_context.sample_rate or not stream.codec_context.channels:
        raise UnreadableAudio(f"{name}: its audio codec is not supported, or its header is damaged")
    return stream


def picture_clock(container: InputContainer) -> Fraction | None:
    """When a container with moving pictures starts, in seconds of its clock: the zero of its sound, which may begin late.

    None for a pure audio file, whose zero is its own first sample.
    """
    moving = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    return Fraction(container.start_time or 0, av.time_base) if moving else None


def probe_audio(path: Path) -> AudioInfo:
    """What the audio of ``path`` declares, be it an audio file or the sound track of a video. Raises UnreadableAudio."""
    with open_media(path, UnreadableAudio) as container:
        stream = audio_stream(container, path.name)
        codec, language = stream.codec_context, stream.metadata.get("language", "und")
        return AudioInfo(
            codec=codec.name,
            sample_rate=codec.sample_rate,
            channels=codec.channels,
            layout=codec.layout.name,
            language=None if language == "und" else language,
        )


def probe_video(path: Path, *, max_pixels: int, max_seconds: float) -> VideoIndex:
    """The packet table of the video in ``path``, from one pass over its packets; only the first pictures are decoded.

    Raises UnreadableVideo (nothing to decode, or packets end clearly before what the container declares) and TooLarge.
    """
    with open_media(path, UnreadableVideo, max_pixels=max_pixels) as container:
        stream = video_stream(container, path.name, max_pixels=max_pixels)
        time_base = stream.time_base or Fraction(1, av.time_base)
        longest = max_seconds / time_base
        if (container.duration or 0) / av.time_base > max_seconds:
            raise _too_long(path, max_seconds)
        table: dict[int, tuple[int, int, bool]] = {}
        ends: dict[Fraction, int] = {}  # last tick of the streams with that time base
        first: av.VideoFrame | None = None
        looked_at, interlaced = 0, False
        for packet in container.demux():
            is_ours = packet.stream_index == stream.index
            if is_ours and looked_at < _LOOKED_AT:
                for picture in decode_packet(packet):
                    first = first or picture
                    looked_at += 1
                    interlaced = interlaced or picture.interlaced_frame
            if packet.pts is None or packet.size == 0 or packet.is_discard:
                continue
            end = packet.pts + (packet.duration or 0)
            ends[packet.time_base] = max(end, ends.get(packet.time_base, end))
            if is_ours:
                dts = packet.pts if packet.dts is None else packet.dts
                table.setdefault(packet.pts, (packet.duration or 0, dts, packet.is_keyframe))
                if packet.pts - next(iter(table)) > longest:
                    raise _too_long(path, max_seconds)
        if first is None or not table:
            raise UnreadableVideo(f"{path.name}: none of its {len(table)} {stream.codec_context.name} frames can be decoded")
        _check_pixels(path.name, first.width, first.height, max_pixels)
        pts = sorted(table)
        durations, dts, is_key = zip(*(table[each] for each in pts), strict=True)
        keys = [row for row, key in enumerate(is_key) if key]
        start = Fraction(container.start_time or 0, av.time_base)
        reached = max(end * tick for tick, end in ends.items()) - start
        if stream.duration and not _is_avi(container):
            own_start = pts[0] if stream.start_time is None else stream.start_time
            reached, declared = (pts[-1] + durations[-1] - own_start) * time_base, stream.duration * time_base
        elif _is_avi(container):  # its duration is a guess from the file's size, but its header counts frames
            declared = stream.frames * time_base
        else:  # Matroska and others declare the whole
            declared = Fraction(container.duration or 0, av.time_base)
        # Headers round, and the last frame's duration is often unknown: half a second and 1 % may be missing.
        if reached < declared * Fraction(99, 100) - Fraction(1, 2):
            raise UnreadableVideo(
                f"{path.name} is cut off: it declares {float(declared):.2f} s and ends at {float(reached):.2f} s; get it again"
            )
        turns, flip = _orientation(first)
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
        return VideoIndex(
            pts=np.array(pts, np.int64),
            durations=np.array(durations, np.int64),
            key_pts=np.array([pts[row] for row in keys], np.int64),
            key_dts=np.array([dts[row] for row in keys], np.int64),
            time_base=time_base,
            start=start,
            rate=_rate(stream.average_rate, pts, time_base),
            timed=not (_is_avi(container) and stream.codec_context.has_b_frames),
            max_pixels=max_pixels,
            codec=stream.codec_context.name,
            pixel_format=first.format.name,
            colour=_colour(first),
            coded_size=(first.width, first.height),
            turns=turns,
            flip=flip,
            pixel_aspect=1 / aspect if turns % 2 else aspect,
            fields=_FIELD_ORDERS.get(stream.codec_context.field_order, "auto") if interlaced and first.height >= 4 else None,
        )


def decode_packet(packet: av.Packet) -> list:
    """The frames that ``packet`` completes; none when it is damaged, because one bad packet must not lose the clip."""
    try:
        return packet.decode()
    except InvalidDataError:
        return []


def _allowance(max_pixels: int) -> str:
    # FFmpeg compares its padded buffers (1080 rows are coded as 1088, lines are aligned) with this limit.
    return str(2 * max_pixels + (1 << 16))


def _check_pixels(name: str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooLarge(
            f"{name} has frames of {width}x{height} px, more than max_pixels = {max_pixels}; raise recipe.max_pixels"
        )


def _too_long(path: Path, max_seconds: float) -> TooLarge:
    return TooLarge(f"{path.name} is longer than max_seconds = {max_seconds:g}; raise recipe.max_seconds to accept it")


def _is_avi(container: InputContainer) -> bool:
    return container.format.name == "avi"


def _rate(declared: Fraction | None, pts: list[int], time_base: Fraction) -> Fraction:
    if (not declared or not 1 <= declared <= 240) and len(pts) > 1:
        declared = (len(pts) - 1) / ((pts[-1] - pts[0]) * time_base)
    # 1001 keeps 30000/1001 and its kin exact and any rate small enough for the time scale of an MP4.
    return min(max(declared or Fraction(25), Fraction(1)), Fraction(240)).limit_denominator(1001)


def _colour(frame: av.VideoFrame) -> Colour:
    if frame.format.is_rgb or frame.format.has_palette:
        return BT709

    def known(code: int) -> int:
        return UNSPECIFIED if code in (0, 3) else int(code)  # reserved, or "RGB" on planes that are not

    space, primaries, transfer = known(frame.colorspace), known(frame.color_primaries), known(frame.color_trc)
    full_by_name = frame.format.name.startswith(("yuvj", "gray"))  # full range, whether or not they say so
    return Colour(2 if full_by_name else int(frame.color_range), space, primaries, transfer)


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """(quarter turns, flip) from the display matrix (ISO/IEC 14496-12, 6.2.2): 3x3 int32, of which 2x2 rotate and mirror."""
    try:
        side_data = frame.side_data["DISPLAYMATRIX"]  # pyright: ignore[reportGeneralTypeIssues]  # PyAV declares no keys
    except KeyError:
        return 0, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(side_data), np.int32).astype(float).tolist()
    flip = a * d - b * c < 0
    if flip:
        a, c = -a, -c
    return round(math.degrees(math.atan2(c - b, a + d)) / 90) % 4, flip
