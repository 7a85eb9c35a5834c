"""The tables of the durable queue, for SQLite and PostgreSQL alike. Times are seconds since 1970, UTC."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, BigInteger, Engine, Index, Integer, String, Text, UniqueConstraint, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from latentsync_ray.errors import ConfigError
from latentsync_ray.extras import install_command

__all__ = ["COMPLETED", "IN_PROGRESS", "IN_QUEUE", "FileRow", "KeyRow", "LogRow", "RequestRow", "SecretRow", "connect"]

# The three states of a request, by the names that clients know; failed and cancelled ones are completed too.
IN_QUEUE = "IN_QUEUE"
IN_PROGRESS = "IN_PROGRESS"
COMPLETED = "COMPLETED"


_CONNECT_SECONDS = "10"
_ROW_NUMBER = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by itself only when they are INTEGER


class _Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON}  # noqa: RUF012  # SQLAlchemy's own convention


class RequestRow(_Base):
    """One request, from its acceptance until its result is cleaned away."""

    __tablename__ = "requests"
    __table_args__ = (
        UniqueConstraint("key_name", "idempotency_key"),
        Index("requests_in_order", "status", "priority", "created"),
        Index("requests_of_key", "key_name", "status"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    key_name: Mapped[str] = mapped_column(String(64))
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(16), default=IN_QUEUE)
    arguments: Mapped[dict[str, Any]]
    """video_url, audio_url (files of this server by their tokens), guidance_scale, loop_mode, seed (drawn when none came)."""
    base: Mapped[str] = mapped_column(Text)
    """How the client reaches this server: where its result's URL starts."""
    priority: Mapped[int] = mapped_column(default=0)
    """Smaller is sooner."""
    created: Mapped[float]
    started: Mapped[float | None]
    finished: Mapped[float | None]
    start_before: Mapped[float | None]
    attempts: Mapped[int] = mapped_column(default=0)
    """How often it was begun; also tells a worker whether the request is still its own."""
    lease: Mapped[float | None]
    """Until when whoever works on it counts as alive."""
    cancelled: Mapped[bool] = mapped_column(default=False)
    code: Mapped[int | None]
    """HTTP status of the result."""
    body: Mapped[dict[str, Any] | None]
    """The output, or the error's body."""
    record: Mapped[dict[str, Any] | None]
    """The clip's record."""
    cost: Mapped[float | None]
    webhook: Mapped[str | None] = mapped_column(Text)
    webhook_attempts: Mapped[int] = mapped_column(default=0)
    webhook_due: Mapped[float | None] = mapped_column(index=True)
    """When to deliver next; none: nothing to deliver, or done."""


class LogRow(_Base):
    """One line about the work on a request."""

    __tablename__ = "logs"

    id: Mapped[int] = mapped_column(_ROW_NUMBER, primary_key=True)
    request_id: Mapped[str] = mapped_column(String(36), index=True)
    time: Mapped[float]
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str] = mapped_column(Text)


class FileRow(_Base):
    """An upload or a result, served to whoever knows its token."""

    __tablename__ = "files"

    token: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    """As shown to people and browsers; never part of a path."""
    content_type: Mapped[str] = mapped_column(String(128))
    key_name: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int | None] = mapped_column(BigInteger)
    """None until it is complete."""
    arrived: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of its parts so far; a part that was sent again counts again."""
    created: Mapped[float] = mapped_column(index=True)
    result: Mapped[bool] = mapped_column(default=False)


class KeyRow(_Base):
    """Who may call."""

    __tablename__ = "keys"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)


class SecretRow(_Base):
    """What all replicas have to share: the key that signs webhooks."""

    __tablename__ = "secrets"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


def connect(url: str) -> Engine:
    """An engine whose tables exist. Raises ConfigError when the database cannot be used."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            engine = _sqlite(url, Path(parsed.database or ""))
        else:
            if parsed.drivername == "postgresql+psycopg" and "connect_timeout" not in parsed.query:
                parsed = parsed.update_query_dict({"connect_timeout": _CONNECT_SECONDS})
            engine = create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
        _Base.metadata.create_all(engine)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        shown = re.sub(r":[^:@/]*@", ":***@", url)
        missing = f"; {install_command('postgres')}" if isinstance(error, ModuleNotFoundError) else ""
        raise ConfigError(f"database {shown!r} is not a usable SQLAlchemy URL: {error}{missing}") from error
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise ConfigError(f"the database {make_url(url).render_as_string()} cannot be used: {reason}") from error
    return engine


def _sqlite(url: str, path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": 30}, hide_parameters=True)  # errors would quote requests

    def prepare(connection: Any, _: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):  # accepted means on disk
            connection.execute(f"PRAGMA {pragma}")

    event.listen(engine, "connect", prepare)
    return engine
