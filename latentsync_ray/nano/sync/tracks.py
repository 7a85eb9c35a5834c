"""Speech to learn from: sentences in many voices and languages, and what several speakers' lips do while they sound.

Half of what is said are syllables thrown together, which any language pronounces: they hold what no few sentences do. One of
each track's speakers is the rendered portrait, whose mouth follows loudness (``portrait/speech.py``).
"""

from __future__ import annotations

import dataclasses as dc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve, resample_poly

from latentsync_ray.models.mel import SAMPLE_RATE, log_mel_peak, mel_columns
from latentsync_ray.nano.portrait import mouth_curves
from latentsync_ray.nano.sync.articulation import RATE, Speaker, articulate
from latentsync_ray.nano.sync.voices import Phone, pronounce
from latentsync_ray.nano.training.speech import SENTENCES, VOICES

__all__ = ["Track", "load_tracks", "make_track", "save_tracks"]

_LANGUAGES = (
    *(
        "en-us",
        "en-gb",
        "de",
        "fr-fr",
        "es",
        "it",
        "pl",
        "pt",
        "en-gb-scotland",
        "ru",
        "tr",
        "hu",
        "ro",
        "el",
        "fi",
        "da",
        "hi",
    ),
    *("id", "sk", "hr", "ca", "pt-br", "es-419", "af", "sq", "bg", "et", "ga", "lv", "lt", "nb"),
)
"""Held out: Swedish, Dutch, Czech and others."""
_CONSONANTS, _VOWELS, _ENDS = "pbmfvtdnlkgsrzjw", ("a", "e", "i", "o", "u", "a", "o", "au", "ai"), "nmlsrtpk"
_SPEAKERS = 4
"""Whose lips a track knows besides the portrait's."""
_BANDS = (60, 150, 400, 1000, 2500, 6000)
"""Hz, between which a microphone may colour the sound."""


@dc.dataclass(frozen=True, kw_only=True)
class Track:
    """Some 5 to 10 s of sound, and lips that say it."""

    mel: np.ndarray
    """float16 (80, N), 100 columns per second."""
    lips: np.ndarray
    """float16 (speakers, 2, N): opening and width; the last speaker is the portrait."""

    @property
    def seconds(self) -> float:
        return self.mel.shape[1] / RATE


def make_track(seed: int) -> Track:
    """The track of that number."""
    draw = np.random.default_rng((3, seed))
    spoken, phones = _spoken(draw)
    heard = _recorded(spoken, draw)
    points = len(heard) // (SAMPLE_RATE // RATE)
    mel, _ = mel_columns(heard, 0, points, log_mel_peak(heard))
    loud = _loudness(spoken, points)
    lips = []
    for _ in range(_SPEAKERS):
        curves = articulate(phones, len(spoken) / SAMPLE_RATE, Speaker.random(draw), points)
        timid = draw.uniform(0, 0.8)
        curves[0] *= 1 - timid + timid * loud
        lips.append(curves)
    frames = int(np.ceil(len(spoken) / SAMPLE_RATE * 25))
    portrait = mouth_curves(spoken.astype(np.float32), SAMPLE_RATE, fps=25, frames=frames)
    at = np.arange(points) / RATE
    lips.append(np.stack([np.interp(at, (np.arange(frames) + 0.5) / 25, curve) for curve in portrait]))
    return Track(mel=mel.astype(np.float16), lips=np.stack(lips).astype(np.float16))


def save_tracks(path: Path, count: int, *, processes: int) -> None:
    """Make ``count`` tracks, in several processes."""
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        tracks = list(pool.map(make_track, range(count), chunksize=16))
    draft = path.with_suffix(".draft.npz")
    lengths = np.array([track.mel.shape[1] for track in tracks])
    mel, lips = np.concatenate([track.mel for track in tracks], 1), np.concatenate([track.lips for track in tracks], 2)
    np.savez(draft, mel=mel, lips=lips, lengths=lengths)
    draft.replace(path)


def load_tracks(path: Path) -> list[Track]:
    """What ``save_tracks`` wrote."""
    with np.load(path) as file:
        edges = np.cumsum(file["lengths"])[:-1]
        pairs = zip(np.split(file["mel"], edges, 1), np.split(file["lips"], edges, 2), strict=True)
        return [Track(mel=mel, lips=lips) for mel, lips in pairs]


def _spoken(draw: np.random.Generator) -> tuple[np.ndarray, list[Phone]]:
    """Sentences with pauses at 16 kHz, and their phonemes; four times of five by one voice."""
    wanted, loyal = draw.uniform(5, 9), draw.random() < 0.8
    voice, speed, pitch = draw.choice(VOICES), int(draw.integers(100, 230)), int(draw.integers(5, 95))
    throat = draw.uniform(0.82, 1.2)
    pieces: list[np.ndarray] = []
    phones: list[Phone] = []
    at = 0.0
    while at < wanted:
        language, text = _text(draw)
        if not loyal:
            voice = draw.choice(VOICES)
        samples, rate, said = pronounce(text, f"{language}+{voice}", speed=speed, pitch=pitch)
        played = 50 * round(rate * throat / 50)  # a common divisor keeps the resampling cheap
        sound = resample_poly(samples, SAMPLE_RATE, played)
        phones += [(at + begin * rate / played, name) for begin, name in said]
        pause = np.zeros(int(draw.choice([0.02, 0.1, 0.3, 0.9]) * draw.uniform(0.5, 1) * SAMPLE_RATE))
        pieces += [sound * draw.uniform(0.5, 1), pause]
        phones.append((at + len(sound) / SAMPLE_RATE, ""))
        at += (len(sound) + len(pause)) / SAMPLE_RATE
    whole = np.concatenate(pieces)
    return whole / (np.abs(whole).max() + 1e-6), phones


def _text(draw: np.random.Generator) -> tuple[str, str]:
    """A language, and something to say in it."""
    if draw.random() < 0.5:
        words = ["".join(_syllable(draw) for _ in range(draw.integers(1, 4))) for _ in range(draw.integers(3, 14))]
        return str(draw.choice(_LANGUAGES)), " ".join(words)
    language = str(draw.choice(list(SENTENCES)))
    if draw.random() < 0.4:
        return language, str(draw.choice(SENTENCES[language]))
    words = " ".join(SENTENCES[language]).replace(",", "").replace(".", "").replace("?", "").split()
    return language, " ".join(draw.choice(words, draw.integers(3, 14))) + "."


def _syllable(draw: np.random.Generator) -> str:
    return draw.choice(list(_CONSONANTS)) + draw.choice(_VOWELS) + (draw.choice(list(_ENDS)) if draw.random() < 0.2 else "")


def _recorded(spoken: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """As a microphone in a room hears it, int16: coloured, with echoes and noise, more or less loud."""
    sound = spoken
    if draw.random() < 0.7:
        hertz = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
        gains = np.interp(np.log2(hertz.clip(60)), np.log2(_BANDS), draw.normal(0, 5, len(_BANDS)))
        sound = np.fft.irfft(np.fft.rfft(sound) * 10 ** (gains / 20), len(sound))
    if draw.random() < 0.5:
        length = int(SAMPLE_RATE * draw.uniform(0.1, 0.5))
        echo = draw.normal(0, 1, length) * np.exp(-np.arange(length) / SAMPLE_RATE * draw.uniform(8, 40))
        echo *= draw.uniform(0.05, 0.7) / np.linalg.norm(echo)
        echo[0] += 1
        sound = fftconvolve(sound, echo)[: len(sound)]
    if draw.random() < 0.6:
        noise = draw.normal(0, 1, len(sound))
        if draw.random() < 0.5:  # a rumble
            noise = np.cumsum(noise)
            noise -= np.convolve(noise, np.ones(400) / 400, "same")
        sound = sound / (sound.std() + 1e-9) + noise / noise.std() * 10 ** (-draw.uniform(5, 50) / 20)
    return (sound / np.abs(sound).max() * 10 ** -draw.uniform(0, 1.2) * 32767).astype(np.int16)


def _loudness(spoken: np.ndarray, points: int) -> np.ndarray:
    """0 for the quiet parts, 1 for the loud ones: (points,)."""
    level = mel_columns((spoken * 30000).astype(np.int16), 0, points, 0.0)[0].mean(0)
    quiet, loud = np.percentile(level, (5, 95))
    syllable = np.hanning(13)
    return np.convolve(np.clip((level - quiet) / (loud - quiet + 1e-6), 0, 1), syllable / syllable.sum(), "same")
