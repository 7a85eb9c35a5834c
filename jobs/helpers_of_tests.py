"""Scripts share the tests' helpers: importing this finds the modules of ``tests/``, here and in processes started later."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__: list[str] = []

_JOBS = Path(__file__).resolve().parent
_FOLDERS = [str(_JOBS), str(_JOBS.parent / "tests")]

sys.path += [folder for folder in _FOLDERS if folder not in sys.path]
os.environ["PYTHONPATH"] = os.pathsep.join([*_FOLDERS, *filter(None, [os.environ.get("PYTHONPATH")])])
