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


WRONG = ("steps = Recipe(steps=10).stepz", "lipsync(7, 'a', 'o')", "Pair(clip_id='a', video='v')")


@pytest.mark.parametrize("wrong", [(), WRONG], ids=["right", "wrong"])
def test_mypy(wrong: tuple[str, ...], tmp_path: Path) -> None:
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\n" + "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in HEAVY))
    cache = Path(__file__).parent.parent / ".mypy_cache"
    told = checked(
        "mypy", "--strict", "--config-file", str(config), "--cache-dir", str(cache), script=with_lines(tmp_path, wrong)
    )
    errors = [line for line in told if ": error: " in line]
    assert [int(line.split(":")[1]) for line in errors] == at(wrong), told
    assert told[-1].startswith("Success") or wrong


@pytest.mark.parametrize("wrong", [(), WRONG], ids=["right", "wrong"])
def test_pyright(wrong: tuple[str, ...], tmp_path: Path) -> None:
    told = checked("pyright", "--pythonpath", sys.executable, script=with_lines(tmp_path, wrong))
    lines = [int(line.split(":")[1]) for line in told if " - error:" in line]
    assert sorted(set(lines)) == at(wrong), told
    assert told[-1].startswith("0 errors,") or wrong


def with_lines(folder: Path, wrong: tuple[str, ...]) -> Path:
    script = folder / "script.py"
    script.write_text("\n".join([SCRIPT.read_text(), *wrong, ""]))
    return script


def at(wrong: tuple[str, ...]) -> list[int]:
    """The lines of the script that are wrong."""
    first = len(SCRIPT.read_text().split("\n")) + 1
    return list(range(first, first + len(wrong)))


def checked(*command: str, script: Path) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-m", *command, str(script)], capture_output=True, text=True, check=False, cwd=SCRIPT.parent.parent
    )
    return ended.stdout.splitlines()
