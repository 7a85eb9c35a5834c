"""The network that reads lips off a picture, trained on drawn mouths only: no face of anybody, not the portrait's either."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, avg_pool2d, dropout, grid_sample, relu

from latentsync_ray.nano.sync.mouths import MOUTHS, draw_clip
from latentsync_ray.nano.training.loop import train
from latentsync_ray.sync.lips import FACTS, PICTURE, normalised
from latentsync_ray.sync.networks import EYE_STRIDES

__all__ = ["Eye", "load_mouths", "save_mouths", "train_eye"]

_WIDTHS = (3, 16, 32, 32, 48)
_HIDDEN = 48
_DROPPED = 0.1
"""Share of what is seen that is left out in training."""
_PEOPLE = 14
"""In a batch."""
_HELD_OUT = 100
"""People, the last ones, that the network only reports on."""
_COUNTS = (1.0, 0.5, 0.3)
"""How much each fact counts."""
_ALIKE = 0.4
"""How much it counts what people have in common: what a mouth does over time is all that is used."""


class Eye(nn.Module):
    """Four layers of filters, and two that read them."""

    def __init__(self) -> None:
        super().__init__()
        layers = zip(_WIDTHS, _WIDTHS[1:], EYE_STRIDES, strict=False)
        self.eye = nn.ModuleList(nn.Conv2d(a, b, 3, stride, 1) for a, b, stride in layers)
        cells = _WIDTHS[-1] * -(-PICTURE[0] // 8) * -(-PICTURE[1] // 8)
        self.read = nn.ModuleList([nn.Linear(cells, _HIDDEN), nn.Linear(_HIDDEN, FACTS)])

    def forward(self, pictures: Tensor) -> Tensor:
        """Facts (B, 3) of normalised pictures (B, 3, H, W), in standard deviations."""
        state = pictures
        for number, layer in enumerate(self.eye):
            state = relu(layer(state))
            if not number:
                state = avg_pool2d(state, 2)
        return self.read[1](relu(self.read[0](dropout(state.flatten(1), _DROPPED, self.training))))


def save_mouths(path: Path, people: int, *, processes: int) -> None:
    """Draw the mouths of so many people, in several processes."""
    spawn = multiprocessing.get_context("spawn")  # OpenCV waits for ever for threads that a fork left behind
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        clips = list(pool.map(draw_clip, range(people), chunksize=16))
    draft = path.with_suffix(".draft.npz")
    np.savez(draft, pictures=np.stack([each for each, _ in clips]), facts=np.stack([each for _, each in clips]))
    draft.replace(path)


def load_mouths(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (people, MOUTHS, 40, 56, 3) and facts (people, MOUTHS, 3)."""
    with np.load(path) as file:
        return file["pictures"], file["facts"]


def train_eye(path: Path, pictures: np.ndarray, facts: np.ndarray, *, steps: int) -> Eye:
    """The network, trained for ``steps``; goes on from ``path``."""
    seen = torch.from_numpy(np.stack([normalised(each).astype(np.float16) for each in pictures]))
    wanted = torch.from_numpy((facts - facts.mean((0, 1))) / facts.std((0, 1)))
    learned = len(seen) - _HELD_OUT

    def loss_of(draw: np.random.Generator) -> Tensor:
        chosen = torch.from_numpy(draw.integers(0, learned, _PEOPLE))
        read = eye(_filmed(seen[chosen].float().flatten(0, 1), draw)).unflatten(0, (_PEOPLE, MOUTHS))
        wrong = read - wanted[chosen]
        within = wrong - wrong.mean(1, keepdim=True)
        counts = torch.tensor(_COUNTS)
        return (_ALIKE * wrong.square() * counts).mean() + (within.square() * counts).mean()

    eye = Eye()
    trained = train(path, eye, loss_of, steps=steps, rate=3e-3, average=0.99, device=torch.device("cpu"))
    _report(trained, seen[learned:], wanted[learned:])
    return trained


def _filmed(pictures: Tensor, draw: np.random.Generator) -> Tensor:
    """The pictures moved, stretched, mirrored and with other colours: all of a person almost alike."""
    if draw.random() < 0.5:
        pictures = pictures.flip(3)
    if draw.random() < 0.7:
        place = torch.eye(2, 3).repeat(_PEOPLE, 1, 1)
        place[:, :, 2] += 0.06 * torch.randn(_PEOPLE, 2)
        place[:, 0, 0] *= torch.exp(0.08 * torch.randn(_PEOPLE))
        place[:, 1, 1] *= torch.exp(0.06 * torch.randn(_PEOPLE))
        place = place.repeat_interleave(MOUTHS, 0)
        place[:, :, 2] += 0.02 * torch.randn(len(place), 2)
        grid = affine_grid(place, list(pictures.shape), align_corners=False)
        pictures = grid_sample(pictures, grid, align_corners=False, padding_mode="border")
    if draw.random() < 0.3:
        pictures = pictures * torch.tensor([1.0, *draw.uniform(0, 1.3, 2)], dtype=torch.float32)[:, None, None]
    if draw.random() < 0.5:
        pictures = pictures + torch.randn_like(pictures) * float(draw.uniform(0, 0.3))
    return pictures


@torch.inference_mode()
def _report(eye: Eye, seen: Tensor, wanted: Tensor) -> None:
    """How well it reads people that it has not seen: the change of each person's mouth."""
    read = eye(seen.float().flatten(0, 1)).unflatten(0, (len(seen), MOUTHS))
    read, truth = read - read.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True)
    for number, name in enumerate(("opening", "width", "height")):
        likeness = np.corrcoef(read[..., number].flatten(), truth[..., number].flatten())[0, 1]
        print(f"{name}: correlation {likeness:.3f}", flush=True)
