"""Pictures that were encoded before: bits are those of encoding them again, and nothing more is held than is allowed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cutting import crops
from torch import Tensor

from latentsync_ray.config import Recipe
from latentsync_ray.models.latentsync.latents import Key, Latents, distinct, room
from latentsync_ray.models.latentsync.model import LatentSync, load_model
from latentsync_ray.models.latentsync.vae import as_pictures
from latentsync_ray.stages.generate import Generate
from latentsync_ray.types import FaceCrops

SIDE, FRAMES = 64, 3
BYTES = 8 * 8 * 8 * 4
"""Of one picture's latents, tiny-random."""


@pytest.fixture(scope="module")
def loaded() -> LatentSync:
    return load_model("tiny-random", device="cpu", dtype="float32")


@pytest.fixture
def tiny(loaded: LatentSync) -> LatentSync:
    loaded.latents = Latents(room())
    return loaded


@pytest.fixture
def encoded(tiny: LatentSync, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the autoencoder was given."""
    counts: list[int] = []
    encode = tiny.encode

    def watched(pictures: Tensor) -> Tensor:
        counts.append(len(pictures))
        return encode(pictures)

    monkeypatch.setattr(tiny, "encode", watched)
    return counts


def film(count: int, side: int = SIDE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def drawn(model: LatentSync, windows: list[np.ndarray], language: int = 0, **asked: Any) -> np.ndarray:
    """New faces of windows of ``FRAMES`` pictures each, in one call; every picture hears the same of one language."""
    faces = np.stack(windows)
    heard = torch.randn(1, 1, 30, 64, generator=torch.Generator().manual_seed(language)).expand(*faces.shape[:2], -1, -1)
    return model.generate(faces, heard, **{"steps": 1, "guidance_scale": 1.0, "seed": 1, **asked}).numpy()


KEYS: list[Key] = [("cpu float32", bytes([each])) for each in range(5)]
ROWS = torch.arange(5 * 4.0).view(5, 1, 2, 2)


def held(latents: Latents) -> list[int]:
    """Which of ``KEYS`` are there."""
    return [KEYS.index(key) for key in latents._known]


def test_what_nobody_asked_for_longest_goes_first() -> None:
    latents = Latents(3 * 16 + 15)
    latents.keep(KEYS[:3], ROWS[:3])
    assert [*latents.find([KEYS[4], KEYS[0]])] == [KEYS[0]]
    latents.keep(KEYS[3:4], ROWS[3:4])
    assert (held(latents), latents.bytes) == ([2, 0, 3], 48)
    latents.keep(KEYS[3:], ROWS[3:])
    assert (held(latents), latents.bytes) == ([0, 3, 4], 48), "what is there is not held twice"
    assert all(torch.equal(row, ROWS[KEYS.index(key)]) for key, row in latents.find(KEYS).items())
    assert (latents.asked, latents.found) == (2 + 5, 1 + 3)
    latents.forget()
    assert (held(latents), latents.bytes) == ([], 0)


def test_each_is_held_by_itself() -> None:
    """Or what has been dropped would stay in memory as long as what was encoded beside it."""
    latents, rows = Latents(1000), ROWS.clone()
    latents.keep(KEYS, rows)
    rows.zero_()
    for key, row in latents.find(KEYS).items():
        assert row.untyped_storage().nbytes() == row.nbytes
        assert torch.equal(row, ROWS[KEYS.index(key)])


def test_bounds() -> None:
    nothing = Latents(0)
    nothing.keep(KEYS, ROWS)
    assert held(nothing) == []
    small = Latents(15)
    small.keep(KEYS, ROWS)
    assert (held(small), small.bytes) == ([], 0)
    assert 2**20 < room() <= 2**30


def test_many_threads_may_use_it() -> None:
    latents, many = Latents(40 * 16), 16
    keys: list[Key] = [("cpu float32", bytes([each])) for each in range(100)]
    start = threading.Barrier(many)

    def use(seed: int) -> None:
        random = np.random.default_rng(seed)
        start.wait(20)
        for _ in range(50):
            some = random.choice(100, 10, replace=False)
            latents.keep([keys[each] for each in some], torch.tensor(some).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2))
            for key, row in latents.find(keys).items():
                assert (row == key[1][0]).all()

    with ThreadPoolExecutor(many) as pool:
        list(pool.map(use, range(many)))
    assert latents.bytes == 16 * len(latents._known) == 40 * 16


def test_each_picture_once() -> None:
    a, b, c = film(3)
    hashes, first, places = distinct(np.stack([a, b, a, c, b]))
    assert (first, places) == ([0, 1, 3], [0, 1, 0, 2, 1])
    assert len(set(hashes)) == 3
    assert distinct(np.stack([c, a]))[0] == [hashes[2], hashes[0]], "whatever is beside it"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("tiny-random", "float32"), ("tiny-random", "bfloat16"), ("tiny-random", "float16"), ("nano", "float32")],
)
@torch.inference_mode()
def test_a_picture_is_encoded_alike_in_any_company(name: str, dtype: Any) -> None:
    """In any place of a part, beside any others, and with what fills the last part up."""
    model, random = load_model(name, device="cpu", dtype=dtype), np.random.default_rng(1)
    pictures = as_pictures(film(21, model.resolution))
    together = model.encode(pictures)
    for count in (1, 3, 8, 20):
        some = random.choice(len(pictures), count, replace=False)
        assert torch.equal(model.encode(pictures[some]), together[some]), count
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(("packed", "order"), [(1, [3, 1, 0, 2]), (2, [0, 1, 2, 3]), (3, [3, 1, 0, 2])])
def test_bits_do_not_depend_on_what_is_known(tiny: LatentSync, order: list[int], packed: int) -> None:
    """Windows of two languages, some of whose pictures were seen, in calls of one shape in any order, the last filled up."""
    clip = film(8)
    windows = [clip[start : start + FRAMES] for start in (0, 3, 5, 2)]  # the last two share pictures with the others

    def dubbed(order: list[int], language: int) -> dict[int, np.ndarray]:
        made = {}
        for calls in (order[first : first + packed] for first in range(0, len(order), packed)):
            shown = [windows[each] for each in calls] + [windows[calls[-1]]] * (packed - len(calls))
            made.update(zip(calls, drawn(tiny, shown, language), strict=False))
        return made

    tiny.latents = Latents(0)
    expected = [dubbed([0, 1, 2, 3], language) for language in (0, 1)]
    assert tiny.latents.found == 0
    for limit in (room(), 5 * BYTES):  # the other one drops what it will be asked for
        tiny.latents = Latents(limit)
        for language in (0, 1):
            made = dubbed(order, language)
            assert all(np.array_equal(made[each], expected[language][each]) for each in order)
        assert tiny.latents.found
    assert not np.array_equal(expected[0][0], expected[1][0])


def test_another_language_encodes_nothing(tiny: LatentSync, encoded: list[int]) -> None:
    clip = film(5)
    drawn(tiny, [clip[:3], clip[2:5]])
    assert encoded == [5]
    assert tiny.spared == [0, tiny.info.encoding_flops], "the second window shows a picture of the first"
    drawn(tiny, [clip[1:4], clip[:3]], language=1)
    assert encoded == [5]
    assert tiny.spared == [3 * tiny.info.encoding_flops] * 2
    drawn(tiny, [np.concatenate([clip[4:], film(2, seed=9)])], language=1)
    assert encoded == [5, 2], "and only what is new"


def test_noise_is_not_remembered(tiny: LatentSync) -> None:
    """Seed, steps and guidance of a call are its own."""
    clip = film(3)
    asked: tuple[dict[str, Any], ...] = {"seed": 2}, {"steps": 2}, {"guidance_scale": 1.5}
    drawn(tiny, [clip])
    known = [drawn(tiny, [clip], **each) for each in asked]
    assert tiny.latents.found == 9
    tiny.latents = Latents(0)
    assert all(np.array_equal(drawn(tiny, [clip], **each), one) for each, one in zip(asked, known, strict=True))


def test_other_arithmetic_is_another_picture(tiny: LatentSync, encoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was encoded by compiled code is not taken by a model that gave up compiling, and the other way round."""
    for precision in ("cpu float32 compiled", "cpu float32", "cpu float32 compiled"):
        monkeypatch.setattr(LatentSync, "precision", precision)
        drawn(tiny, [film(3)])
    assert encoded == [3, 3]


def test_what_breaks_while_compiled_is_kept_as_what_it_is(tiny: LatentSync, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = tiny.encode

    def breaking(pictures: Tensor) -> Tensor:
        monkeypatch.setattr(LatentSync, "precision", "cpu float32")
        return encode(pictures)

    monkeypatch.setattr(LatentSync, "precision", "cpu float32 compiled")
    monkeypatch.setattr(tiny, "encode", breaking)
    drawn(tiny, [film(3)])
    assert {precision for precision, _ in tiny.latents._known} == {"cpu float32"}


def test_another_model_has_latents_of_its_own(tiny: LatentSync) -> None:
    drawn(tiny, [film(3)])
    other = load_model("tiny-random", device="cpu", dtype="float32")
    drawn(other, [film(3)])
    assert other.latents.found == 0


def test_segments_of_several_threads(tiny: LatentSync) -> None:
    """Languages of one video side by side in a worker."""
    clip, random = film(40, seed=5), np.random.default_rng(0)
    segment = crops(0, 40, clip, np.ones(40, np.bool_), random.normal(size=(1, 80, 3000)).astype(np.float32))
    languages: list[FaceCrops] = [
        replace(segment, clip_id=str(each), speech=random.normal(size=(1, 80, 3000)).astype(np.float32)) for each in range(3)
    ]
    generate = Generate(Recipe(model="tiny-random", steps=1, cpu_threads=1, micro_batch=2), model=tiny)
    tiny.latents = Latents(0)
    alone = [generate(language) for language in languages]
    tiny.latents = Latents(20 * BYTES)
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(generate, languages))
    assert all(np.array_equal(one.faces, expected.faces) for one, expected in zip(made, alone, strict=True))
    assert tiny.latents.found
    assert tiny.latents.bytes <= 20 * BYTES
