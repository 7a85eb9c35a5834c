"""Speech: nothing lost, nothing added, any source, limits."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from make_clips import moving, speech_like, write_clip, write_speech

from latentsync_ray.errors import InputNotFound, TooLarge, UnreadableAudio
from latentsync_ray.media.audio import resampled
from latentsync_ray.media.speech import SAMPLE_RATE, decode_speech, hear_speech, read_speech, write_wav


def decode(path: Path, max_seconds: float = 60) -> np.ndarray:
    raw = path.with_suffix(".raw")
    count = decode_speech(path, raw, max_seconds=max_seconds)
    samples = read_speech(raw)
    assert len(samples) == count
    assert samples.dtype == np.int16
    return samples


def lag(samples: np.ndarray, original: np.ndarray) -> int:
    """Samples by which ``samples`` comes later than ``original``."""
    size = 2 * max(len(samples), len(original))
    match = np.fft.irfft(np.fft.rfft(samples.astype(float), size) * np.conj(np.fft.rfft(original.astype(float), size)))
    best = int(np.argmax(match))
    return best - len(match) if best > len(match) // 2 else best


@pytest.mark.parametrize("count", [1, 1023, 1024, 12_237, 48_000])
def test_16_khz_mono_pcm_passes_bit_for_bit(tmp_path, count: int) -> None:
    samples = np.random.default_rng(count).integers(-32768, 32768, count).astype(np.int16)
    write_wav(tmp_path / "a.wav", samples)
    assert np.array_equal(decode(tmp_path / "a.wav"), samples)
    flac = write_speech(tmp_path / "b.flac", samples[:, None], codec="flac")
    assert np.array_equal(decode(flac), samples)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_resampling_keeps_length_level_and_place(tmp_path, rate: int, channels: int) -> None:
    source = np.repeat(speech_like(2.5, rate), channels, axis=1)
    samples = decode(write_speech(tmp_path / "a.wav", source, rate=rate))
    expected = speech_like(2.5)[:, 0].astype(float)
    assert abs(len(samples) - 2.5 * SAMPLE_RATE) <= 1
    difference = samples[400:-400] - expected[400 : len(samples) - 400]
    assert np.abs(difference).max() < 0.02 * np.abs(expected).max()


def test_the_tail_is_not_lost(tmp_path) -> None:
    source = np.zeros((44_100, 1), np.int16)
    source[-441:] = 12_000  # only the last 10 ms sound
    samples = decode(write_speech(tmp_path / "a.wav", source, rate=44_100))
    assert len(samples) == pytest.approx(SAMPLE_RATE, abs=1)
    assert samples[-150:-20].min() > 10_000
    assert np.abs(samples[:-200]).max() < 600


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.mp3", "libmp3lame", 44_100),
        ("a.ogg", "libopus", 48_000),
        ("a.webm", "libopus", 48_000),
        ("a.flac", "flac", 44_100),
        ("a.m4a", "aac", 44_100),
        ("a.aac", "aac", 48_000),
        ("a.m4a", "alac", 48_000),
        ("a.w64", "pcm_s24le", 48_000),
        ("a.aiff", "pcm_s16be", 44_100),
        ("a.caf", "pcm_s16be", 44_100),
        ("a.wav", "pcm_f32le", 48_000),
        ("a.wav", "pcm_mulaw", 8_000),
        ("a.ts", "mp2", 48_000),
    ],
)
def test_common_codecs(tmp_path, name: str, codec: str, rate: int) -> None:
    samples = decode(write_speech(tmp_path / name, speech_like(2, rate, 2), rate=rate, codec=codec))
    expected = speech_like(2, SAMPLE_RATE, 2).mean(axis=1)
    # Raw AAC and MPEG streams cannot say how much of their first and last packet is padding.
    padding = 2304 / rate if name in ("a.aac", "a.ts") else 0.001
    assert abs(len(samples) / SAMPLE_RATE - 2) <= padding + 0.025
    assert abs(lag(samples, expected)) <= padding * SAMPLE_RATE + 8


@pytest.mark.parametrize("channels", [6, 8])
def test_many_channels_are_mixed_down(tmp_path, channels: int) -> None:
    samples = decode(write_speech(tmp_path / "a.wav", np.repeat(speech_like(1, 48_000), channels, axis=1), rate=48_000))
    assert len(samples) == SAMPLE_RATE
    assert 3_000 < np.abs(samples).max() < 32_767


def test_sound_track_of_a_video(tmp_path) -> None:
    samples = decode(write_clip(tmp_path / "a.mp4", moving(10), audio=speech_like(1, 44_100, 2)))
    assert abs(lag(samples, speech_like(1, SAMPLE_RATE, 2).mean(axis=1))) <= 8


SOUND_TRACKS = {
    "a.mp4": "aac",
    "a.mov": "aac",
    "a.mkv": "aac",
    "a.ts": "aac",
    "a.flv": "aac",
    "b.mkv": "libopus",
    "c.mkv": "pcm_s16le",
    "b.mp4": "libmp3lame",
}


def begins(samples: np.ndarray) -> float:
    """Seconds until it is loud."""
    return int(np.argmax(np.abs(samples) > 0.3 * np.abs(samples).max())) / SAMPLE_RATE


@pytest.mark.parametrize("name", SOUND_TRACKS)
def test_a_late_sound_track_is_heard_in_its_place(tmp_path, name: str) -> None:
    settings = {"audio": speech_like(0.5, 48_000), "audio_rate": 48_000, "audio_codec": SOUND_TRACKS[name]}
    samples = decode(write_clip(tmp_path / name, moving(30), audio_offset=0.6, options={"bf": "2"}, **settings))
    assert begins(samples) == pytest.approx(0.6, abs=0.003)
    assert np.abs(samples[: round(0.57 * SAMPLE_RATE)]).max() < 10
    assert len(samples) / SAMPLE_RATE == pytest.approx(1.1, abs=0.05)  # up to two packets of padding


@pytest.mark.parametrize("name", SOUND_TRACKS)
@pytest.mark.parametrize("picture_offset", [0, 0.4])
def test_a_sound_track_that_begins_first_starts_at_zero(tmp_path, name: str, picture_offset: float) -> None:
    settings = {"audio": speech_like(0.5, 48_000), "audio_rate": 48_000, "audio_codec": SOUND_TRACKS[name]}
    samples = decode(write_clip(tmp_path / name, moving(30), offset=picture_offset, **settings))
    assert begins(samples) < (0.025 if name in ("a.ts", "a.flv") else 0.003)  # these do not say what only primes the decoder


def test_a_pure_audio_file_starts_with_its_first_sample(tmp_path) -> None:
    path, voice = tmp_path / "a.mka", speech_like(0.5)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(voice.reshape(1, -1), "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, SAMPLE_RATE // 2, Fraction(1, SAMPLE_RATE)
        container.mux(stream.encode(frame))
    assert np.array_equal(decode(path), voice[:, 0])


def test_sound_from_before_the_pictures_clock_is_cut() -> None:
    voice = speech_like(0.5, channels=2)

    def frames() -> Iterator[av.AudioFrame]:
        for begin in range(0, len(voice), 1000):
            frame = av.AudioFrame.from_ndarray(voice[begin : begin + 1000].reshape(1, -1), "s16", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, begin + 8000, Fraction(1, SAMPLE_RATE)
            yield frame

    zero = Fraction(8000 + 2345, SAMPLE_RATE)
    kept = list(resampled(frames(), sample_format="s16", layout="stereo", rate=SAMPLE_RATE, zero=zero))
    assert np.array_equal(np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in kept]), voice[2345:])
    assert [frame.pts for frame in kept] == [0, *np.cumsum([frame.samples for frame in kept])[:-1]]


def heard(path: Path) -> tuple[np.ndarray, int | None]:
    count, channel = hear_speech(path, path.with_suffix(".raw"), max_seconds=60)
    samples = np.array(read_speech(path.with_suffix(".raw")))
    assert len(samples) == count
    assert np.array_equal(decode_speech_of(path, channel), samples), "crop decodes again, and has to hear the same"
    return samples, channel


def decode_speech_of(path: Path, channel: int | None) -> np.ndarray:
    decode_speech(path, path.with_suffix(".again"), max_seconds=60, channel=channel)
    return np.array(read_speech(path.with_suffix(".again")))


VOICE = speech_like(2, 48_000)
QUIET = np.zeros_like(VOICE)
NOISE = (np.random.default_rng(5).normal(size=(len(VOICE), 2)) * 2000).astype(np.int16)


@pytest.mark.parametrize(
    ("channels", "taken"),
    [
        ([VOICE, -VOICE], 1),
        ([VOICE * 0.8, -VOICE], 2),
        ([VOICE, -VOICE * 0.5], 1),
        ([VOICE + NOISE[:, :1] // 8, -VOICE + NOISE[:, 1:] // 8], 1),
        ([VOICE, -VOICE, QUIET, QUIET, QUIET, QUIET], 1),
        ([QUIET, QUIET, QUIET, VOICE, VOICE * 0.9, -VOICE], 6),
        ([VOICE, -VOICE, *[QUIET] * 6], 1),
    ],
)
@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.m4a", "aac")])
def test_channels_that_cancel_are_not_mixed(tmp_path, channels: list, taken: int, name: str, codec: str) -> None:
    source = np.hstack(channels).round().astype(np.int16)
    samples, channel = heard(write_speech(tmp_path / name, source, rate=48_000, codec=codec))
    assert channel == taken
    expected = source[:, taken - 1].astype(float)
    assert 0.8 < np.abs(samples).max() / np.abs(expected).max() < 1.2


@pytest.mark.parametrize(
    "channels",
    [
        [VOICE],
        [VOICE, VOICE],
        [VOICE, QUIET],
        [VOICE, -VOICE * 0.2],
        [NOISE[:, :1], NOISE[:, 1:]],
        [VOICE, np.roll(VOICE, 20)],
        [QUIET, QUIET],
        [QUIET, QUIET, VOICE, QUIET, NOISE[:, :1], NOISE[:, 1:]],
    ],
)
def test_ordinary_channels_are_mixed_as_ever(tmp_path, channels: list) -> None:
    source = np.hstack(channels).round().astype(np.int16)
    samples, channel = heard(write_speech(tmp_path / "a.wav", source, rate=48_000))
    assert channel is None
    assert np.array_equal(samples, decode(tmp_path / "a.wav"))


def test_speech_that_cancels_after_ordinary_music_is_found(tmp_path) -> None:
    source = np.vstack([NOISE[:24_000], np.hstack([VOICE, -VOICE])])
    assert heard(write_speech(tmp_path / "a.wav", source.astype(np.int16), rate=48_000))[1] in (1, 2)


def write_floats(path: Path, samples: np.ndarray, codec: str) -> Path:
    layout = {1: "mono", 2: "stereo", 8: "7.1"}[samples.shape[1]]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=48_000, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "flt" if codec == "pcm_f32le" else "dbl", layout)
        frame.sample_rate, frame.pts = 48_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.nan, r"not a number \(NaN\)"),
        (np.inf, "infinite"),
        (-np.inf, "infinite"),
        (-(2.0**31), r"2e\+09 times as loud as full scale"),
    ],
)
@pytest.mark.parametrize(("codec", "channels"), [("pcm_f32le", 1), ("pcm_f32le", 2), ("pcm_f64le", 8)])
def test_samples_that_are_no_numbers_are_refused_with_their_place(
    tmp_path, value, kind: str, codec: str, channels: int
) -> None:
    samples = (speech_like(2, 48_000, channels) / 32768).astype(np.float32 if codec == "pcm_f32le" else np.float64)
    assert len(decode(write_floats(tmp_path / "good.wav", samples, codec))) == 2 * SAMPLE_RATE
    samples[60_000:, channels // 2] = value
    path = write_floats(tmp_path / "wrong.wav", samples, codec)
    for read in (decode_speech, hear_speech):
        with pytest.raises(UnreadableAudio, match=rf"wrong\.wav: its sound is {kind} at 1\.250 s; .* export it again"):
            read(path, tmp_path / "out.raw", max_seconds=60)
        assert not (tmp_path / "out.raw").exists()


def test_refusals_leave_no_file(tmp_path) -> None:
    good = write_speech(tmp_path / "good.wav", speech_like(2))
    silent = tmp_path / "silent.wav"
    write_wav(silent, np.zeros(0, np.int16))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF" + bytes(100))
    mute = write_clip(tmp_path / "mute.mp4", moving(3))
    for path, error, text in [
        (good, TooLarge, "longer than max_seconds = 1;"),
        (silent, UnreadableAudio, "nothing in its pcm_s16le stream can be decoded"),
        (broken, UnreadableAudio, "broken.wav cannot be opened"),
        (mute, UnreadableAudio, "mute.mp4 has no audio stream"),
        (tmp_path / "none.wav", InputNotFound, "is not a file"),
    ]:
        with pytest.raises(error, match=text):
            decode_speech(path, tmp_path / "out.raw", max_seconds=1)
        assert not (tmp_path / "out.raw").exists()
    assert decode_speech(good, tmp_path / "out.raw", max_seconds=2) == 2 * SAMPLE_RATE


def test_write_wav_can_be_read_by_anyone(tmp_path) -> None:
    write_wav(tmp_path / "a.wav", np.arange(-5, 5, dtype=np.int16))
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth(), file.getnframes()) == (16_000, 1, 2, 10)


def test_golden_speech(reference: Path, tmp_path) -> None:
    for name, count in {"clip6s": 96_000, "short": 12_237, "long": 603_099}.items():
        assert decode_speech(reference / "whisper" / f"{name}.flac", tmp_path / name, max_seconds=60) == count
