"""Speech to learn from: tracks of synthetic sentences in many voices and languages, and what the mouth does while they sound.

Neither the voices nor the sentences of the shipped demo, nor those that the tests measure with, are among them.
"""

from __future__ import annotations

import dataclasses as dc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from latentsync_ray.models.mel import SAMPLE_RATE, audio_step_count, log_mel_peak, mel_window
from latentsync_ray.nano.portrait import mouth_of, sound_curves
from latentsync_ray.nano.training.espeak import speak

__all__ = [
    "FPS",
    "HELD_OUT",
    "LONGEST",
    "SENTENCES",
    "SHORT",
    "VOICES",
    "Track",
    "held_out",
    "load_tracks",
    "make_track",
    "save_tracks",
]

FPS = 25
LONGEST = 30.0
"""Seconds of one window of the speech encoder."""
SHORT = 10.0
"""Seconds that most tracks stay under."""
_BANDS = (60, 150, 400, 1000, 2500, 6000)
"""Hz, between which a microphone may colour the sound."""
_THROATS = (0.85, 1.18)
"""How much faster than spoken a sentence is played: pitch and resonances move together, as from a smaller throat."""

VOICES = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "f1", "f2", "f3", "adam", "anika", "linda", "belinda", "edward", "john", "michel"),
    *("Alex", "Andy", "Annie", "Denis", "Hugo", "Mario", "antonio", "aunty", "benjamin", "boris", "caleb", "croak", "david"),
    *("gustave", "iven", "klatt", "klatt4", "max", "miguel", "norbert", "pablo", "quincy", "robert", "sandro", "shelby"),
    *("travis", "victor", "whisper", "zac"),
)
"""espeak-ng's variants, applied to each language. Held out: f4, f5, m7, m8, all of steph's, and others."""

SENTENCES = {
    "en-us": (
        "The ferry leaves the harbour at seven and reaches the island before the fog has gone.",
        "My neighbour grows tomatoes, beans and pumpkins behind a very old brick wall.",
        "Please bring a warm jacket, because the evenings up here are colder than you think.",
        "Numbers are easy: one, two, three, four, five, six, seven, eight, nine, ten.",
        "Why would anybody paint a whole house purple and leave the windows green?",
        "Above the baker's shop lives a woman who repairs violins.",
    ),
    "en-gb": (
        "Both of the parcels were too heavy for the small blue trolley.",
        "We walked along the river for an hour and hardly met a soul.",
        "If the oven is hot enough, the bread should be ready by noon.",
        "A famous pianist once stayed in this room and broke the bed.",
        "Mind the step, the ceiling is low and the light does not work.",
    ),
    "de": (
        "Am Bahnhof verkauft ein alter Mann warme Maroni und frische Brezeln.",
        "Wir haben gestern bis spät in die Nacht über das neue Fahrrad geredet.",
        "Bitte mach das Fenster zu, es zieht, und draußen wird es langsam kühl.",
        "Morgen früh fahren wir mit dem Boot über den See zum Markt.",
        "Warum hat niemand den Brief aufgemacht, der seit Montag auf dem Tisch liegt?",
    ),
    "fr-fr": (
        "Le marché du village ouvre à six heures et sent déjà le café.",
        "Mon oncle répare des vélos dans une petite cour pleine de fleurs.",
        "Est-ce que tu as vu passer le bus, ou bien il faut attendre encore ?",
        "Nous avons mangé une soupe aux poireaux puis une tarte aux pommes.",
        "La pluie tombe doucement sur les toits, et personne ne parle.",
    ),
    "es": (
        "Mi abuela guarda las llaves del taller en una caja de madera.",
        "Por la mañana compramos pan, queso y un kilo de naranjas.",
        "Nadie sabe cuándo volverá a abrir el cine de la plaza.",
        "El perro duerme debajo de la mesa mientras todos hablan a la vez.",
        "¿Quieres que vayamos a pie o prefieres esperar el tranvía?",
    ),
    "it": (
        "Domani mattina il treno per la montagna parte alle otto e mezza.",
        "Sul tavolo ci sono due bicchieri, una bottiglia e un mazzo di carte.",
        "La bambina conta le barche che passano piano davanti al molo.",
        "Abbiamo trovato un posto tranquillo dove si mangia bene e si spende poco.",
    ),
    "pl": (
        "Na końcu ulicy stoi dom z czerwonym dachem i małym ogrodem.",
        "Wczoraj wieczorem graliśmy w karty i piliśmy herbatę z miodem.",
        "Proszę powiedzieć kierowcy, żeby zatrzymał się przy moście.",
    ),
    "pt": (
        "O barco pequeno voltou ao porto antes da tempestade.",
        "A minha irmã toca acordeão numa banda de seis pessoas.",
        "Podes comprar batatas, azeite e um pouco de sal?",
    ),
}


@dc.dataclass(frozen=True, kw_only=True)
class Track:
    """Up to 30 s of sound, T video frames long."""

    mel: np.ndarray
    """float16 (80, 3000), as the model hears it."""
    sound: np.ndarray
    """float32 (T, 2): what the mouth depends on, level (dB) and centroid (Hz) of the voice."""
    steps: int
    """Whisper steps that the recording fills."""

    @cached_property
    def curves(self) -> np.ndarray:
        """float32 (T, 2): aperture and width of the mouth."""
        return np.stack(mouth_of(*self.sound.T), axis=1)


def make_track(seed: int) -> Track:
    """The track of that number: sentences with pauses, at some loudness, some with noise; every twentieth is silence.

    One in ten is long; the others are cheap to learn from.
    """
    draw = np.random.default_rng((19, seed))
    wanted = float(draw.uniform(*((SHORT, LONGEST) if seed % 10 == 0 else (2, SHORT))))
    count = int(wanted * SAMPLE_RATE)
    samples = np.zeros(count, np.float32)
    if seed % 20 != 9:
        pieces, total = [], 0
        while total < count:
            piece = _sentence(draw)
            pause = np.zeros(int(draw.choice([0.05, 0.3, 1.2]) * draw.uniform(0.5, 1.0) * SAMPLE_RATE), np.float32)
            pieces += [piece, pause]
            total += len(piece) + len(pause)
        samples = _coloured(np.concatenate(pieces)[:count], draw) * float(10 ** (-draw.uniform(0, 0.7)))  # down to -14 dB
    clean = sound_curves(samples, SAMPLE_RATE, fps=FPS, frames=round(count / SAMPLE_RATE * FPS))  # before the noise
    if draw.random() < 0.4:
        samples = samples + draw.normal(0, 10 ** -draw.uniform(3.5, 5), count)
    sound = np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16)
    return Track(
        mel=mel_window(sound, 0, log_mel_peak(sound)).astype(np.float16),
        sound=np.stack(clean, axis=1).astype(np.float32),
        steps=audio_step_count(count),
    )


def _coloured(samples: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """As another microphone hears it: up to some 8 dB more or less here and there. No louder at its peak than before."""
    hertz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    gains = np.interp(np.log2(hertz.clip(60)), np.log2(_BANDS), draw.normal(0, 4, len(_BANDS)))
    heard = np.fft.irfft(np.fft.rfft(samples) * 10 ** (gains / 20), len(samples)).astype(np.float32)
    return heard * (np.abs(samples).max() / max(1e-6, np.abs(heard).max()))


def _sentence(draw: np.random.Generator) -> np.ndarray:
    """A sentence at 16 kHz, as written or with its language's words thrown together anew."""
    language = str(draw.choice(list(SENTENCES)))
    text = str(draw.choice(SENTENCES[language]))
    if draw.random() < 0.5:
        words = " ".join(SENTENCES[language]).replace(",", "").replace(".", "").replace("?", "").split()
        text = " ".join(draw.choice(words, draw.integers(3, 14))) + "."
    voice = f"{language}+{draw.choice(VOICES)}"
    options = ("-v", voice, "-s", str(draw.integers(110, 200)), "-p", str(draw.integers(20, 80)))
    samples, rate = speak(text, options, breath=0.05)
    rate = 50 * round(rate * draw.uniform(*_THROATS) / 50)  # a common divisor keeps the resampling cheap
    return resample_poly(samples, SAMPLE_RATE, rate).astype(np.float32) * float(draw.uniform(0.5, 1.0))


def save_tracks(path: Path, count: int) -> None:
    """Make ``count`` tracks, on all cores."""
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        tracks = list(pool.map(make_track, range(count), chunksize=4))
    sound = np.concatenate([track.sound for track in tracks])
    lengths = np.array([len(track.sound) for track in tracks])
    steps = np.array([track.steps for track in tracks])
    draft = path.with_suffix(".draft.npz")
    np.savez(draft, mel=np.stack([track.mel for track in tracks]), sound=sound, lengths=lengths, steps=steps)
    draft.replace(path)


def load_tracks(path: Path) -> list[Track]:
    """What ``save_tracks`` wrote."""
    with np.load(path) as file:
        sounds = np.split(file["sound"], np.cumsum(file["lengths"])[:-1])
        rows = zip(file["mel"], sounds, file["steps"].tolist(), strict=True)
        return [Track(mel=mel, sound=sound, steps=steps) for mel, sound, steps in rows]


HELD_OUT = (
    ("en-us+f5", "Twelve grey pigeons sat on the roof and watched the parade go by."),
    ("en-gb+m7", "Could somebody tell the conductor that my luggage is still outside?"),
    ("de+m8", "Im Keller steht ein Klavier, auf dem seit Jahren niemand gespielt hat."),
    ("fr-fr+f4", "Les enfants ont caché la clef du grenier sous un pot de géraniums."),
    ("en-us+steph", "Fresh paint, open windows, a cup of tea: what more do you need in spring?"),
    ("sv+m7", "I skogen bakom huset växer det blåbär, svamp och höga gamla granar."),
)
"""Voices and sentences, and a language, that no track uses: what the model is measured with."""


def held_out(number: int) -> np.ndarray:
    """One of ``HELD_OUT`` as int16 (samples,) at 16 kHz."""
    voice, text = HELD_OUT[number]
    samples, rate = speak(text, ("-v", voice, "-s", "145", "-p", "45"), breath=0.4)
    return np.rint(resample_poly(samples, SAMPLE_RATE, rate) * 32767).clip(-32768, 32767).astype(np.int16)
