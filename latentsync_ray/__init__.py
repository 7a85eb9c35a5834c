"""Lip-sync whole datasets of (video, audio) pairs with LatentSync on Ray.

    from latentsync_ray import lipsync
    record = lipsync("talk.mp4", "speech.wav", "dubbed.mp4")

Names are loaded on first use (PEP 562): ``import latentsync_ray`` imports neither ray nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from latentsync_ray.config import Cluster as Cluster
    from latentsync_ray.config import Job as Job
    from latentsync_ray.config import Recipe as Recipe
    from latentsync_ray.dataset import lipsync_dataset as lipsync_dataset
    from latentsync_ray.driver import Summary as Summary
    from latentsync_ray.driver import run as run
    from latentsync_ray.errors import ClipError as ClipError
    from latentsync_ray.errors import ConfigError as ConfigError
    from latentsync_ray.errors import ModelError as ModelError
    from latentsync_ray.job_file import load_job as load_job
    from latentsync_ray.local import LipSync as LipSync
    from latentsync_ray.local import lipsync as lipsync
    from latentsync_ray.records import read_records as read_records
    from latentsync_ray.types import ClipRecord as ClipRecord
    from latentsync_ray.types import Pair as Pair

_HOME = {
    "ClipError": "errors",
    "ClipRecord": "types",
    "Cluster": "config",
    "ConfigError": "errors",
    "Job": "config",
    "LipSync": "local",
    "ModelError": "errors",
    "Pair": "types",
    "Recipe": "config",
    "Summary": "driver",
    "lipsync": "local",
    "lipsync_dataset": "dataset",
    "load_job": "job_file",
    "read_records": "records",
    "run": "driver",
}

__all__ = [
    "ClipError",
    "ClipRecord",
    "Cluster",
    "ConfigError",
    "Job",
    "LipSync",
    "ModelError",
    "Pair",
    "Recipe",
    "Summary",
    "__version__",
    "lipsync",
    "lipsync_dataset",
    "load_job",
    "read_records",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
