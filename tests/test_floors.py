"""The section drawing of the house, enforced: who may import whom, and what every file has to be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import latentsync_ray

HOUSE = Path(latentsync_ray.__file__).parent
GROUND = {
    "ahead",
    "arguments",
    "assets",
    "cache",
    "cards",
    "clip_names",
    "clip_record",
    "config",
    "csv_table",
    "disk",
    "errors",
    "extras",
    "filesystems",
    "gate",
    "job_file",
    "layout",
    "lettering",
    "levels",
    "licence",
    "local_files",
    "marking",
    "naming",
    "recipe",
    "reasons",
    "redact",
    "registry",
    "resources",
    "retry",
    "row",
    "storage",
    "storage_options",
    "template",
    "types",
}
FLOORS = (
    GROUND,
    {
        *("consent", "faces", "label", "lease", "manifest", "marks", "measure", "media", "models", "quality", "records"),
        *("sinks", "speed", "sync", "watermark"),
    },
    {"changes", "pairs", "preflight", "stages"},
    {"local", "nano", "pipeline", "progress", "report", "todo"},
    {"passes"},
    {"dataset", "driver", "forecast", "serve"},
    {"cli"},
)
"""A room imports rooms of lower floors only; those on the ground floor may know each other."""
ONLY = {
    "ray": {"dataset", "pipeline", "serve"},
    "av": {"media"},
    "c2pa": {"media"},
    "diffusers": {"models"},
    "transformers": {"models"},
    "fsspec": {"filesystems"},
    "jinja2": {"report"},
}
FAMILIES = {path.name for path in (HOUSE / "models").iterdir() if path.is_dir() and path.name != "__pycache__"}
KNOW_FAMILIES = {"models", "nano"}
"""Rooms that may know a family of models: ``nano`` trains one of LatentSync's. To all others a model is its protocol."""
MOST_LINES = 350
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PLACES = r"_work|drafts|metadata|parts|uploads|run\.json"
"""Names of what lies below an output."""
ALLOWED = {"demo.py": {"metadata"}, "ceiling.py": {"parts"}}
"""Words that mean something else there, or lie in an output of the file's own."""
FILES = sorted(path for path in HOUSE.rglob("*.py") if path.name != "__main__.py" and path != HOUSE / "__init__.py")
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))


def room(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if name in rooms:
            return number
    raise AssertionError(f"{name} has no floor: give it one")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported, wherever in the file; relative imports start with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def broken_rules(me: str, source: str) -> list[str]:
    broken, my_floor = [], floor(me)
    for name in imports(ast.parse(source)):
        top, *rest = name.split(".")
        if top == "":
            broken.append(f"{name}: relative")
        elif me not in ONLY.get(top, {me}):
            broken.append(f"{top}: only for {', '.join(sorted(ONLY[top]))}")
        elif top == "latentsync_ray" and rest[:1] == ["models"] and me not in KNOW_FAMILIES and FAMILIES & set(rest[1:2]):
            broken.append(f"{name}: a family of models; ask models.find")
        elif top == "latentsync_ray" and rest and rest[0] != me and not rest[0].startswith("__"):
            neighbours = me in GROUND and rest[0] in GROUND
            if floor(rest[0]) >= my_floor and not neighbours:
                broken.append(f"{name}: floor {floor(rest[0])}, seen from {me} on floor {my_floor}")
    return broken


@pytest.mark.parametrize(
    ("me", "line", "wrong"),
    [
        ("media", "from latentsync_ray.faces.align import x", "seen from media on floor 1"),
        ("media", "from latentsync_ray import faces", "seen from media on floor 1"),
        ("stages", "def f():\n    import latentsync_ray.local", "floor 3"),
        ("stages", "import ray.data", "only for dataset, pipeline, serve"),
        ("media", "from fsspec.core import url_to_fs", "only for filesystems"),
        ("models", "from . import x", "relative"),
        ("stages", "from latentsync_ray.models.latentsync import x", "ask models.find"),
        ("nano", "from latentsync_ray.models.latentsync import x", None),
        ("media", "from latentsync_ray.media.grid import x\nimport av\nfrom latentsync_ray import __version__, storage", None),
        ("config", "from latentsync_ray.errors import ConfigError", None),
    ],
)
def test_the_rules_are_checked(me, line, wrong):
    broken = broken_rules(me, line)
    assert wrong in broken[0] if wrong else broken == []


@each_file
def test_imports_go_down_only(path):
    assert broken_rules(room(path), path.read_text()) == []


@each_file
def test_files_are_small_and_named_for_what_they_do(path):
    assert len(path.read_text().splitlines()) < MOST_LINES
    assert path.stem not in ("utils", "helpers", "common", "misc")


@each_file
def test_all_is_complete(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a file says what it knows"
    listed, bound, defined = None, set(), set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and target.id == "__all__":
                    listed = ast.literal_eval(node.value) if node.value else None
                elif isinstance(target, ast.Name):
                    # lower case is a module's own variable (``log``), the others are constants and types
                    (bound if target.id.islower() else defined).add(target.id)
    assert listed is not None, "no __all__"
    assert len(listed) == len(set(listed))
    public = {name for name in defined if not name.startswith("_")}
    assert public <= set(listed), "public, but not in __all__"
    assert set(listed) <= public | bound, "in __all__, but not there"


def test_the_front_door_leads_everywhere():
    for name in latentsync_ray.__all__:
        assert getattr(latentsync_ray, name) is not None
    assert set(dir(latentsync_ray)) == set(latentsync_ray.__all__)
    with pytest.raises(AttributeError, match="nothing_like_this"):
        latentsync_ray.nothing_like_this  # noqa: B018 - the look-up is the test


def test_importing_the_package_is_cheap():
    code = "import sys, latentsync_ray; print(*{'av', 'diffusers', 'ray', 'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@each_file
def test_only_the_layout_says_where_things_lie(path):
    """Below an output: one owner of every address."""
    source = path.read_text()
    if path.name == "layout.py" or not re.search(PLACES, source):
        return
    tree = ast.parse(source)
    said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    docs = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, DOCUMENTED)}
    wrong = {text for text in said - docs if re.fullmatch(PLACES, text) or "_work/" in text}
    assert not wrong - ALLOWED.get(path.name, set())
