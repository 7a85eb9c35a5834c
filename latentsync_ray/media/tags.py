"""What a video says about itself beside its pictures and sound, as far as an MP4 can hold it: tags and text subtitles.

Pictures of text (DVD, Blu-ray and DVB subtitles) have no place in an MP4 and are left out.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from latentsync_ray.errors import UnreadableVideo
from latentsync_ray.media.language import three_letters
from latentsync_ray.media.source import decode_packet, open_media

__all__ = ["Tags", "read_tags", "subtitle_packets"]

_KEYS = (
    *("title", "artist", "album_artist", "album", "composer", "genre", "date", "comment", "copyright", "description"),
    *("synopsis", "grouping", "lyrics", "show", "episode_id", "network", "keywords", "track", "disc"),
)
"""Global tags that FFmpeg writes to an MP4 and that hold of the dub as well: not the encoder, nor the time of its making."""
_LONGEST = 1 << 15
"""Bytes of a tag or subtitle; longer ones are data of some program. A subtitle in an MP4 holds 65,535 at most."""
_TEXT = ("mov_text", "srt", "subrip", "ass", "ssa", "webvtt", "text")
_TICK = Fraction(1, 1000)
_UNTIMED = 3000
"""Milliseconds for which a subtitle is shown that does not say for how long."""
_APART = 10
"""Seconds that streams may lie apart in a file: so far after the last wanted moment reading goes on."""
_STYLE = b"""[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, Alignment
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,2
"""
"""What FFmpeg's encoder of MP4 subtitles takes its defaults from: white on black, at the bottom."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """Of one video."""

    texts: dict[str, str]
    """Global tags by FFmpeg's names, e.g. ``title``."""
    subtitled: bool
    """Whether it has subtitles that ``subtitle_packets`` can take over."""


def read_tags(video: Path) -> Tags:
    """The tags of a video file; characters that cannot be decoded are replaced."""
    with open_media(video, UnreadableVideo) as container:
        found = {name.lower(): value for name, value in container.metadata.items()}
        texts = {name: found[name] for name in _KEYS if found.get(name) and len(found[name].encode()) <= _LONGEST}
        return Tags(texts=texts, subtitled=any(map(_is_text, container.streams.subtitles)))


def subtitle_packets(video: Path, out: OutputContainer, *, until: Fraction) -> Iterator[av.Packet]:
    """The text subtitles of ``video`` that begin in its first ``until`` seconds.

    Asking for the first packet brings all tracks into ``out``. MP4's own subtitles are copied, others converted; times stay as
    they are, counted from the start of the video's container.
    """
    with open_media(video, UnreadableVideo) as container:
        zero = Fraction(container.start_time or 0, av.time_base)
        tracks = {each.index: _Track(each, out) for each in container.streams.subtitles if _is_text(each)}
        for packet in container.demux():
            ticks = packet.pts if packet.dts is None else packet.dts
            if ticks is not None and packet.time_base is not None:
                now = ticks * packet.time_base - zero
                if now > until + _APART:
                    break
                if packet.stream_index in tracks and packet.size and now < until:
                    yield from tracks[packet.stream_index].take(packet, zero=zero)
        for track in tracks.values():
            yield from track.rest(end=until)


def _is_text(stream: SubtitleStream) -> bool:
    return stream.codec_context is not None and stream.codec_context.name in _TEXT


@dc.dataclass(slots=True)
class _Line:
    begin: int
    end: int
    """Milliseconds."""
    content: bytes
    """An MP4 sample, or an event of ASS without times."""


class _Track:
    """One subtitle track on its way. In an MP4 one sample ends where the next begins, so each waits for the next."""

    def __init__(self, stream: SubtitleStream, out: OutputContainer) -> None:
        self._copied = stream.codec_context.name == "mov_text"
        self._stream: Any = out.add_stream_from_template(stream) if self._copied else out.add_stream("mov_text")
        if not self._copied:
            self._stream.codec_context.subtitle_header = _STYLE
        self._stream.time_base = _TICK
        self._stream.metadata["language"] = three_letters(stream.metadata.get("language"))
        if title := stream.metadata.get("title") or stream.metadata.get("name"):
            self._stream.metadata["title"] = title
        self._waiting: _Line | None = None

    def take(self, packet: av.Packet, *, zero: Fraction) -> Iterator[av.Packet]:
        assert packet.pts is not None
        assert packet.time_base is not None
        begin = max(0, round((packet.pts * packet.time_base - zero) / _TICK))
        length = round((packet.duration or 0) * packet.time_base / _TICK) or _UNTIMED
        for content in self._contents(packet):
            line, before = _Line(begin, begin + length, content), self._waiting
            if before is not None and begin <= before.begin:  # two at once become one
                if not self._copied and len(before.content) + len(content) < _LONGEST:
                    before.content += rb"\N" + content.split(b",", 8)[-1]
                    before.end = max(before.end, line.end)
                continue
            if before is not None:
                before.end = min(before.end, begin)
                yield self._made(before)
            self._waiting = line

    def rest(self, *, end: Fraction) -> Iterator[av.Packet]:
        """The last one, cut at ``end`` seconds."""
        if self._waiting is not None:
            self._waiting.end = min(self._waiting.end, round(end / _TICK))
            if self._waiting.end > self._waiting.begin:
                yield self._made(self._waiting)

    def _contents(self, packet: av.Packet) -> list[bytes]:
        if self._copied:
            return [bytes(packet)] if packet.size > 2 else []  # two bytes: the empty text between others
        return [each.ass for each in decode_packet(packet) if isinstance(each, AssSubtitle) and len(each.ass) < _LONGEST]

    def _made(self, line: _Line) -> av.Packet:
        length = line.end - line.begin
        if self._copied:
            packet = av.Packet(line.content)
        else:
            packet = self._stream.codec_context.encode_subtitle(SubtitleSet.create(line.content, 0, length))
        packet.pts = packet.dts = line.begin
        packet.duration, packet.time_base, packet.stream = length, _TICK, self._stream
        packet.is_keyframe = True
        return packet
