"""The model compiled by PyTorch against the model as it is."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from latentsync_ray.models.compiling import Compiling
from latentsync_ray.models.latentsync.model import LatentSync, load_model

ASKED: dict[str, Any] = {"steps": 3, "guidance_scale": 1.5, "seed": 1, "cache_interval": 2}


def window_of(model: LatentSync) -> tuple[np.ndarray, torch.Tensor]:
    """Faces and speech."""
    faces = np.random.default_rng(0).integers(0, 256, (1, 16, 64, 64, 3), np.uint8)
    return faces, torch.randn(model.silence(1).shape, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the package in which nothing was compiled yet."""
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    return tmp_path / "compiled"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")  # PyTorch's own
@pytest.mark.slow  # about a minute and a half of a C++ compiler
def test_compiled_networks_give_the_same(own_cache: Path) -> None:
    model = load_model("tiny-random", device="cpu", dtype="float32")
    faces, speech = window_of(model)
    plain = model.generate(faces, speech, **ASKED)
    model.compile()
    assert (model.generate(faces, speech, **ASKED) - plain).abs().max() < 1e-4
    assert model.precision == "cpu float32 compiled"
    assert own_cache.is_dir(), "kept for the next worker"


def test_a_model_that_cannot_be_compiled_runs_as_it_is(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(function: Any, **_: Any) -> Any:
        def fails(*_: Any, **__: Any) -> Any:
            raise TorchDynamoException("no C++ compiler here")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    model = load_model("tiny-random", device="cpu", dtype="float32")
    faces, speech = window_of(model)
    plain = model.generate(faces, speech, **ASKED)
    model.compile()
    with caplog.at_level(logging.WARNING, "latentsync_ray"):
        assert torch.equal(model.generate(faces, speech, **ASKED), plain)
    assert [record.message for record in caplog.records] == [
        "the model runs without being compiled, since that failed: no C++ compiler here"
    ]
    assert model.precision == "cpu float32"


def test_other_errors_are_not_taken_for_a_compiler_s(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    compiling = Compiling()

    def works() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        compiling(works)()
    assert compiling.works


def test_a_folder_that_somebody_chose_is_left(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    Compiling()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
