"""Where test data lies, and what keeps one test's traces from the next. Each skip names what is missing."""

from __future__ import annotations

import functools
import logging
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import fsspec
import pytest

from latentsync_ray import lease

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
_LONGEST = ("test_job.py", "test_pipeline.py", "test_survival.py", "test_nano.py", "test_notebooks.py")
"""Files that take minutes. They begin, so that two processes end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the models, downloads and settings of whoever runs it, nor do fixtures that live longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("LATENTSYNC_RAY_", "HF_"))]:
            patch.delenv(name)
        home = tmp_path_factory.mktemp("machine")
        patch.setenv("LATENTSYNC_RAY_CACHE", str(home / "cache"))
        patch.setenv("LATENTSYNC_RAY_MODELS", str(home / "models"))
        patch.setenv("HF_HOME", str(home / "hub"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(autouse=True)
def _alone(_nothing_of_this_machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every test begins with the same globals and a download cache of its own; whatever it changes is undone."""
    with ExitStack() as undone:
        for undo in (_environment, _folder, _logging, _threads, _ray, _memory, _package):
            undone.enter_context(undo())
        os.environ["LATENTSYNC_RAY_CACHE"] = str(tmp_path_factory.getbasetemp() / "caches" / uuid.uuid4().hex)
        yield


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@contextmanager
def _folder() -> Iterator[None]:
    before = Path.cwd()
    yield
    os.chdir(before)


@contextmanager
def _logging() -> Iterator[None]:
    names = ["", *(name for name in logging.root.manager.loggerDict if name.partition(".")[0] in ("latentsync_ray", "ray"))]
    before = {name: (logger.level, logger.handlers[:]) for name in names for logger in [logging.getLogger(name or None)]}
    yield
    for name, (level, handlers) in before.items():
        logger = logging.getLogger(name or None)
        logger.setLevel(level)
        logger.handlers[:] = handlers


@contextmanager
def _threads() -> Iterator[None]:
    """A model on a CPU sets how many threads the process uses, which changes last bits."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if torch and before:
        torch.set_num_threads(before)


@contextmanager
def _ray() -> Iterator[None]:
    """A cluster that a test started is ended; one of a fixture that lives longer is not."""
    started = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    yield
    if not started and "ray" in sys.modules and sys.modules["ray"].is_initialized():
        sys.modules["ray"].shutdown()


@contextmanager
def _memory() -> Iterator[None]:
    """fsspec's in-memory filesystem belongs to the process."""
    yield
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@contextmanager
def _package() -> Iterator[None]:
    """What the package remembers between calls."""
    yield
    lease._HELD.clear()
    for name, module in list(sys.modules.items()):
        if name.startswith("latentsync_ray."):
            for value in list(vars(module).values()):
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An output folder on disk, and one in an object store."""
    return str(tmp_path / "out") if request.param == "local" else "memory://out"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Small golden tensors that travel with the repository."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The full golden tensors of the official implementation, when they lie beside the checkout."""
    return _beside("reference")


@pytest.fixture(scope="session")
def clips() -> Path:
    """Real footage, when it lies beside the checkout."""
    return _beside("clips")


def _beside(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs ../shared/{name}")
    return SHARED / name
