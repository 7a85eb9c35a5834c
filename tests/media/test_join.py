"""Joining: no picture changes, times are exact, sound is in place, and wrong parts are refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from make_clips import moving, opened, speech_like, write_clip, write_speech

from latentsync_ray.errors import MixedParts, UnreadableAudio
from latentsync_ray.media.colour import BT709
from latentsync_ray.media.decode import Planes
from latentsync_ray.media.encode import encode_part
from latentsync_ray.media.join import join_parts, verify
from latentsync_ray.media.speech import write_wav

FPS = Fraction(25)


def part(pictures: Sequence[np.ndarray], fps: Fraction = FPS, crf: int = 20, preset: str = "veryfast") -> bytes:
    height, width = pictures[0].shape[:2]

    def planes(picture: np.ndarray) -> Planes:
        stacked = av.VideoFrame.from_ndarray(picture, "rgb24").to_ndarray(format="yuv420p")
        return Planes(stacked[:height], *stacked[height:].reshape(2, height // 2, width // 2))

    return encode_part(map(planes, pictures), fps=fps, size=(width, height), colour=BT709, crf=crf, preset=preset)


def parts_of(lengths: Sequence[int], fps: Fraction = FPS) -> list[bytes]:
    pictures, ends = moving(sum(lengths)), np.cumsum(lengths)
    return [part(pictures[end - length : end], fps) for length, end in zip(lengths, ends, strict=True)]


def video_frames(source: Path | bytes) -> list[Any]:
    with opened(source) as container:
        return list(container.decode(video=0))


def packets(path: Path, kind: str) -> list[bytes]:
    with opened(path) as container:
        return [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]


def pcm(path: Path) -> np.ndarray:
    """float32 (channels, samples)"""
    with opened(path) as container:
        stream = container.streams.audio[0]
        packed = av.AudioResampler("flt", stream.layout, stream.codec_context.sample_rate)
        pieces = [piece.to_ndarray() for frame in container.decode(stream) for piece in packed.resample(frame)]
        return np.concatenate(pieces, axis=1).reshape(-1, stream.channels).T


@pytest.fixture
def speech(tmp_path) -> Path:
    return write_speech(tmp_path / "speech.wav", speech_like(3))


@pytest.mark.parametrize("lengths", [[75], [25, 50], [1, 2, 3, 69], [72, 1, 2], [16] * 4 + [11]])
def test_pictures_and_their_times_are_exact(tmp_path, speech: Path, lengths: list[int]) -> None:
    parts, output = parts_of(lengths), tmp_path / "out.mp4"
    joined = join_parts(parts, speech, output, fps=FPS)
    verify(output, 75)
    assert (joined.frames, joined.duration, joined.bytes) == (75, 3.0, output.stat().st_size)
    frames, expected = video_frames(output), [frame for each in parts for frame in video_frames(each)]
    assert [frame.pts * frame.time_base * FPS for frame in frames] == list(range(75))
    assert [f.to_ndarray().tobytes() for f in frames] == [f.to_ndarray().tobytes() for f in expected]
    with opened(output) as container:
        demuxed = [packet for packet in container.demux(video=0) if packet.size]
        durations = {stream.type: float(stream.duration * stream.time_base) for stream in container.streams}
    assert all(later.dts > sooner.dts for sooner, later in pairwise(demuxed))
    assert all(packet.dts <= packet.pts for packet in demuxed)
    assert abs(durations["video"] - durations["audio"]) <= 1 / FPS


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(50)])
def test_other_rates(tmp_path, speech: Path, fps: Fraction) -> None:
    join_parts(parts_of([30, 2, 40], fps), speech, tmp_path / "out.mp4", fps=fps)
    verify(tmp_path / "out.mp4", 72)
    assert [round(frame.pts * frame.time_base * fps) for frame in video_frames(tmp_path / "out.mp4")] == list(range(72))


def test_parts_may_lie_on_disk_and_the_result_is_reproducible(tmp_path, speech: Path) -> None:
    parts = parts_of([30, 45])
    paths = [tmp_path / f"{number}.mp4" for number in range(2)]
    for path, data in zip(paths, parts, strict=True):
        path.write_bytes(data)
    join_parts(parts, speech, tmp_path / "a.mp4", fps=FPS)
    join_parts(paths, speech, tmp_path / "b.mp4", fps=FPS)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_the_header_comes_first_and_sound_lies_beside_its_pictures(tmp_path, speech: Path) -> None:
    output = tmp_path / "out.mp4"
    join_parts(parts_of([40, 35]), speech, output, fps=FPS)
    data = output.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with opened(output) as container:
        order = sorted(
            (packet.pos or 0, float((packet.dts or 0) * packet.time_base)) for packet in container.demux() if packet.size
        )
    times = np.array([time for _, time in order])
    assert (np.maximum.accumulate(times) - times).max() < 1.5  # a player never has to jump back further


@pytest.mark.parametrize("name", ["a.mp4", "a.m4a", "a.mkv", "a.ts", "a.aac"])
@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_aac_is_copied_bit_for_bit(tmp_path, name: str, rate: int) -> None:
    source, output = tmp_path / name, tmp_path / "out.mp4"
    if name in ("a.mp4", "a.mkv", "a.ts"):
        write_clip(source, moving(75), audio=speech_like(3.01, rate, 2), audio_rate=rate)
    else:
        write_speech(source, speech_like(3.01, rate, 2), rate=rate, codec="aac")
    join_parts(parts_of([75]), source, output, fps=FPS)
    verify(output, 75)
    headers = 7 if name in ("a.ts", "a.aac") else 0  # ADTS headers have no place in an MP4
    assert packets(output, "audio") == [packet[headers:] for packet in packets(source, "audio")]
    mine, original = pcm(output), pcm(source)
    assert np.array_equal(mine[:, : original.shape[1]], original[:, : mine.shape[1]])
    assert abs(mine.shape[1] - original.shape[1]) < 1024 * (1 + (name != "a.mp4"))


def sound_starts(path: Path) -> tuple[float, float]:
    """When the audio stream begins, and when its loud part does, as a player shows it."""
    with opened(path) as container:
        stream = container.streams.audio[0]
        declared = float((stream.start_time or 0) * stream.time_base)
        first = next(container.decode(stream))
        assert first.time == declared
    loud = np.abs(pcm(path)[0])
    return declared, declared + int(np.argmax(loud > 0.3 * loud.max())) / stream.codec_context.sample_rate


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv"])
@pytest.mark.parametrize("late", [0.01, 0.7])
def test_late_aac_is_copied_and_keeps_its_place(tmp_path, name: str, late: float) -> None:
    source, output = tmp_path / name, tmp_path / "out.mp4"
    write_clip(source, moving(75), audio=speech_like(2, 48_000), audio_rate=48_000, audio_offset=late)
    joined = join_parts(parts_of([75]), source, output, fps=FPS)
    verify(output, 75, sound_start=joined.sound_start)
    headers = 7 if name == "a.ts" else 0
    assert packets(output, "audio") == [packet[headers:] for packet in packets(source, "audio")]
    with opened(source) as container:
        shown_first = container.streams.video[0].start_time * container.streams.video[0].time_base
    begins = sound_starts(source)[1] - float(min(shown_first, sound_starts(source)[0]))
    assert sound_starts(output)[1] == pytest.approx(begins, abs=0.002)
    assert begins == pytest.approx(late, abs=0.03)
    assert [frame.time for frame in video_frames(output)[:2]] == [0, 0.04]
    if late > 0.5:
        with pytest.raises(RuntimeError, match=r"its sound at 0\.6\d+ s instead of 0\.0000"):
            verify(output, 75)


@pytest.mark.parametrize("codec", ["pcm_s16le", "libopus"])
def test_other_late_sound_is_preceded_by_silence(tmp_path, codec: str) -> None:
    source, output = tmp_path / "a.mkv", tmp_path / "out.mp4"
    sound = speech_like(2, 48_000, 8 if codec == "pcm_s16le" else 1)
    write_clip(source, moving(75), audio=sound, audio_rate=48_000, audio_codec=codec, audio_offset=0.7)
    assert join_parts(parts_of([75]), source, output, fps=FPS).sound_start == 0
    verify(output, 75)
    declared, begins = sound_starts(output)
    assert declared == 0
    assert begins == pytest.approx(0.7, abs=0.003)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels"),
    [
        ("a.wav", "pcm_s16le", 16_000, 1),
        ("a.wav", "pcm_s16le", 48_000, 2),
        ("a.wav", "pcm_s16le", 8_000, 1),
        ("a.wav", "pcm_s16le", 48_000, 6),
        ("a.wav", "pcm_s16le", 48_000, 8),
        ("a.flac", "flac", 44_100, 2),
        ("a.mp3", "libmp3lame", 44_100, 1),
        ("a.ogg", "libopus", 48_000, 2),
        ("a.ac3", "ac3", 48_000, 2),
        ("a.eac3", "eac3", 48_000, 2),
    ],
)
def test_other_sound_is_encoded_at_its_own_rate_and_in_place(tmp_path, name: str, codec: str, rate: int, channels: int) -> None:
    source = write_speech(tmp_path / name, speech_like(3, rate, channels), rate=rate, codec=codec)
    output = tmp_path / "out.mp4"
    join_parts(parts_of([75]), source, output, fps=FPS)
    verify(output, 75)
    with opened(output) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.codec_context.sample_rate, stream.channels) == ("aac", rate, channels)
        assert abs(float(stream.duration * stream.time_base) - 3) < 1 / 25
    heard, said = pcm(output)[0], speech_like(3, rate, channels)[:, 0].astype(float)
    size = 1 << 19
    match = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(said, size)))
    late = 256 if "ac3" in codec else 0  # an encoder's delay, which a raw stream does not tell: 5 ms
    assert int(np.argmax(match)) in (late, late + 1, (late - 1) % size)


def test_rates_that_aac_lacks_become_the_nearest(tmp_path) -> None:
    for rate, expected in ((11_000, 11_025), (37_800, 32_000), (192_000, 96_000)):
        source = write_speech(tmp_path / "a.wav", speech_like(1, rate), rate=rate)
        join_parts(parts_of([25]), source, tmp_path / "out.mp4", fps=FPS)
        with opened(tmp_path / "out.mp4") as container:
            assert container.streams.audio[0].codec_context.sample_rate == expected
            assert abs(float(container.duration or 0) / av.time_base - 1) < 0.05


def test_memory_does_not_grow_with_the_clip(tmp_path) -> None:
    data = part(moving(50), crf=1, preset="ultrafast")
    speech = write_speech(tmp_path / "a.wav", speech_like(2 * 60))
    tracemalloc.start()
    join_parts([data] * 60, speech, tmp_path / "out.mp4", fps=FPS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out.mp4").stat().st_size > 30 * len(data)
    assert peak < 4 * len(data) + 500_000


def test_wrong_parts_are_refused(tmp_path, speech: Path) -> None:
    good = parts_of([30])[0]
    cut = good[: len(good) * 2 // 3]
    for parts, text in [
        ([good, part(moving(30), preset="medium")], "part 1 was encoded with other settings"),
        ([good, part(moving(30, 64, 64))], "part 1 was encoded with other settings"),
        ([good, b""], "is empty"),
        ([good, b"not a part" * 100], "cannot be opened"),
        ([cut, good], "cannot be|is incomplete"),
    ]:
        with pytest.raises(MixedParts, match=text):
            join_parts(parts, speech, tmp_path / "out.mp4", fps=FPS)
    with pytest.raises(ValueError, match="no parts"):
        join_parts([], speech, tmp_path / "out.mp4", fps=FPS)
    with pytest.raises(MixedParts, match="incomplete"):
        join_parts([good], speech, tmp_path / "out.mp4", fps=Fraction(50))


def _silent(path: Path) -> Path:
    write_wav(path, np.zeros(0, np.int16))
    return path


def test_unusable_sound_is_refused(tmp_path) -> None:
    parts = parts_of([10])
    for source in (write_clip(tmp_path / "a.mp4", moving(3)), _silent(tmp_path / "b.wav")):
        with pytest.raises(UnreadableAudio):
            join_parts(parts, source, tmp_path / "out.mp4", fps=FPS)


def test_verify_finds_what_is_wrong(tmp_path, speech: Path) -> None:
    output = tmp_path / "out.mp4"
    join_parts(parts_of([75]), speech, output, fps=FPS)
    with pytest.raises(RuntimeError, match="75 video"):
        verify(output, 76)
    with pytest.raises(RuntimeError, match="0 audio"):
        verify(write_clip(tmp_path / "mute.mp4", moving(5)), 5)
    late = write_clip(tmp_path / "late.mp4", moving(5), offset=0.5, audio=speech_like(1, 44_100))
    with pytest.raises(RuntimeError, match=r"pictures start at 0\.48"):
        verify(late, 5)
