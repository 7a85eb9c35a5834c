"""How well sync is told, on clips that nobody learned from: in sync, shifted, and with the sound of another clip.

The rendered portrait, which is no drawing, and drawn people say sentences in voices and languages that no track has; real clips
come from outside. The measure by ``sync_correlation`` stands beside it.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly

from latentsync_ray.faces.align import affine, crop_face
from latentsync_ray.faces.lips import MeshLips
from latentsync_ray.faces.mesh_files import find_mesh_files
from latentsync_ray.measure import mouth_motion, speech_change, sync_score
from latentsync_ray.models.latentsync.template import template
from latentsync_ray.models.mel import SAMPLE_RATE, log_mel_peak, mel_columns
from latentsync_ray.nano.portrait import Light, Performance, posed_points, render_clip
from latentsync_ray.nano.portrait.render import SIDE
from latentsync_ray.nano.sync.articulation import Speaker, articulate
from latentsync_ray.nano.sync.mouths import Camera, Drawing, Person, draw_mouth
from latentsync_ray.nano.sync.voices import pronounce
from latentsync_ray.sync.lips import normalised, read_lips
from latentsync_ray.sync.networks import look, shipped_weights
from latentsync_ray.sync.score import sync_of

__all__ = ["Table", "Verdict", "Watched", "drawn", "measured", "rendered", "table", "verdicts"]

_FPS = 25
_MARGIN = 15
"""Frames at either end that windows leave, so that shifted sound is there."""
_SHIFTS = (3, 5, 10)
"""Frames: 120, 200 and 400 ms."""
_OTHERS = 4
"""Other sounds that each window is held against."""
_BROWS_AND_NOSE = np.array([(208.2, 175.8), (311.7, 181.8), (254.2, 250.4)])
"""Where the detector ``mesh`` sees them in the portrait, px."""
_VOICES = ("f4", "f5", "m7", "m8", "steph", "steph2", "steph3", "Gene", "Michael", "Mike")
_SENTENCES = (
    ("en-us", "Twelve grey pigeons sat on the roof and watched the parade go by, until somebody opened a window."),
    ("en-gb", "Could somebody tell the conductor that my luggage is still outside, and that it is beginning to rain?"),
    ("de", "Im Keller steht ein Klavier, auf dem seit Jahren niemand gespielt hat, weil die Tasten klemmen."),
    ("fr-fr", "Les enfants ont caché la clef du grenier sous un pot de géraniums, et maintenant ils ne la trouvent plus."),
    ("sv", "I skogen bakom huset växer det blåbär, svamp och höga gamla granar, men ingen plockar dem längre."),
    ("nl", "Op zaterdag verkoopt mijn buurman verse bloemen en oude boeken op het plein voor het stadhuis."),
    ("cs", "Za starým mlýnem teče potok, ve kterém se v létě koupou všechny děti z naší vesnice."),
    ("en-us", "Fresh paint, open windows, a cup of tea: what more do you need when spring has come back at last?"),
)
"""In voices, and some in languages, that no track has."""


@dc.dataclass(frozen=True, kw_only=True)
class Watched:
    """A clip of known sync, 25 frames per second."""

    name: str
    lips: np.ndarray
    """float32 (T, 3)."""
    motion: np.ndarray
    """float32 (T,): ``measure.mouth_motion``."""
    mel: np.ndarray
    """float32 (80, 4 T)."""


@dc.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is said of a window: probability and offset in frames, and today's correlation and lag in frames."""

    shift: int | None
    """By how many frames the lips are late; None: another clip's sound."""
    score: float
    offset: float
    correlation: float
    lag: float


@dc.dataclass(frozen=True, kw_only=True)
class Table:
    """Areas under the ROC curve, in sync against other sound and against shifts; the share of offsets within a frame."""

    windows: int
    other: float
    shifted: tuple[float, ...]
    offset: float


def rendered(count: int, *, side: int) -> Iterator[dict[str, Watched]]:
    """The portrait saying ``count`` texts, as the pipeline cuts it for a model of ``side`` px; see ``measured``."""
    for seed in range(count):
        draw = np.random.default_rng((89, seed))
        samples, _ = _said(seed, draw)
        performance = Performance.of_speech(samples, SAMPLE_RATE, fps=_FPS, seed=seed, motion=float(draw.uniform(0.3, 2)))
        light, size = Light.random(seed), int(draw.choice([288, 352, 448]))
        faces = np.empty((len(performance), side, side, 3), np.uint8)
        wander = np.cumsum(draw.normal(0, 0.12, (len(performance), 3, 2)), axis=0)
        wander -= np.linspace(0, 1, len(wander))[:, None, None] * wander[-1]
        for frame, picture in enumerate(render_clip(performance, size=size, light=light)):
            seen = posed_points(_BROWS_AND_NOSE + wander[frame] + draw.normal(0, 0.4, (3, 2)), performance.pose[frame])
            faces[frame] = crop_face(picture, affine((seen + 0.5) * size / SIDE - 0.5, template(side)), template(side))
        yield measured(f"portrait {seed}", faces, samples)


def drawn(count: int) -> Iterator[Watched]:
    """Drawn people that no network has seen, whose lips articulate what they say; without today's measure."""
    weights = shipped_weights()
    for seed in range(count):
        draw = np.random.default_rng((97, seed))
        samples, phones = _said(seed + 3, draw)
        frames = int(len(samples) / SAMPLE_RATE * _FPS)
        curves = articulate(phones, len(samples) / SAMPLE_RATE, Speaker.random(draw), 4 * frames)
        person, camera, unsteady = Person(10**6 + seed), Camera(draw), draw.uniform(0.2, 1.2)
        sway = [
            np.interp(np.arange(frames), np.linspace(0, frames, 2 + frames // 20), draw.normal(0, 1, 2 + frames // 20))
            for _ in "1234"
        ]
        lips = np.empty((frames, 3), np.float32)
        for frame in range(frames):
            opening, width = curves[:, 4 * frame + 2]
            moved = [curve[frame] * much * unsteady for curve, much in zip(sway, (3, 3, 2, 0.03), strict=True)]
            drawing = Drawing(
                opening=float(np.clip(opening, 0, 1)),
                width=float(np.clip(width, -1, 1)),
                smile=0,
                pouting=0,
                moved=tuple(moved),
            )
            lips[frame] = look(weights, normalised(camera(draw_mouth(person, drawing), draw)))
        yield Watched(
            name=f"drawn {seed}", lips=lips, motion=np.full(frames, np.nan, np.float32), mel=_mel(samples)[:, : 4 * frames]
        )


def measured(name: str, faces: np.ndarray, samples: np.ndarray) -> dict[str, Watched]:
    """A clip as aligned faces (T, R, R, 3) uint8 of LatentSync's template, and what is heard, mono float32 at 16 kHz.

    By who reads its lips: ``own``, the network that ships, and ``mesh``, where the files of the face mesh are.
    """
    shape, mel = template(faces.shape[1]), _mel(samples)
    count = min(len(faces), mel.shape[1] // 4)
    places = np.arange(count)
    lips = {"own": read_lips(faces, places, shape.mouth)}
    if files := find_mesh_files(bundled=False):
        lips["mesh"] = MeshLips(files, shape)(faces, places)
    motion = mouth_motion(faces, places, shape.mouth)
    return {reader: Watched(name=name, lips=read, motion=motion, mel=mel[:, : 4 * count]) for reader, read in lips.items()}


def verdicts(clips: Sequence[Watched], seconds: float, *, step: float, only: int | None = None) -> dict[str, list[Verdict]]:
    """What is said of all windows of so many ``seconds``, one every ``step`` seconds of each clip, as they are and changed.

    Of the first ``only`` clips; the others lend their sound.
    """
    frames, said = round(seconds * _FPS), {}
    for number, clip in enumerate(clips[:only]):
        others = [other for other in clips if other is not clip and other.mel.shape[1] >= 4 * frames]
        starts = range(_MARGIN, len(clip.lips) - frames - _MARGIN + 1, round(step * _FPS))
        for turn, start in enumerate(starts):
            lips, motion = clip.lips[start : start + frames], clip.motion[start : start + frames]
            for shift in (0, *_SHIFTS, *(-each for each in _SHIFTS)):
                heard = clip.mel[:, 4 * (start + shift) :][:, : 4 * frames]
                said.setdefault(clip.name, []).append(_verdict(lips, motion, heard, shift))
            for each in range(_OTHERS):
                mel = others[(number + 7 * turn + each) % len(others)].mel
                first = (37 * (turn + 1)) % (mel.shape[1] // 4 - frames + 1)
                said[clip.name].append(_verdict(lips, motion, mel[:, 4 * first : 4 * (first + frames)], None))
    return said


def table(said: Sequence[Verdict], *, today: bool = False) -> Table:
    """The figures of all verdicts; ``today`` by the correlation and its lag."""
    value, best = ("correlation", "lag") if today else ("score", "offset")

    def values(*shifts: int | None) -> np.ndarray:
        return np.array([getattr(each, value) for each in said if each.shift in shifts])

    offsets = np.array([getattr(each, best) for each in said if each.shift == 0])
    right = values(0)
    shifted = tuple(_area(right, values(each, -each)) for each in _SHIFTS)
    return Table(
        windows=len(right), other=_area(right, values(None)), shifted=shifted, offset=float((np.abs(offsets) <= 1.01).mean())
    )


def _area(right: np.ndarray, wrong: np.ndarray) -> float:
    """Under the ROC curve: how likely one that is right scores higher than one that is wrong."""
    return float(np.mean((right[:, None] > wrong) + 0.5 * (right[:, None] == wrong)))


def _verdict(lips: np.ndarray, motion: np.ndarray, mel: np.ndarray, shift: int | None) -> Verdict:
    found = sync_of(lips, Fraction(_FPS), lambda first, last: mel[:, first:last])
    change = speech_change(mel, 0, 0, len(motion), Fraction(_FPS))
    motion = np.concatenate([motion[:1] * np.nan, motion[1:]])
    correlation, lag = sync_score(motion, change, Fraction(_FPS))
    return Verdict(
        shift=shift,
        score=found.score if found else 0.5,
        offset=found.offset_ms * _FPS / 1000 if found else 99,
        correlation=correlation or 0.0,
        lag=99 if lag is None else lag * _FPS / 1000,
    )


def _said(number: int, draw: np.random.Generator) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Two texts by one voice, 16 kHz float32, and their phonemes."""
    pieces, phones, at = [], [], 0.0
    voice, speed, pitch = _VOICES[number % len(_VOICES)], int(draw.integers(110, 190)), int(draw.integers(20, 80))
    for each in range(2):
        language, text = _SENTENCES[(number + each * (1 + number // len(_SENTENCES))) % len(_SENTENCES)]
        samples, rate, said = pronounce(text, f"{language}+{voice}", speed=speed, pitch=pitch)
        sound = resample_poly(samples, SAMPLE_RATE, rate)
        pause = np.zeros(int(draw.uniform(0.1, 0.5) * SAMPLE_RATE))
        phones += [(at + begin, name) for begin, name in said]
        phones.append((at + len(sound) / SAMPLE_RATE, ""))
        pieces += [sound, pause]
        at += (len(sound) + len(pause)) / SAMPLE_RATE
    whole = np.concatenate(pieces).astype(np.float32)
    return 0.7 * whole / np.abs(whole).max(), phones


def _mel(samples: np.ndarray) -> np.ndarray:
    heard = np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)
    return mel_columns(heard, 0, len(heard) // (SAMPLE_RATE // 100), log_mel_peak(heard))[0]
