"""The types that users see: their checkers find nothing to say about a script that uses every public name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

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


def test_mypy(tmp_path: Path) -> None:
    """Nothing to say about the script, and something about each line that is wrong."""
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\n" + "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in HEAVY))
    cache = Path(__file__).parent.parent / ".mypy_cache"
    told = checked(
        "mypy", "--strict", "--config-file", str(config), "--cache-dir", str(cache), script=with_lines(tmp_path, WRONG)
    )
    errors = [line for line in told if ": error: " in line]
    assert [int(line.split(":")[1]) for line in errors] == at(WRONG), told


def test_pyright(tmp_path: Path) -> None:
    told = checked("pyright", "--pythonpath", sys.executable, script=with_lines(tmp_path, WRONG))
    lines = [int(line.split(":")[1]) for line in told if " - error:" in line]
    assert sorted(set(lines)) == at(WRONG), told


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
