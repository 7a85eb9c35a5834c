"""What a server can be told, as one strict YAML file (``configs/serve.yaml``). Knows no Ray, no database and no HTTP."""

from __future__ import annotations

import hashlib
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from latentsync_ray.config import Recipe, Signing
from latentsync_ray.errors import ConfigError
from latentsync_ray.types import Device

__all__ = ["Key", "Limits", "Network", "Settings", "Tariff", "Webhooks", "hash_key", "load_settings"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Limits(_Strict):
    """What one key may ask for."""

    queued_requests: Annotated[int, Field(ge=1)] = 100
    """Unfinished requests at a time; more are answered with 429, upon which clients wait and try again."""
    stored_bytes: Annotated[int, Field(ge=1)] = 20 * 10**9
    """Uploads kept at a time."""
    input_bytes: Annotated[int, Field(ge=1)] = 2 * 10**9
    """One video or speech, uploaded, fetched or inline."""
    inline_bytes: Annotated[int, Field(ge=1)] = 50 * 10**6
    """Body of one request: inputs as ``data:`` URIs are part of it."""
    output_seconds: Annotated[float, Field(gt=0)] = 600
    """Longest speech, and so longest result. What is decoded of longer inputs is bounded by ``recipe.max_seconds``."""


class Key(_Strict):
    """Who may call, known by the hash of the secret alone."""

    name: Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")]
    """Stands in logs and records."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """``latentsync-ray serve-key --print-only NAME`` makes a secret and prints this."""
    limits: Limits = Limits()


class Network(_Strict):
    """Where inputs may be fetched from, and webhooks sent to: public http(s) addresses, unless more is allowed here."""

    allow: tuple[str, ...] = ()
    """Networks (``10.0.8.0/24``) or addresses that are reached although they are private."""
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = ()
    """Ports that may be dialled; empty: any."""
    redirects: Annotated[int, Field(ge=0, le=20)] = 5
    connect_seconds: Annotated[float, Field(gt=0)] = 10
    read_seconds: Annotated[float, Field(gt=0)] = 20
    """Longest silence of a server that is sending."""
    total_seconds: Annotated[float, Field(gt=0)] = 300
    """Longest download of one input: a drip must not hold a worker."""

    @field_validator("allow")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            ip_network(each, strict=False)
        return value


class Tariff(_Strict):
    """What a request costs, from the seconds of its output: the hosted endpoint's rule."""

    minimum: Annotated[float, Field(ge=0)] = 0.2
    """Dollars for up to ``included_seconds``."""
    included_seconds: Annotated[float, Field(ge=0)] = 40
    per_second: Annotated[float, Field(ge=0)] = 0.005
    """Dollars for each second, the first one too, of anything longer."""

    def cost(self, seconds: float) -> float:
        """Dollars for ``seconds`` of output."""
        return round(self.minimum if seconds <= self.included_seconds else seconds * self.per_second, 6)


class Webhooks(_Strict):
    """How results are delivered to those who asked for it."""

    attempts: Annotated[int, Field(ge=1, le=50)] = 10
    timeout_seconds: Annotated[float, Field(gt=0)] = 15
    first_wait_seconds: Annotated[float, Field(gt=0)] = 7
    """Before the second attempt; doubles from there, so that ten attempts take about an hour."""


class Settings(_Strict):
    """One server."""

    recipe: Recipe = Recipe()
    device: Device = "auto"
    signing: Signing | None = None
    """Sign results with Content Credentials (C2PA), as jobs do."""
    folder: str = "serve-data"
    """Uploads and results: a folder, or a URI that every node reaches."""
    database: str = ""
    """SQLAlchemy URL, such as ``postgresql+psycopg://user@host/name``; by default SQLite in ``folder``."""
    public_url: str = ""
    """How clients reach this server, for the URLs that it hands out; by default what each request says."""
    keys: tuple[Key, ...] = ()
    """Those who may call, besides those that the database knows."""
    browser_key: str = ""
    """Name of the key that pays for what browsers send through the proxy route without one; empty: refused."""
    network: Network = Network()
    tariff: Tariff = Tariff()
    webhooks: Webhooks = Webhooks()
    result_seconds: Annotated[float, Field(ge=3600)] = 24 * 3600
    """How long results and uploads are kept."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """How often a request whose worker died is begun."""
    lease_seconds: Annotated[float, Field(ge=2)] = 30
    """After so long without a sign of life a running request counts as abandoned."""
    maximum_seconds: Annotated[float, Field(gt=0)] = 3600
    """Longest work on one request."""
    replicas: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] = (1, 1)
    """Fewest and most model workers."""
    replica_gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs per model worker; by default 1 where the cluster has any."""
    replica_cpus: Annotated[float, Field(ge=0)] = 1
    ingress_replicas: Annotated[int, Field(ge=1)] = 1
    """More than one needs a database and a folder that all of them share."""

    @field_validator("folder")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return value if "://" in value else str(Path(value).expanduser().absolute())

    @field_validator("public_url")
    @classmethod
    def _bare(cls, value: str) -> str:
        return value.rstrip("/")

    @property
    def database_url(self) -> str:
        """Where the queue is. Raises ConfigError when the folder is remote and no database is named."""
        if self.database:
            return self.database
        if "://" in self.folder:
            raise ConfigError(f"folder {self.folder} is remote: name a database, e.g. postgresql+psycopg://user@host/name")
        return f"sqlite:///{self.folder}/queue.sqlite"


def load_settings(path: str | Path | None = None, **overrides: Any) -> Settings:
    """Settings from YAML, with top-level ``overrides`` that are not None. Raises ConfigError, naming every wrong key."""
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8")) if path else {}
    except OSError as error:
        raise ConfigError(f"cannot read the server's settings {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree or {}, dict):
        raise ConfigError(f"{path} must hold a mapping with the keys {', '.join(Settings.model_fields)}")
    try:
        return Settings.model_validate(
            {**(tree or {}), **{name: value for name, value in overrides.items() if value is not None}}
        )
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        problems += f"; known here: {', '.join(Settings.model_fields)}" if "extra_forbidden" in str(error.errors()) else ""
        raise ConfigError(f"{path or 'options'}: {problems}") from error


def hash_key(secret: str) -> str:
    """What is kept of a key. Keys are random and long, so that a plain hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()
