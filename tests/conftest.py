"""Where test data lies. Nothing is skipped silently: each skip names what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
_LONGEST = ("test_job.py", "test_pipeline.py", "test_survival.py", "test_nano.py", "test_notebooks.py")
"""Files that take minutes. They begin, so that two processes end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An output folder on disk, and one in an object store."""
    monkeypatch.setenv("LATENTSYNC_RAY_CACHE", str(tmp_path / "cache"))
    if request.param == "local":
        yield str(tmp_path / "out")
    else:
        fs = fsspec.filesystem("memory")
        yield "memory://out"
        fs.store.clear()
        fs.pseudo_dirs[:] = [""]


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
