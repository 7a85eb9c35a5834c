"""What lips do while phonemes are said: how far they open, and how wide they are.

Each phoneme has a target and insists on it more or less: lips must close for a p, and may do as they like for a k. What comes
before and after pulls at it (coarticulation), and every speaker has targets of his own. After Cohen and Massaro, Modeling
Coarticulation in Synthetic Visual Speech, 1993.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentsync_ray.nano.sync.voices import Phone

__all__ = ["RATE", "TARGETS", "Speaker", "articulate"]

RATE = 100
"""Points of a curve per second: those of log-mel."""

# fmt: off
_OPENING = dict(zip(
    "aɑæɐʌɛeɜəɪiyuʊoɔøœɒɵɨʉɯɘɚɝ",  # noqa: RUF001
    (.95, 1., .95, .75, .75, .65, .5, .55, .42, .38, .27, .22, .22, .28, .45, .65, .4, .55, .8, .4, .3, .25, .3, .4, .45, .5),
    strict=True,
))
_WIDTH = dict(zip(
    "iɪeɛæaɜoɔuʊyøœɒɨʉ",  # noqa: RUF001
    (.9, .5, .6, .4, .4, .1, -.1, -.7, -.5, -1., -.7, -.9, -.7, -.5, -.4, .3, -.8),
    strict=True,
))
"""Of vowels. From 0 (closed) to 1 (open), and from -1 (rounded) to 1 (stretched); 0 where nothing is said."""
_CONSONANTS = {
    "pbm": (0., 0., 6., .3), "fvɱ": (.06, .1, 3., .3), "β": (.02, -.2, 4., .5), "wʍɥ": (.12, -1., 2., 3.),
    "ʃʒʂʐɕʑ": (.2, -.6, 1.2, 1.5), "sz": (.16, .25, 1.2, .6), "tdnɾ": (.22, .1, .7, .3), "lɫɬɭ": (.3, .05, .5, .2),
    "θð": (.22, .1, .8, .3), "ɹɻ": (.25, -.4, .6, .8), "rʁʀɣxχhɦħkgɡŋɴqʔʕç": (.35, 0., .3, .2),  # noqa: RUF001
    "jʝɲʎcɟ": (.25, .5, .6, .6),
}
# fmt: on
"""Opening, width, and how much each of the two counts; a vowel counts 1."""
_FIRM = 2.0
"""Openings that count at least so much are the same in every speaker: an m is no m with open lips."""
_SILENT = 0.6, 0.3
"""How much silence counts for opening and width."""
_NEVER = 0.05

_Target = tuple[float, float, float, float]


def _targets() -> dict[str, _Target]:
    targets = {vowel: (opening, _WIDTH.get(vowel, 0.0), 1.0, 1.0) for vowel, opening in _OPENING.items()}
    return targets | {letter: target for letters, target in _CONSONANTS.items() for letter in letters}


TARGETS = _targets()
"""What is wanted of each phoneme: opening, width, and how much either counts."""


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """How somebody moves the lips."""

    rest: float
    """Opening in silence."""
    reach: tuple[float, float]
    """Seconds to either side over which phonemes pull at opening and width."""
    firmness: float
    """How much more, or less, than usual firm consonants count."""
    habits: Mapping[str, tuple[float, float]]
    """By how much each phoneme is opened and widened more than usual."""

    @classmethod
    def random(cls, draw: np.random.Generator) -> Speaker:
        """Somebody: lazy or lively, with the mouth shut in silence or not."""
        return cls(
            rest=draw.uniform(0, 0.25) if draw.random() < 0.8 else draw.uniform(0.2, 0.6),
            reach=(draw.uniform(0.03, 0.06), draw.uniform(0.045, 0.09)),
            firmness=draw.uniform(0.6, 1.6),
            habits={letter: tuple(draw.normal(0, (0.12, 0.2))) for letter in TARGETS},
        )


def articulate(phones: Sequence[Phone], seconds: float, speaker: Speaker, points: int) -> np.ndarray:
    """Opening and width (2, points), 100 a second, of ``phones`` that end after ``seconds``."""
    wanted, weights = np.zeros((2, points)), np.full((2, points), _NEVER)
    wanted[0] = speaker.rest
    for (begin, name), (end, _) in zip(phones, [*phones[1:], (seconds, "")], strict=True):
        letters = [letter for letter in name if letter in TARGETS]
        edges = np.linspace(begin, end, len(letters) + 1) if letters else [begin, end]
        for letter, since, until in zip(letters or [""], edges, edges[1:], strict=False):
            first = round(since * RATE)
            part = np.s_[:, first : max(first + 1, round(until * RATE))]
            wanted[part], weights[part] = _wanted(letter, speaker)
    curves = []
    for target, weight, reach in zip(wanted, weights, speaker.reach, strict=True):
        far = int(4 * reach * RATE)
        pull = np.exp(-((np.arange(-far, far + 1) / RATE / reach) ** 2) / 2)
        curves.append(np.convolve(target * weight, pull, "same") / np.convolve(weight, pull, "same"))
    return np.stack(curves)


def _wanted(letter: str, speaker: Speaker) -> tuple[np.ndarray, np.ndarray]:
    """Target and weight (2, 1) of opening and width."""
    if not letter:
        return np.array([[speaker.rest], [0.0]]), np.array(_SILENT)[:, None]
    opening, width, firm, wide = TARGETS[letter]
    more, wider = speaker.habits[letter]
    if firm >= _FIRM:
        more, firm = 0.0, firm * speaker.firmness
    return np.array([[opening + more], [width + wider]]), np.array([[firm], [wide]])
