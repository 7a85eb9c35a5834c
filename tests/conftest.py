"""Where test data lies, what keeps one test's traces from the next, and which tests share a process and its Ray.

Each skip names what is missing.
"""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import fsspec
import pytest
from fsspec.registry import registry as filesystems

from latentsync_ray import filesystems as our_filesystems
from latentsync_ray import lease, redact

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
_ON_RAY = (
    *("test_job.py", "test_pipeline.py", "test_dataset.py", "test_metrics.py"),
    *("test_forecast.py", "test_watch.py", "test_family.py"),
)
"""Files that share one Ray: they run one after the other in one process."""
_LONGEST = (*_ON_RAY, "test_endpoint.py", "test_nano.py", "test_survival.py", "test_evaluate.py", "test_notebooks.py")
"""Files that take a minute or more. They begin, so that two processes end at about the same time."""
_NEXT = pytest.StashKey[pytest.Item | None]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; otherwise the order stays as it is, by file or shuffled by pytest-randomly."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Several processes share the work by file, whatever ``--dist`` says: what a file needs is then made once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "on Ray" if Path(file).name in _ON_RAY else file

    config.option.loadscopereorder = False  # in the order above, not the files with many tests first
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    item.session.stash[_NEXT] = nextitem


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the models, downloads and settings of whoever runs it, nor do fixtures that live longer than a test."""
    import cv2
    import torch

    torch.set_num_threads(1)  # as a model on a CPU does: more of them change last bits, even from call to call
    cv2.setNumThreads(1)  # as the stages do
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("LATENTSYNC_RAY_", "HF_", "XDG_"))]:
            patch.delenv(name)
        home = tmp_path_factory.mktemp("machine")
        for tool, folder in _TOOLS.items():
            patch.setenv(tool, os.environ.get(tool) or str(Path(folder).expanduser()))
        patch.setenv("HOME", str(home))
        patch.setenv("LATENTSYNC_RAY_CACHE", str(home / "cache"))
        patch.setenv("LATENTSYNC_RAY_MODELS", str(home / "models"))
        patch.setenv("HF_HOME", str(home / "hub"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # or a process of its own counts what is used
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 makes its workers wait for ever on a busy machine
        yield


_TOOLS = {"npm_config_cache": "~/.npm", "MPLCONFIGDIR": "~/.cache/matplotlib", "PYRIGHT_PYTHON_CACHE_DIR": "~/.cache"}
"""Caches of the programs that tests start, which would be filled anew from the network or for half a minute."""


@pytest.fixture(scope="module", autouse=True)
def _file_alone(_nothing_of_this_machine: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """What the fixtures of a file change is undone with its last test; Ray goes on if the next file shares it."""
    with _undone():
        yield
    following = request.session.stash[_NEXT]
    ray = sys.modules.get("ray")
    if ray and ray.is_initialized() and (following is None or following.path.name not in _ON_RAY):
        ray.shutdown()


@pytest.fixture(autouse=True)
def _alone(_file_alone: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every test begins with the same globals and a download cache of its own; whatever it changes is undone."""
    with _undone(), _ray():
        os.environ["LATENTSYNC_RAY_CACHE"] = str(tmp_path_factory.getbasetemp() / "caches" / uuid.uuid4().hex)
        yield


@contextmanager
def _undone() -> Iterator[None]:
    with ExitStack() as stack:
        for undo in (_environment, _folder, _logging, _threads, _ray_data, _memory, _package):
            stack.enter_context(undo())
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
    def levels() -> dict[str, tuple[int, list[tuple[logging.Handler, int]], bool]]:
        families = ("latentsync_ray", "ray")
        names = ["", *(name for name in logging.root.manager.loggerDict if name.partition(".")[0] in families)]
        loggers = {name: logging.getLogger(name or None) for name in names}
        return {
            name: (logger.level, [(handler, handler.level) for handler in logger.handlers], logger.propagate)
            for name, logger in loggers.items()
        }

    before = levels()
    yield
    for name in levels():
        if name in before or not name.startswith("ray"):  # Ray sets its loggers up once, when it is imported
            logger = logging.getLogger(name or None)
            level, handlers, logger.propagate = before.get(name, (logging.NOTSET, [], True))
            logger.setLevel(level)
            logger.handlers[:] = [handler for handler, _ in handlers]
            for handler, threshold in handlers:
                handler.setLevel(threshold)


@contextmanager
def _threads() -> Iterator[None]:
    """The stages set how many threads the process uses, which changes last bits of a model's."""
    import cv2
    import torch  # also when the first to want it is the test: it would leave its own number behind

    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@contextmanager
def _ray() -> Iterator[None]:
    """A cluster that a test started is ended; the one of its file is not."""
    started = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    yield
    if not started and "ray" in sys.modules and sys.modules["ray"].is_initialized():
        sys.modules["ray"].shutdown()


@contextmanager
def _ray_data() -> Iterator[None]:
    context = getattr(sys.modules.get("ray.data"), "DataContext", None)
    before = context and context.get_current().copy()
    yield
    if context:
        context._set_current(before)


@contextmanager
def _memory() -> Iterator[None]:
    """fsspec's in-memory filesystem belongs to the process, and so do its instances of all filesystems."""
    yield
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    for kind in set(filesystems.values()):
        kind.clear_instance_cache()


@contextmanager
def _package() -> Iterator[None]:
    """What the package remembers between calls."""
    yield
    lease._HELD.clear()
    our_filesystems.configure({})
    redact._hidden.clear()
    for name, module in list(sys.modules.items()):
        if name.startswith("latentsync_ray."):
            for cached in _cached_functions(module):
                cached.cache_clear()


@functools.cache
def _cached_functions(module: ModuleType) -> list[Any]:
    return [value for value in vars(module).values() if isinstance(value, functools._lru_cache_wrapper)]


@pytest.fixture(scope="module")
def ray_cluster(_file_alone: None) -> None:
    """Ray on this machine with two CPUs, whose workers find this checkout and the tests' modules."""
    import ray
    from ray.data import DataContext

    DataContext.get_current().default_hash_shuffle_parallelism = 4  # 200 take half a minute on two CPUs
    if ray.is_initialized():
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")]))
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=600 << 20,
            _system_config={
                "num_workers_soft_limit": 8,
                "idle_worker_killing_time_threshold_ms": 600_000,
                "metrics_report_interval_ms": 1000,  # instead of ten seconds
            },
        )


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An output folder on disk, and one in an object store."""
    return str(tmp_path / "out") if request.param == "local" else "memory://out"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs to mount a small tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


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
