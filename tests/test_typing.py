"""The types that users see: their checkers find nothing to say about a script that uses every public name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import latentsync_ray

SCRIPT = Path(__file__).parent / "user_script.py"
HEAVY = ("av", "cv2", "diffusers", "fsspec", "huggingface_hub", "ray", "rich", "torch", "transformers")
"""Read by mypy for a minute; nothing of theirs is part of a public signature but ``ray.data.Dataset``."""


def test_the_script_uses_every_public_name() -> None:
    used = {node.id for node in ast.walk(ast.parse(SCRIPT.read_text())) if isinstance(node, ast.Name)}
    assert set(latentsync_ray.__all__) <= used


def test_the_package_says_that_it_has_types() -> None:
    assert (Path(latentsync_ray.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize(
    "wrong", ["", "steps = Recipe(steps=10).stepz", "lipsync(7, 'a', 'o')", "Pair(clip_id='a', video='v')"]
)
def test_mypy(wrong: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"{SCRIPT.read_text()}\n\n{wrong}\n")
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\n" + "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in HEAVY))
    cache = Path(__file__).parent.parent / ".mypy_cache"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(config), "--cache-dir", str(cache), str(script)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parent.parent)
    told = "Found 1 error in 1 file (checked 1 source file)" if wrong else "Success: no issues found in 1 source file"
    assert ended.stdout.splitlines()[-1] == told, ended.stdout


@pytest.mark.parametrize("wrong", ["", "steps = Recipe(steps=10).stepz", "lipsync(7, 'a', 'o')"])
def test_pyright(wrong: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"{SCRIPT.read_text()}\n\n{wrong}\n")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(script)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPT.parent.parent)
    assert ended.stdout.splitlines()[-1].startswith("1 error," if wrong else "0 errors,"), ended.stdout
