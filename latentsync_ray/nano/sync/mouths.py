"""Mouths to learn from: drawn at random, so that no two people, lights and cameras are alike, with lips of known opening.

A drawing is as the pipeline cuts the lower part of a face (``sync.lips``), at three times the size that the network sees: skin,
folds, beard, lips, teeth, tongue, chin, neck. None of it has to look good; what all real mouths share has to be there.
"""

from __future__ import annotations

import dataclasses as dc
import functools

import cv2
import numpy as np

from latentsync_ray.sync.lips import PICTURE

__all__ = ["MOUTHS", "Camera", "Drawing", "Person", "draw_clip", "draw_mouth"]

MOUTHS = 8
"""Drawn of each person, in one light and by one camera."""
_ZOOM = 3
_WIDTH, _HEIGHT = PICTURE[0] * _ZOOM, PICTURE[1] * _ZOOM
_LIP = np.linspace(-1, 1, 41)
"""From corner to corner."""
_ARCH = np.clip(1 - _LIP**2, 0, 1)
_SUBPIXELS = 4
"""Bits behind the point of coordinates that OpenCV draws."""


@dc.dataclass(frozen=True, kw_only=True)
class Drawing:
    """One mouth to draw."""

    opening: float
    """0 (closed) to 1 (as far as this person can)."""
    width: float
    """-1 (rounded) to 1 (stretched)."""
    smile: float
    """px by which the corners are up."""
    pouting: float
    moved: tuple[float, float, float, float]
    """px right, px down, degrees, share larger: how far off the alignment is in this frame."""


class Person:
    """Somebody who is drawn; ``seed`` says who."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng((79, seed))
        bright = draw.uniform(0.25, 0.95)
        self.skin = _colour(draw.uniform(8, 30), draw.uniform(0.2, 0.6), bright)
        self.lips = _colour(draw.uniform(-15, 15), draw.uniform(0.25, 0.7), bright * draw.uniform(0.6, 1.0))
        self.hair = _colour(draw.uniform(0, 40), draw.uniform(0.1, 0.5), draw.uniform(0.03, 0.4))
        self.behind = draw.uniform(0, 255, 3).astype(np.float32)
        self.neck = self.skin * np.float32(draw.uniform(0.3, 0.72))
        self.inside, self.tongue = draw.uniform(0, 0.35), draw.uniform(0.2, 0.7)
        self.teeth = np.array([1, 0.97, 0.88], np.float32) * np.float32(255 * draw.uniform(0.55, 1.0))
        self.tooth, self.gap, self.lower_teeth = draw.uniform(4, 15), draw.uniform(0, 3), draw.random() < 0.6
        self.tongue_at, self.corner_shade, self.gloss = draw.uniform(0.7, 1.0), draw.uniform(0, 0.5), draw.uniform(0, 40)
        self.upper, self.lower, self.bow = draw.uniform(2, 11), draw.uniform(5, 15), draw.uniform(0, 2.5)
        self.half, self.most = draw.uniform(28, 64), draw.uniform(24, 46)  # px: half the width, largest opening
        self.x, self.y = _WIDTH / 2 + draw.normal(0, 5), 51 + draw.normal(0, 8)
        self.roll, self.yaw, self.size = draw.normal(0, 4), draw.normal(0, 0.12), float(np.exp(draw.normal(0, 0.12)))
        self.smile, self.seam = draw.normal(2.5, 4.5), draw.uniform(0.2, 0.75)
        self.chin, self.jaw = draw.uniform(45, 75), draw.uniform(62, 110)  # px below the mouth, px beside it
        self.beard = draw.uniform(0.1, 0.8) if draw.random() < 0.35 else 0.0
        self.moustache = draw.uniform(0.1, 0.8) if draw.random() < 0.3 else 0.0
        self.nose, self.nose_at, self.nose_width = draw.uniform(0, 0.5), draw.uniform(28, 42), draw.uniform(10, 18)
        self.folds = draw.uniform(0, 0.25, 2)
        self.light = draw.normal(0, 0.25, 2)
        rough = draw.uniform(0, 6)
        self.texture = (_noise(draw, 3) + 1.2 * _noise(draw, 14)) * rough
        self.stubble = 0.75 + 0.35 * np.clip(_noise(draw, 2), -1.5, 1.5)

    def facts(self, drawing: Drawing) -> tuple[float, float, float]:
        """What ``sync.lips`` shall read: root of the opening, width, and height with the lips; in about mouths."""
        opened = drawing.opening * self.most
        thick = (self.upper + self.lower) * (1 + 0.3 * max(0.0, -drawing.width))
        height = (opened + thick) / 30 * self.size
        return float(np.sqrt(opened / 30 * self.size)), self._half(drawing) * self.size / 28, height

    def _half(self, drawing: Drawing) -> float:
        return self.half * (1 + 0.22 * drawing.width) * (1 - 0.12 * drawing.opening)


def draw_mouth(person: Person, drawing: Drawing) -> np.ndarray:
    """float32 (120, 168, 3) RGB, 0 to 255."""
    opened, half = drawing.opening * person.most, person._half(drawing)
    rounded = max(0.0, -drawing.width)
    raised, dropped = 0.18 * opened, 0.82 * opened
    bend = -(person.smile + drawing.smile) * _LIP**2
    upper_in, lower_in = bend - raised * _ARCH**0.7, bend + dropped * _ARCH**0.7
    upper_lip = person.upper * (1 - 0.2 * drawing.opening) * (1 + 0.21 * rounded + drawing.pouting)
    lower_lip = person.lower * (1 - 0.15 * drawing.opening) * (1 + 0.25 * rounded + drawing.pouting)
    bow = 1 - 0.18 * person.bow * np.exp(-((_LIP / 0.12) ** 2))
    upper_out = upper_in - upper_lip * np.clip(_ARCH**0.8 * bow, 0, None)
    lower_out = lower_in + lower_lip * _ARCH**0.6

    right, down, roll, larger = drawing.moved
    x, y, size = person.x + right, person.y + down, person.size * (1 + larger)
    turn = cv2.getRotationMatrix2D((0, 0), -(person.roll + roll), size)[:, :2]

    def outline(*edges: np.ndarray) -> np.ndarray:
        across = _LIP * half * (1 + person.yaw * _LIP * 0.5)
        points = [np.stack([across, edge], 1)[:: 1 - 2 * number] for number, edge in enumerate(edges)]
        return np.round((np.concatenate(points) @ turn.T + (x, y)) * 2**_SUBPIXELS).astype(np.int32)

    picture = _face(person, x, y, size, half, dropped, below=float(lower_out.max()), above=raised + upper_lip)
    picture = _painted(picture, outline(upper_out, upper_in), person.lips * 0.92, 0.85)
    picture = _painted(picture, outline(lower_in, lower_out), person.lips * 1.05, 0.85)
    rows, columns = _grid()
    middle = y + (lower_in.max() + lower_lip / 2) * size
    picture += (person.gloss * np.exp(-(((rows - middle) / 2.2) ** 2) - ((columns - x) / 10) ** 2))[..., None]
    if opened > 0.6:
        inside = _inside(person, x, y, size, half, raised, dropped)
        picture = _painted(picture, outline(upper_in, lower_in), inside, 1.0)
    else:
        line = outline((upper_in + lower_in) / 2)
        shade = [float(each) for each in person.lips * person.seam]
        cv2.polylines(picture, [line], isClosed=False, color=shade, thickness=1, lineType=cv2.LINE_AA, shift=_SUBPIXELS)
    lit = 1 + person.light[0] * (columns / _WIDTH - 0.5) + person.light[1] * (rows / _HEIGHT - 0.5)
    return np.clip(picture * np.clip(lit, 0.2, 2)[..., None], 0, 255)


def _face(
    person: Person, x: float, y: float, size: float, half: float, dropped: float, *, below: float, above: float
) -> np.ndarray:
    """All but the mouth: ``below`` and ``above`` are the outer edges of the lips, px from the mouth's line."""
    rows, columns = _grid()
    off, chin = columns - x, y + (person.chin + 0.9 * dropped) * size
    shade = 1 - 0.18 * np.exp(-(((rows - y - (below + 8) * size) / 5) ** 2) - (off / 25) ** 2)
    shade += 0.08 * np.exp(-(((rows - chin + 14) / 9) ** 2) - (off / 22) ** 2)
    nostrils = np.exp(-(((rows - y + person.nose_at * size) / 5) ** 2) - (off / person.nose_width) ** 4)
    shade *= 1 - person.nose * nostrils
    for side, fold in zip((-1, 1), person.folds, strict=True):
        shade *= 1 - fold * np.exp(-(((off - side * (half + 8 + 0.25 * (rows - y))) / 4) ** 2)) * (rows < y + 25)
    picture = person.skin * shade[..., None] + person.texture[..., None]
    if person.beard:
        hairy = np.clip((rows - y - dropped / 2 - 4) / 14, 0, 1)
        hairy = np.clip(hairy + np.clip((np.abs(off) - half - 4) / 12, 0, 1) * (rows > y - 12), 0, 1)
        picture = _over(picture, person.hair, hairy * person.beard * person.stubble)
    if person.moustache:
        hairy = np.exp(-(((rows - y + above + 5) / 5.5) ** 2)) * (np.abs(off) < 1.15 * half)
        picture = _over(picture, person.hair, hairy * person.moustache * person.stubble)
    outside = (off / (person.jaw * size)) ** 2 + np.clip((rows - y) / (chin - y), 0, 9) ** 2.2
    behind = np.where((np.abs(off) < 0.75 * person.jaw)[..., None], person.neck, person.behind)
    return _over(picture, behind, np.clip((outside - 1) * 8, 0, 1))


def _inside(person: Person, x: float, y: float, size: float, half: float, raised: float, dropped: float) -> np.ndarray:
    """What is seen between the lips, all over the picture."""
    rows, columns = _grid()
    off = columns - x
    tongue = np.exp(-(((rows - y - dropped * person.tongue_at * size) / (4 + 0.25 * (raised + dropped))) ** 2))
    inside = _over(
        person.lips * np.float32(person.inside), person.lips * person.tongue, tongue * np.exp(-((off / half / 0.6) ** 4))
    )
    bottom = y + (person.tooth - raised) * size - person.gap
    teeth = np.clip((bottom + 2 - rows) / 1.5, 0, 1) * (np.abs(off) < 0.85 * half) * (0.9 + 0.1 * np.cos(0.9 * columns))
    inside = _over(inside, person.teeth, teeth)
    if person.lower_teeth:
        top = y + (dropped - 0.4 * person.tooth) * size
        inside = _over(inside, person.teeth * 0.8, 0.7 * np.clip((rows - top) / 1.5, 0, 1) * (np.abs(off) < 0.6 * half))
    return inside * (1 - person.corner_shade * np.clip((off / half) ** 2, 0, 1))[..., None]


class Camera:
    """What lens, light and codec do to all frames of a clip."""

    def __init__(self, draw: np.random.Generator) -> None:
        self.blur, self.noise, self.flicker = abs(draw.normal(0, 1.1)), abs(draw.normal(0, 2.5)), abs(draw.normal(0, 0.02))
        self.coarse = draw.uniform(0.45, 1) if draw.random() < 0.5 else 1.0
        self.gain, self.offset = draw.uniform(0.6, 1.25) * (1 + draw.normal(0, 0.06, 3)), draw.normal(0, 8)
        self.gamma, self.quality = np.exp(draw.normal(0, 0.2)), int(draw.integers(25, 95)) if draw.random() < 0.5 else None

    def __call__(self, picture: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """A drawing as a frame shows it: uint8 (40, 56, 3)."""
        blur = self.blur * np.exp(draw.normal(0, 0.15))
        if blur > 0.3:
            picture = cv2.GaussianBlur(picture, (0, 0), blur)
        seen = cv2.resize(picture, PICTURE, interpolation=cv2.INTER_AREA)
        if self.coarse < 1:
            size = int(PICTURE[0] * self.coarse), int(PICTURE[1] * self.coarse)
            seen = cv2.resize(cv2.resize(seen, size, interpolation=cv2.INTER_AREA), PICTURE)
        seen = seen * self.gain * (1 + draw.normal(0, self.flicker)) + self.offset
        seen = 255 * np.clip(seen / 255, 0, 1) ** self.gamma + draw.normal(0, self.noise, seen.shape)
        seen = np.clip(seen, 0, 255).astype(np.uint8)
        if self.quality is None:
            return seen
        coded = cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, self.quality])[1]
        return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))


def draw_clip(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of one person, uint8 (MOUTHS, 40, 56, 3), and what is to be read of them, float32 (MOUTHS, 3)."""
    draw = np.random.default_rng((78, seed))
    person, camera = Person(seed), Camera(draw)
    unsteady, mood = draw.uniform(0.2, 1.2), draw.normal(0, 1.5)
    frames, facts = [], []
    for _ in range(MOUTHS):
        choices = 0.0, draw.uniform(0, 0.2), draw.uniform(0, 1), draw.beta(1.2, 3)
        opening = choices[draw.choice(4, p=(0.18, 0.27, 0.25, 0.3))]
        width = draw.uniform(-1, 1) * (1 if opening < 0.7 else 0.6)
        drawing = Drawing(
            opening=opening,
            width=width,
            smile=mood + draw.normal(0, 1.2),
            pouting=max(0, -width) * draw.uniform(0, 0.4),
            moved=tuple(draw.normal(0, (2, 2, 1.5, 0.025)) * unsteady),
        )
        frames.append(camera(draw_mouth(person, drawing), draw))
        facts.append(person.facts(drawing))
    return np.stack(frames), np.array(facts, np.float32)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """float32 (3,) RGB, 0 to 255; hue in degrees."""
    return cv2.cvtColor(np.array([[[hue % 360, saturation, value]]], np.float32), cv2.COLOR_HSV2RGB)[0, 0] * 255


def _noise(draw: np.random.Generator, grain: int) -> np.ndarray:
    """Soft noise of about ``grain`` px, (H, W)."""
    coarse = draw.normal(0, 1, (_HEIGHT // grain + 2, _WIDTH // grain + 2)).astype(np.float32)
    return cv2.resize(coarse, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_CUBIC)


@functools.cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every pixel, float32."""
    rows, columns = np.mgrid[0:_HEIGHT, 0:_WIDTH].astype(np.float32)
    return rows, columns


def _over(below: np.ndarray, above: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    return below + (above - below) * opacity[..., None].astype(np.float32)


def _painted(picture: np.ndarray, outline: np.ndarray, colour: np.ndarray, opacity: float) -> np.ndarray:
    """``picture`` with the polygon filled with one colour, or with a picture."""
    mask = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillPoly(mask, [outline], color=(255,), lineType=cv2.LINE_AA, shift=_SUBPIXELS)
    return _over(picture, colour, mask * np.float32(opacity / 255))
