"""Faces to learn from: the rendered portrait, aligned as the pipeline aligns it.

A scene is 16 frames of one swaying head in one light, seen with several mouths: some say what a track says, the last one says
nothing that is heard anywhere. Any of them may be what is filmed and any of the speaking ones what is wanted, so there is
nothing to be learned about the wanted mouth from the filmed one.
"""

from __future__ import annotations

import dataclasses as dc
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from latentsync_ray.faces.align import affine, crop_face
from latentsync_ray.models.latentsync.specs import WINDOW
from latentsync_ray.models.latentsync.template import template
from latentsync_ray.nano.portrait import SIDE, Light, Performance, posed_points, render_clip
from latentsync_ray.nano.training.speech import Track

__all__ = ["MOUTHS", "Scene", "draw_scene", "load_scenes", "render_scene", "save_scenes"]

MOUTHS = 5
"""Mouths per scene, the last of them without speech."""
_BY_CASCADE = np.array([(212.8, 189.6), (301.0, 189.6), (256.5, 241.7)])
_BY_MESH = np.array([(208.2, 175.8), (311.7, 181.8), (254.2, 250.4)])
"""Brows and nose where the detectors ``embedded`` and ``mesh`` see them, on average (px of the portrait; they stray by about
1). A face is a quarter larger in crops by the one, so a model that serves both has to see both, and what is between."""


@dc.dataclass(frozen=True, kw_only=True)
class Scene:
    """What a scene's mouths say: ``tracks``, and the ``frames`` from which they say it; one each for all but the last."""

    tracks: np.ndarray
    frames: np.ndarray


def draw_scene(seed: int, tracks: Sequence[Track]) -> Scene:
    """Which moments of which tracks are heard in scene number ``seed``."""
    draw = np.random.default_rng((23, seed))
    chosen = draw.choice(len(tracks), MOUTHS - 1, replace=False)
    starts = [draw.integers(0, len(tracks[track].curves) - WINDOW + 1) for track in chosen]
    return Scene(tracks=chosen, frames=np.array(starts))


def render_scene(seed: int, curves: Sequence[np.ndarray], *, resolution: int) -> np.ndarray:
    """The aligned faces of scene ``seed``, uint8 (MOUTHS, 16, R, R, 3), for the ``curves`` (16, 2) of its speaking mouths."""
    draw = np.random.default_rng((29, seed))
    knots = draw.uniform((-0.3, -1), (1.2, 1), (7, 2))
    silent = [np.interp(np.arange(WINDOW), np.linspace(0, WINDOW, 7), knot) for knot in knots.T]
    mouths = [*curves, np.clip(np.stack(silent, axis=1), (0, -1), (1, 1))]
    idle = Performance.of_mouth(np.zeros(250), seed=int(draw.integers(1 << 30)), motion=float(draw.uniform(0.3, 2)))
    start = draw.integers(0, 250 - WINDOW)
    pose = idle.pose[start : start + WINDOW] + draw.normal(0, (8, 6, 2, 0.03, 0.01), 5).astype(np.float32)
    light = Light.random(int(draw.integers(1 << 30))) if draw.random() < 0.7 else Light()
    size = int(draw.choice([288, 352, 384, 448, 512]))
    # As far off as the detectors get, and as they wander from frame to frame.
    seen = _BY_CASCADE + draw.uniform(-0.1, 1.1) * (_BY_MESH - _BY_CASCADE)
    off = seen + draw.normal(0, 1.5, (1, 2)) + draw.normal(0, 1.0, (3, 2))
    wander = np.cumsum(draw.normal(0, 0.12, (WINDOW, 3, 2)), axis=0)
    affines = [
        affine((posed_points(off + wander[frame], pose[frame]) + 0.5) * size / SIDE - 0.5, template(resolution))
        for frame in range(WINDOW)
    ]
    scene = np.empty((MOUTHS, WINDOW, resolution, resolution, 3), np.uint8)
    for number, mouth in enumerate(mouths):
        performance = Performance(
            aperture=mouth[:, 0].astype(np.float32),
            width=mouth[:, 1].astype(np.float32),
            lids=idle.lids[start : start + WINDOW],
            pose=pose,
        )
        for frame, picture in enumerate(render_clip(performance, size=size, light=light)):
            scene[number, frame] = crop_face(picture, affines[frame], template(resolution))
    return scene


def save_scenes(path: Path, tracks: Sequence[Track], count: int, *, resolution: int) -> None:
    """Render ``count`` scenes into one mapped file, on all cores; goes on where it was."""
    done = path.with_suffix(".done")
    first = int(done.read_text()) if done.exists() else 0
    shape = (count, MOUTHS, WINDOW, resolution, resolution, 3)
    scenes = np.lib.format.open_memmap(path, mode="r+" if first else "w+", dtype=np.uint8, shape=shape)
    heard = [draw_scene(seed, tracks) for seed in range(first, count)]
    curves = [
        [tracks[track].curves[frame : frame + WINDOW] for track, frame in zip(scene.tracks, scene.frames, strict=True)]
        for scene in heard
    ]
    # Spawned: OpenCV waits for ever for threads that a fork left behind.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        rendered = pool.map(partial(render_scene, resolution=resolution), range(first, count), curves)
        for number, scene in enumerate(rendered, start=first):
            scenes[number] = scene
            if number % 20 == 19 or number == count - 1:
                scenes.flush()
                draft = done.with_suffix(".draft")
                draft.write_text(str(number + 1))
                draft.replace(done)
                print(f"scene {number + 1} of {count}", flush=True)


def load_scenes(path: Path, tracks: Sequence[Track]) -> tuple[np.ndarray, list[Scene]]:
    """The pictures (N, MOUTHS, 16, R, R, 3), mapped, and what is said in each scene."""
    pictures = np.load(path, mmap_mode="r")
    return pictures, [draw_scene(seed, tracks) for seed in range(len(pictures))]
