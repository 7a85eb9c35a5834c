"""The server on Ray Serve: an ingress that answers, one dispatcher, and model workers that scale with the queue."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.config import AutoscalingConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from ray.util.metrics import Counter, Gauge, Histogram
from sqlalchemy.exc import SQLAlchemyError

from latentsync_ray.errors import ConfigError, DeviceLost
from latentsync_ray.serve.app import build_app
from latentsync_ray.serve.dispatcher import Dispatcher, WorkerGone, WorkFailed
from latentsync_ray.serve.hosts import HostRouting
from latentsync_ray.serve.server import Server
from latentsync_ray.serve.settings import Settings, load_settings
from latentsync_ray.serve.worker import Worker
from latentsync_ray.stages.table import TIMED

__all__ = ["DispatcherReplica", "Dubber", "Ingress", "build", "deploy", "launch", "log_folder", "metrics_url", "stop"]

_NAME = "latentsync"
_LOGGING = LoggingConfig(encoding="JSON")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""Which Ray puts into its tracebacks."""
_WAITING = 2
"""Requests on their way beyond one for each worker: they show the autoscaler that there is more to do."""
_UPSCALE_SECONDS = 10
"""Requests that wait for so long get another worker; what one clip takes, about."""
_CONNECTIONS = 1000
"""Calls that one ingress replica holds: waiting ``run`` calls and event streams among them."""
_BOUNDARIES = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000]


class Dubber:
    """A model worker: one request at a time, in a thread, so that Ray sees that it is alive."""

    def __init__(self, settings: dict[str, Any]) -> None:
        _log_as_serve_does()
        parsed = Settings.model_validate(settings)
        server = Server.of(parsed)
        self._queue = server.queue
        self._worker = Worker(parsed, server.queue, server.files)
        self._waited = Histogram("latentsync_waiting_seconds", "From acceptance to start.", boundaries=_BOUNDARIES)
        self._stages = Histogram(
            "latentsync_stage_seconds", "Work per request and stage.", boundaries=_BOUNDARIES, tag_keys=("stage",)
        )
        self._results = Counter("latentsync_requests", "Finished requests by error code (ok: none).", tag_keys=("code",))
        self._output = Counter("latentsync_output_seconds", "Seconds of video made.")

    async def work(self, request_id: str) -> None:
        """Do one request of the queue."""
        try:
            record = await asyncio.to_thread(self._worker.work, request_id)
        except DeviceLost:
            os._exit(1)  # only a new process gets the device back
        row = await asyncio.to_thread(self._queue.get, request_id)
        if row and row.started:
            self._waited.observe(row.started - row.created)
            self._results.inc(tags={"code": (record.error_code or "ok") if record else str(row.code)})
        if record and record.ok:
            self._output.inc(record.duration or 0)
            for stage in TIMED:
                self._stages.observe(getattr(record, f"{stage}_seconds", None) or 0, tags={"stage": stage})


class DispatcherReplica:
    """The dispatcher, with Ray between it and the workers."""

    def __init__(self, settings: dict[str, Any], dubber: DeploymentHandle) -> None:
        _log_as_serve_does()
        parsed = Settings.model_validate(settings)
        self._server, self._dubber = Server.of(parsed), dubber
        self._depth = Gauge("latentsync_queue_depth", "Requests by state.", tag_keys=("state",))
        dispatcher = Dispatcher(self._server, self._send, ahead=parsed.replicas[1] + _WAITING)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(dispatcher.run()), loop.create_task(self._measure())]

    async def check_health(self) -> None:
        """Ray replaces this replica when one of its loops has ended."""
        for task in self._tasks:
            if task.done():
                task.result()
                raise RuntimeError("a loop of the dispatcher ended")

    async def _send(self, request_id: str) -> None:
        try:
            await self._dubber.work.remote(request_id)
        except RayTaskError as error:
            if isinstance(error.cause, SQLAlchemyError):
                raise WorkerGone("the database did not answer") from error
            raise WorkFailed(_COLOURS.sub("", error.traceback_str)) from error
        except RayError as error:
            raise WorkerGone(type(error).__name__) from error

    async def _measure(self) -> None:
        while True:
            for state, count in (await asyncio.to_thread(self._server.queue.counts)).items():
                self._depth.set(count, tags={"state": state})
            await asyncio.sleep(2)


@serve.ingress()
class Ingress:
    """The HTTP routes; holds nothing that another replica would not find in the database."""

    def __init__(self, settings: dict[str, Any], dispatcher: DeploymentHandle) -> None:
        self._server = Server.of(Settings.model_validate(settings))
        self._dispatcher = dispatcher  # binds the three into one application

    def __serve_build_asgi_app__(self) -> HostRouting:
        return build_app(self._server)


def launch(settings: Settings, *, address: str | None = None, metrics_port: int | None = None) -> None:
    """Start Ray here, or join the cluster at ``address``, and on it everything but the ingress; returns when the model is warm.

    Ray's metrics, and this server's among them, are at ``metrics_port`` of this machine, unless a cluster is joined.

    For one process that answers HTTP by itself: Serve's own proxy takes several milliseconds of two processes for each status
    call, and a waiting client makes ten a second.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    own: dict[str, Any] = {} if address else {"_metrics_export_port": metrics_port}
    ray.init(
        address=address or "local",
        include_dashboard=None if address else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        **own,
    )
    serve.start(proxy_location="Disabled", logging_config=_LOGGING)
    serve.run(_with_dispatcher(settings), name=_NAME, route_prefix=None, logging_config=_LOGGING)


def log_folder() -> str:
    """Where Ray keeps the lines of workers and dispatcher on this machine, as JSON."""
    return f"/tmp/ray/{ray.get_runtime_context().get_session_name()}/logs/serve"


def metrics_url() -> str:
    """Where Prometheus finds the metrics of the machine that this process is on."""
    own = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


def stop(*, joined: bool) -> None:
    """End what ``launch`` began, on a cluster that was ``joined`` or was its own; requests in work go back to the queue."""
    if not ray.is_initialized():
        return
    if joined:
        serve.delete(_NAME, _blocking=False)  # a cluster of one's own goes as a whole
    ray.shutdown()


def deploy(settings: Settings) -> serve.Application:
    """The whole application, ingress included, for ``serve.run``. Needs a running Ray."""
    ingress = serve.deployment(Ingress).options(
        num_replicas=settings.ingress_replicas, max_ongoing_requests=_CONNECTIONS, ray_actor_options={"num_cpus": 0}
    )
    return ingress.bind(settings.model_dump(mode="json"), _with_dispatcher(settings))


def build(arguments: dict[str, str]) -> serve.Application:
    """For ``serve run latentsync_ray.serve:build config=configs/serve.yaml`` and Serve's own YAML files."""
    unknown = arguments.keys() - {"config", "folder", "database"}
    if unknown:
        raise ConfigError(f"{', '.join(sorted(unknown))}: takes config, folder and database; all else is in the config's file")
    if not ray.is_initialized():  # ``serve run`` builds before it connects, and whether there are GPUs decides what is built
        ray.init(namespace="serve")
    return deploy(load_settings(arguments.get("config"), folder=arguments.get("folder"), database=arguments.get("database")))


def _with_dispatcher(settings: Settings) -> serve.Application:
    """Dispatcher and workers."""
    machines = sum(bool(node["Alive"]) for node in ray.nodes())
    if machines > 1 and settings.database_url.startswith("sqlite"):
        raise ConfigError(
            f"this cluster has {machines} machines: they need a database (database: postgresql+psycopg://user@host/name) "
            "and a folder that all of them reach"
        )
    Server.of(settings)  # makes the tables, and fails here rather than in replicas
    gpus = settings.replica_gpus
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU") and settings.device in ("auto", "cuda") else 0.0
    fewest, most = settings.replicas
    scale: dict[str, Any] = {"num_replicas": most}
    if fewest != most:
        wanted = AutoscalingConfig(
            min_replicas=fewest,
            max_replicas=most,
            initial_replicas=max(1, fewest),
            target_ongoing_requests=1,
            upscale_delay_s=_UPSCALE_SECONDS,
        )
        scale = {"autoscaling_config": wanted}
    dubber = serve.deployment(Dubber).options(
        **scale,
        max_ongoing_requests=1,
        ray_actor_options={"num_cpus": settings.replica_cpus, "num_gpus": gpus},
        health_check_timeout_s=120,
        graceful_shutdown_timeout_s=settings.maximum_seconds,  # a worker that is one too many ends its request first
    )
    dispatcher = serve.deployment(DispatcherReplica).options(num_replicas=1, ray_actor_options={"num_cpus": 0})
    plain = settings.model_dump(mode="json")
    return dispatcher.bind(plain, dubber.bind(plain))


def _log_as_serve_does() -> None:
    """This package's lines into the replica's log, as JSON, among Serve's own."""
    own = logging.getLogger("latentsync_ray")
    own.setLevel(logging.INFO)
    own.handlers = logging.getLogger("ray.serve").handlers
