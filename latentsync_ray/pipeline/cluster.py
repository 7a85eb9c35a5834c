"""The cluster itself: joining it, asking its nodes, what it has for model workers, and what it says of itself."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import ray
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from latentsync_ray import filesystems
from latentsync_ray.config import Cluster, Job, Signing
from latentsync_ray.errors import ConfigError
from latentsync_ray.faces.find import mesh_place
from latentsync_ray.layout import mark_uri
from latentsync_ray.models.find import model_names
from latentsync_ray.pipeline.shares import shares
from latentsync_ray.stages.mark import check_signing
from latentsync_ray.storage import delete, is_remote, write_bytes
from latentsync_ray.storage_options import StorageOptions

__all__ = ["check_nodes", "check_signing_there", "connect", "logs_folder", "never_began", "nodes", "without_worker_messages"]

log = logging.getLogger(__name__)

_NODE_SECONDS = 60.0
"""For a node to start a process and look for a file."""
_HEAD_SECONDS = 30.0
"""For a cluster's head to come up: Ray itself would wait for ten minutes and say nothing."""
_IDLE_SECONDS = 60
"""For a process without work to get some: Ray's one second has processes start all the time, each for seconds."""


def connect(cluster: Cluster) -> None:
    """Join the cluster, or start Ray on this machine, unless that was done; and keep Ray's own messages in its log files.

    Raises ConfigError when no cluster answers at its address.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # how it starts interests nobody; what fails is raised
    if not ray.is_initialized():
        before = signal.getsignal(signal.SIGTERM)
        if cluster.address:
            try:
                _wait_for_head(cluster.address)
                with _without_its_handler():
                    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
            except ConnectionError as error:
                raise ConfigError(f"cluster.address is {cluster.address!r}, and {_no_answer(error)}") from error
        else:
            store = int(cluster.object_store_gb * 2**30) if cluster.object_store_gb else None
            with _without_its_handler():
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=store,
                    _system_config={"idle_worker_killing_time_threshold_ms": _IDLE_SECONDS * 1000},
                )
        ray_worker._worker_logs_enabled = False  # what it tells of workers that died would be on stdout, among the results
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's would print a stack of C++
    # A pass in which every clip failed before the model is no reason for advice on how many workers to have.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    for handler in (*logging.getLogger("ray").handlers, *logging.getLogger("ray.data").handlers):
        # Ray's console; its log files keep everything, and what hears all other loggers too is not Ray's.
        if isinstance(handler, logging.StreamHandler) and handler not in logging.root.handlers:
            handler.setLevel(logging.CRITICAL)


@contextmanager
def _without_its_handler() -> Iterator[None]:
    """Meanwhile, Ray leaves the handler of SIGTERM alone if there is one: Ray's own takes 15 for the exit code, and no notice
    of what is to be tidied up. Another version of Ray may set it in another way, and then does.
    """
    before = getattr(ray_utils, "set_sigterm_handler", None)
    if before is None or not callable(signal.getsignal(signal.SIGTERM)):
        yield
        return
    ray_utils.set_sigterm_handler = lambda sigterm_handler: None
    try:
        yield
    finally:
        ray_utils.set_sigterm_handler = before


def _wait_for_head(address: str) -> None:
    """Return when something listens at ``host:port``; other addresses are Ray's to find. Raises ConnectionError."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return
    until = time.monotonic() + _HEAD_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_HEAD_SECONDS).close()
        except (OSError, OverflowError) as error:  # the second: no port has such a number
            if time.monotonic() >= until:
                raise ConnectionError(str(error)) from error
            time.sleep(1)
        else:
            return


def _no_answer(error: ConnectionError) -> str:
    """Why a cluster could not be joined. Ray names the token only in the error behind its error."""
    if "InvalidAuthToken" in str(error.__cause__):
        return (
            "the Ray cluster there wants its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN unless the token "
            "lies in ~/.ray/auth_token"
        )
    return f"no Ray cluster answers there: {error}"


@contextmanager
def without_worker_messages() -> Iterator[None]:
    """Meanwhile, what Ray tells of dead workers stays in its log files, unless it was asked to show workers' output.

    Ray prints it on stdout, among the results, with ``log_to_driver`` or without; the only switch is its debugger's.
    """
    output = getattr(ray_worker.global_worker, "logger_thread", None)
    before = ray_worker._worker_logs_enabled
    ray_worker._worker_logs_enabled = before and output is not None and output.is_alive()
    try:
        yield
    finally:
        ray_worker._worker_logs_enabled = before


def check_nodes(job: Job) -> None:
    """Ask every node of the cluster whether it sees the output and the model, where they are paths of this machine.

    Raises ConfigError that names the nodes that do not.
    """
    paths = {}
    if not is_remote(job.output):
        paths["output"] = mark_uri(job.output, uuid.uuid4().hex)
        write_bytes(paths["output"], b"")
    if Path(job.recipe.model).is_dir() and job.recipe.model not in model_names():
        paths["recipe.model"] = job.recipe.model
    if job.signing:
        for name in ("certificates", "key"):
            if (place := getattr(job.signing, name)) and not is_remote(place):
                paths[f"signing.{name}"] = place
    if (place := mesh_place(job.recipe.detector)) and not is_remote(place):
        paths["recipe.detector"] = place
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]] if paths else []
        look = ray.remote(num_cpus=0, max_retries=0)(_sees)
        answers = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answers[look.options(scheduling_strategy=there).remote(paths)] = node["NodeManagerAddress"]
        blind = {key: [] for key in paths}
        answered, silent = ray.wait(list(answers), num_returns=len(answers), timeout=_NODE_SECONDS) if answers else ([], [])
        for answer in answered:
            try:
                unseen = cast("list[str]", ray.get(answer))
            except RayError as error:  # it may have left the cluster
                log.warning("node %s could not be asked what it sees: %s", answers[answer], error)
                continue
            for key in unseen:
                blind[key].append(answers[answer])
        if silent:
            log.warning("%d of %d nodes did not say in %.0f s what they see", len(silent), len(nodes), _NODE_SECONDS)
    finally:
        delete(path for key, path in paths.items() if key == "output")
    for key, addresses in blind.items():
        if addresses:
            place = job.output if key == "output" else paths[key]
            raise ConfigError(
                f"{key} is {place}, a path that {len(addresses)} of the cluster's {len(nodes)} nodes do not see "
                f"({', '.join(addresses[:3])}): name a URI of an object store, or a folder that is mounted on all of them"
            )


def check_signing_there(job: Job) -> None:
    """Have some node of the cluster try to sign, if the job does. Raises ConfigError when it cannot."""
    if job.signing:
        tried = ray.remote(num_cpus=0, max_retries=0)(_signing_problem).remote(job.signing, job.storage_options)
        if problem := cast("str", ray.get(tried)):
            raise ConfigError(problem)


def _signing_problem(signing: Signing, options: StorageOptions) -> str:
    """Why this node cannot sign; empty when it can."""
    filesystems.configure(options)
    try:
        check_signing(signing)
    except ConfigError as error:
        return str(error)
    return ""


def _sees(paths: dict[str, str]) -> list[str]:
    """The keys of the paths that do not exist here; network filesystems may take a moment to show what was just written."""
    unseen = list(paths)
    for _ in range(10):
        unseen = [key for key, path in paths.items() if not Path(path.removeprefix("file://")).exists()]
        if not unseen:
            break
        time.sleep(0.5)
    return unseen


def nodes() -> list[dict[str, float]]:
    """What each living node has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def never_began(clips: int, cluster: Cluster) -> str:
    """What a pass that gave nothing was waiting for, and what to do about it."""
    asked, present, free = shares(cluster, nodes()), ray.cluster_resources(), ray.available_resources()
    has = " and ".join(f"{present.get(kind, 0):g} {kind} ({free.get(kind, 0):g} free)" for kind in ("GPU", "CPU"))
    cpus = ", ".join(f"{ask['num_cpus']:g} CPU to {name}" for name, ask in asked.of.items())
    gpus = next((ask["num_gpus"] for ask in asked.of.values() if "num_gpus" in ask), 0)
    return (
        f"of {clips} clips nothing came in {cluster.no_progress_seconds:.0f} s. Asked for: at least {asked.workers[0]} model "
        f"workers of {gpus:g} GPU each, and by task {cpus}; the cluster has {has}. If that is too little, let it grow or lower "
        "cluster.generate_gpus, cluster.generate_workers or cluster.generate_cpus; if the model or the first clip takes "
        f"longer, raise cluster.no_progress_seconds; `ray status` and Ray's logs{logs_folder()} say more. Run the job again "
        "then: no clip was recorded as failed for it"
    )


def logs_folder() -> str:
    """Where Ray's logs lie, in brackets; empty where Ray does not say it, as to a driver outside the cluster."""
    context = ray.get_runtime_context()
    try:
        return f" ({context.get_temp_dir()}/{context.get_session_name()}/logs)"
    except AttributeError:
        return ""
