"""Tags and subtitles on their way from the video into the clip, and the languages of both."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from av.subtitles.subtitle import SubtitleSet
from make_clips import moving, opened, speech_like, write_clip, write_speech

from latentsync_ray.media.colour import BT709
from latentsync_ray.media.encode import encode_part, planes_of
from latentsync_ray.media.join import Extras, join_parts, verify
from latentsync_ray.media.language import three_letters
from latentsync_ray.media.source import probe_audio
from latentsync_ray.media.tags import _STYLE, read_tags

FPS = Fraction(25)
LINES = [(500, 1000, "Hello {\\i1}world{\\i0}"), (1200, 2000, "two\\Nlines, é & ü"), (2500, 5000, "the last")]


def subtitled(path: Path, codecs: list[str], lines: list[tuple[int, int, str]], *, texts: dict[str, str] | None = None) -> Path:
    """A video of 6 s with a subtitle track of each codec: (begin, end, text) in ms, first German, then French."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25, width=96, height=64, pix_fmt="yuv420p")
        tracks: list[Any] = [container.add_stream(codec) for codec in codecs]
        container.metadata.update(texts or {})
        for track, language, title in zip(tracks, ("ger", "fre"), ("Deutsch", "Français"), strict=False):
            track.metadata.update({"language": language, "title": title})
            track.codec_context.subtitle_header = _STYLE
        container.start_encoding()
        for track in tracks:
            for begin, end, text in lines:
                packet = track.codec_context.encode_subtitle(SubtitleSet.create(f"0,0,Default,,0,0,0,,{text}".encode(), 0, 1))
                packet.pts = packet.dts = begin
                packet.duration, packet.time_base, packet.stream = end - begin, Fraction(1, 1000), track
                container.mux(packet)
        for number, picture in enumerate(moving(150)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def shown(path: Path, track: int = 0) -> list[tuple[float, float, str]]:
    """(begin, end, text) of every subtitle, s."""
    with opened(path) as container:
        stream = container.streams.subtitles[track]
        found = []
        for packet in container.demux(stream):
            for each in packet.decode() if packet.size else ():
                begin = float(packet.pts * packet.time_base)
                found.append((begin, begin + float(packet.duration * packet.time_base), each.dialogue.decode()))
        return found


@pytest.fixture(scope="module")
def parts() -> list[bytes]:
    pictures = map(planes_of, moving(75))
    return [encode_part(pictures, fps=FPS, size=(96, 64), colour=BT709, crf=20, preset="veryfast")]


def joined(parts: list[bytes], folder: Path, **extras: Any) -> Path:
    speech = write_speech(folder / "speech.wav", speech_like(3))
    output = folder / "out.mp4"
    join_parts(parts, speech, output, fps=FPS, extras=Extras(**extras))
    verify(output, 75)
    return output


@pytest.mark.parametrize(
    ("name", "codecs"),
    [("a.mkv", ["subrip"]), ("a.mkv", ["ass"]), ("a.mkv", ["webvtt"]), ("a.mp4", ["mov_text"]), ("a.mkv", ["subrip", "ass"])],
)
def test_text_subtitles_keep_their_times_and_are_cut_at_the_end(parts, tmp_path, name: str, codecs: list[str]) -> None:
    source = subtitled(tmp_path / name, codecs, LINES)
    assert read_tags(source).subtitled
    output = joined(parts, tmp_path, subtitled=source, subtitle_seconds=Fraction(3))
    with opened(output) as container:
        streams = container.streams.subtitles
        assert [stream.codec_context.name for stream in streams] == ["mov_text"] * len(codecs)
        assert [stream.metadata["language"] for stream in streams] == ["deu", "fra"][: len(codecs)]
        assert [stream.metadata["name"] for stream in streams] == ["Deutsch", "Français"][: len(codecs)]
        assert container.duration / av.time_base == pytest.approx(3, abs=0.05)
    for track in range(len(codecs)):
        first, second, last = shown(output, track)
        assert (first[:2], second[:2], last[:2]) == ((0.5, 1.0), (1.2, 2.0), (2.5, 3.0))
        assert "world" in first[2]
        assert "\\i1" in first[2]
        assert second[2] == "two\nlines, é & ü"
        assert last[2] == "the last"


def test_subtitles_of_a_source_that_repeats_end_with_its_first_pass(parts, tmp_path) -> None:
    source = subtitled(tmp_path / "a.mkv", ["subrip"], LINES)
    output = joined(parts, tmp_path, subtitled=source, subtitle_seconds=Fraction(8, 5))
    assert [line[:2] for line in shown(output)] == [(0.5, 1.0), (1.2, 1.6)]


def test_subtitles_at_one_time_or_overlapping(parts, tmp_path) -> None:
    lines = [(500, 2000, "left"), (500, 1000, "right"), (1500, 2500, "after")]
    output = joined(parts, tmp_path, subtitled=subtitled(tmp_path / "a.mkv", ["ass"], lines), subtitle_seconds=Fraction(3))
    assert shown(output) == [(0.5, 1.5, "left\nright"), (1.5, 2.5, "after")]


def test_a_clip_with_extras_is_reproducible_and_streams_are_unchanged(parts, tmp_path) -> None:
    source = subtitled(tmp_path / "a.mkv", ["subrip"], LINES)
    extras = {"subtitled": source, "subtitle_seconds": Fraction(3), "texts": {"title": "A"}, "language": "fr"}
    first = joined(parts, tmp_path, **extras).read_bytes()
    assert joined(parts, tmp_path, **extras).read_bytes() == first
    plain = joined(parts, tmp_path)
    (tmp_path / "with.mp4").write_bytes(first)
    for kind in ("video", "audio"):
        with opened(plain) as one, opened(tmp_path / "with.mp4") as other:
            packets = [[(p.pts, bytes(p)) for p in each.demux(**{kind: 0}) if p.size] for each in (one, other)]
        assert packets[0] == packets[1]


def test_bitmap_subtitles_and_none_are_not_announced(parts, tmp_path) -> None:
    plain, path = write_clip(tmp_path / "a.mkv", moving(5)), tmp_path / "b.mkv"
    assert not read_tags(plain).subtitled
    with opened(plain) as source, av.open(str(path), "w") as container:
        video = container.add_stream_from_template(source.streams.video[0])
        bitmap = container.add_mux_stream("hdmv_pgs_subtitle")
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux(packet)
        packet = av.Packet(bytes(30))
        packet.pts = packet.dts = 40
        packet.time_base, packet.duration, packet.stream = Fraction(1, 1000), 40, bitmap
        container.mux(packet)
    with opened(path) as container:
        assert len(container.streams.subtitles) == 1
    assert not read_tags(path).subtitled
    with opened(joined(parts, tmp_path, subtitled=path, subtitle_seconds=Fraction(3))) as container:
        assert not container.streams.subtitles


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.mov"])
def test_texts_of_the_video_are_carried(parts, tmp_path, name: str) -> None:
    texts = {"title": "Ein Titel, é", "artist": "Ann", "comment": "c" * 300, "date": "2021-02-03", "copyright": "© us"}
    codecs = ["subrip" if name == "a.mkv" else "mov_text"]
    source = subtitled(tmp_path / name, codecs, [], texts={**texts, "encoder": "x", "creation_time": "2020-01-01T00:00:00Z"})
    found = read_tags(source).texts
    assert found == texts
    with opened(joined(parts, tmp_path, texts=found)) as container:
        assert {key: container.metadata[key] for key in texts} == texts
        assert "creation_time" not in container.metadata


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("de", "deu"),
        ("de-AT", "deu"),
        ("ger", "deu"),
        ("DEU", "deu"),
        ("pt_BR", "por"),
        ("zh-Hant-TW", "zho"),
        ("cmn", "zho"),
        ("gsw", "gsw"),
        ("German", "und"),
        ("xx", "und"),
        ("", "und"),
        ("d", "und"),
        ("en us", "und"),
        (None, "und"),
    ],
)
def test_languages(code: str | None, expected: str) -> None:
    assert three_letters(code) == expected


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
@pytest.mark.parametrize(("language", "expected"), [("de-AT", "deu"), ("German", "und"), (None, "und")])
def test_the_sound_track_says_its_language(parts, tmp_path, codec: str, language: str | None, expected: str) -> None:
    speech = write_speech(tmp_path / "a.mka", speech_like(3), codec=codec)
    join_parts(parts, speech, tmp_path / "out.mp4", fps=FPS, extras=Extras(language=language))
    with opened(tmp_path / "out.mp4") as container:
        assert container.streams.audio[0].metadata["language"] == expected


def test_the_language_of_a_file_is_read(tmp_path) -> None:
    for language, expected in (("ger", "ger"), ("und", None), (None, None)):
        path = write_speech(tmp_path / "a.mka", speech_like(0.1), language=language)
        assert probe_audio(path).language == expected
