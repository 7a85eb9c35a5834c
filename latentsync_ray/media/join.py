"""Joining encoded parts into one MP4 with sound, without re-encoding a picture.

Parts are opened one after another and packets pass straight through, so that memory does not grow with the clip.
"""

from __future__ import annotations

import dataclasses as dc
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer

from latentsync_ray.errors import MixedParts, UnreadableAudio, UnreadableVideo
from latentsync_ray.media.audio import decoded, lateness, resampled
from latentsync_ray.media.language import three_letters
from latentsync_ray.media.source import audio_stream, open_media, picture_clock
from latentsync_ray.media.tags import subtitle_packets

__all__ = ["Extras", "Joined", "join_parts", "verify"]

_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
"""Sampling frequencies of MPEG-4 audio in Hz (ISO/IEC 14496-3, table 1.18)."""
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
"""Channel count -> layout to encode, since many files (WAV) only give the count; more channels are mixed down to stereo."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What was written."""

    frames: int
    duration: float
    """Seconds of the video stream."""
    bytes: int
    sound_start: Fraction
    """When the sound track begins, in seconds of the clip: later than 0 where AAC is copied that begins late."""


@dc.dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a clip carries beside its pictures and sound."""

    language: str | None = None
    """Of the sound: any code that ``three_letters`` knows."""
    texts: Mapping[str, str] = dc.field(default_factory=dict)
    """Global tags by FFmpeg's names, e.g. ``title``."""
    subtitled: Path | None = None
    """The video whose text subtitles are taken over, as far as they begin in the first ``subtitle_seconds``."""
    subtitle_seconds: Fraction = Fraction(0)


def join_parts(
    parts: Sequence[bytes | Path], audio: Path, output: Path, *, fps: Fraction, extras: Extras | None = None
) -> Joined:
    """Concatenate ``parts`` (made by ``encode_part`` with equal settings), add the sound of ``audio``, write MP4 to ``output``.

    Pictures are copied bit for bit, and so is AAC; other audio is encoded to AAC once, at its own rate and channels where AAC
    has them. Both streams start at 0; only AAC from a video whose sound begins late starts later, by an edit list (ISO/IEC
    14496-12, 8.6.6), where other late sound is preceded by silence. The header comes first (faststart).

    Raises MixedParts when parts are unreadable, incomplete or have different headers; UnreadableAudio without usable audio.
    """
    # The default time scale of 1000 would round the edit list, and with it where the sound starts.
    options = {"movflags": "+faststart", "movie_timescale": "90000"}
    extras = extras or Extras()
    with av.open(str(output), "w", format="mp4", options=options) as container:
        container.metadata.update(extras.texts)
        pictures, sound = _pictures(parts, container, fps=fps), _sound(audio, container, language=extras.language)
        # Streams must exist before the first packet is written, and each source adds its own with its first packet.
        first_picture, first_sound = next(pictures, None), next(sound, None)
        if first_picture is None:
            raise ValueError("there are no parts to join")
        if first_sound is None:
            raise UnreadableAudio(f"{audio.name}: nothing in its audio stream can be used")
        subtitles = iter(())
        if extras.subtitled is not None:
            subtitles = subtitle_packets(extras.subtitled, container, until=extras.subtitle_seconds)
        first_subtitle = [each for each in [next(subtitles, None)] if each is not None]
        frames, sound_start = 0, max(Fraction(0), (first_sound.pts or 0) * first_sound.time_base)
        sources = chain([first_picture], pictures), chain([first_sound], sound), chain(first_subtitle, subtitles)
        for packet in heapq.merge(*sources, key=_decode_time):
            frames += isinstance(packet.stream, av.VideoStream)
            container.mux(packet)
    return Joined(frames=frames, duration=float(frames / fps), bytes=output.stat().st_size, sound_start=sound_start)


def verify(path: Path, frames: int, *, sound_start: Fraction = Fraction(0)) -> None:
    """Check a joined file before it is published: it opens, has ``frames`` video packets from 0 on, and sound in its place.

    Raises RuntimeError that says what is wrong: a file that fails was damaged after it was written, or shows a bug.
    """
    with open_media(path, UnreadableVideo) as container:
        # (start, precision): the edit list counts 1/90000 s, less than a sample.
        starts = {
            stream.type: ((stream.start_time or 0) * (stream.time_base or 0), stream.time_base or 0)
            for stream in container.streams
        }
        counts = Counter(packet.stream.type for packet in container.demux() if packet.size)
    if counts["video"] != frames or not counts["audio"]:
        raise RuntimeError(f"{path}: {counts['video']} video and {counts['audio']} audio packets, expected {frames} and some")
    (pictures, _), (sound, sample) = starts["video"], starts["audio"]
    if pictures or abs(sound - sound_start) > (sample if sound_start else 0):
        raise RuntimeError(
            f"{path}: its pictures start at {float(pictures):.4f} s instead of 0, or its sound at {float(sound):.4f} s "
            f"instead of {float(sound_start):.4f}"
        )


def _pictures(parts: Sequence[bytes | Path], out: OutputContainer, *, fps: Fraction) -> Iterator[av.Packet]:
    """The packets of all parts on one time line, in decoding order; the first one brings its stream into ``out``."""
    track, headers, delay, base = None, None, 0, 0
    for number, part in enumerate(parts):
        with open_media(part, MixedParts) as container:
            if not container.streams.video:
                raise MixedParts(f"part {number} has no video stream")
            stream = container.streams.video[0]
            codec = stream.codec_context
            if track is None:
                track = out.add_stream_from_template(stream)
                headers, delay = codec.extradata, codec.reorder_depth
            elif codec.extradata != headers:
                raise MixedParts(f"part {number} was encoded with other settings or another encoder than part 0")
            places: list[int] = []
            for packet in container.demux(stream):
                if not packet.size or packet.pts is None or packet.time_base is None:
                    continue
                place = round(packet.pts * packet.time_base * fps)
                # Parts of one or two frames have no reordering delay of their own, so decoding times are made anew.
                packet.pts, packet.dts, packet.duration = base + place, base + len(places) - delay, 1
                packet.time_base, packet.stream = 1 / fps, track
                places.append(place)
                yield packet
            if sorted(places) != list(range(len(places))) or not places or places[0]:
                raise MixedParts(f"part {number} is incomplete: its frames are not consecutive")
            base += len(places)


def _sound(audio: Path, out: OutputContainer, *, language: str | None) -> Iterator[av.Packet]:
    """AAC packets, in place; the first one brings its stream into ``out``."""
    with open_media(audio, UnreadableAudio) as container:
        stream = audio_stream(container, audio.name)
        packets = (_copied if stream.codec_context.name == "aac" else _encoded)(container, stream, out)
        for packet in packets:
            packet.stream.metadata["language"] = three_letters(language)
            yield packet


def _copied(container: InputContainer, stream: av.AudioStream, out: OutputContainer) -> Iterator[av.Packet]:
    """AAC packets as they are, one after another in samples: decoding ignores gaps in the source's clock, and so does this."""
    track = out.add_stream_from_template(stream)
    rate, step = stream.codec_context.sample_rate, stream.codec_context.frame_size or 1024
    zero = picture_clock(container)
    position: int | None = None
    for packet in container.demux(stream):
        if not packet.size or packet.time_base is None:
            continue
        if position is None:
            priming = _priming(packet, rate)
            start = (packet.pts or 0) * packet.time_base + Fraction(priming, rate)
            position = round(lateness(start, zero) * rate) - priming
        own = (packet.duration or 0) * packet.time_base * rate
        packet.pts = packet.dts = position
        packet.duration = int(own) if 0 < own < step and own.denominator == 1 else step  # the last one may end early
        packet.time_base, packet.stream = Fraction(1, rate), track
        position += step
        yield packet


def _priming(first: av.Packet, rate: int) -> int:
    """How many samples at the start only prime the decoder and are not played."""
    if first.time_base.denominator % rate == 0 and (first.pts or 0) < 0:  # MP4: they stand at negative times
        return round(-(first.pts or 0) * first.time_base * rate)
    if first.has_sidedata("skip_samples"):  # elsewhere the demuxer says how many to skip (u32, little-endian)
        return int.from_bytes(bytes(first.get_sidedata("skip_samples"))[:4], "little")
    return 0


def _encoded(container: InputContainer, stream: av.AudioStream, out: OutputContainer) -> Iterator[av.Packet]:
    codec = stream.codec_context
    rate = min(_AAC_RATES, key=lambda each: abs(each - codec.sample_rate))
    layout = _LAYOUTS.get(codec.channels, "stereo")
    track = out.add_stream("aac", rate=rate)
    track.layout = layout
    # 96 kb/s per channel is transparent for speech; AAC holds at most 6144 bits per 1024 samples of a channel.
    track.bit_rate = min(96_000, 5 * rate) * track.codec_context.channels
    frames, zero = decoded(container, stream), picture_clock(container)
    for frame in resampled(frames, sample_format="fltp", layout=layout, rate=rate, zero=zero):
        yield from track.encode(frame)
    yield from track.encode(None)


def _decode_time(packet: av.Packet) -> Fraction:
    return (packet.dts or 0) * packet.time_base
