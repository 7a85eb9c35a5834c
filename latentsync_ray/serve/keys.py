"""Who is calling: keys by their hashes, short-lived upload tokens, and the pair of keys that signs webhooks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import math
import re
import secrets
import time
from collections.abc import Callable

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from latentsync_ray.serve.settings import Key, Limits, Settings, hash_key
from latentsync_ray.serve.tables import KeyRow, SecretRow

__all__ = ["Keys", "new_key"]

_LOG = logging.getLogger(__name__)
_TOKEN_SECONDS = 3600
_REMEMBERED_SECONDS = 5.0
"""A key that is taken away works for so long."""


def new_key() -> str:
    """A secret to call with, of 256 random bits."""
    return f"lsr_{secrets.token_urlsafe(32)}"


class Keys:
    """The keys of a server, from its settings and its database."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._configured = settings.keys
        self._names = {key.name for key in settings.keys}
        self._cached: tuple[float, list[Key]] = (-math.inf, [])
        self._secret = self._shared("tokens", lambda: secrets.token_hex(32)).encode()

    def add(self, name: str, secret: str) -> None:
        """Let ``secret`` in as ``name``, instead of that name's former secret."""
        with Session(self._engine) as session, session.begin():
            for row in session.scalars(select(KeyRow).where((KeyRow.name == name) | (KeyRow.sha256 == hash_key(secret)))):
                session.delete(row)
            session.flush()
            session.add(KeyRow(sha256=hash_key(secret), name=name))
        self._cached = (-math.inf, [])

    def remove(self, name: str) -> bool:
        """Let nobody in as ``name`` by the database any more; whether somebody was."""
        with Session(self._engine) as session, session.begin():
            rows = session.scalars(select(KeyRow).where(KeyRow.name == name)).all()
            for row in rows:
                session.delete(row)
        self._cached = (-math.inf, [])
        return bool(rows)

    def empty(self) -> bool:
        """Whether nobody could call."""
        with Session(self._engine) as session:
            return not self._configured and session.scalar(select(KeyRow).limit(1)) is None

    def caller(self, authorization: str | None, *, uploading: bool = False) -> Key | None:
        """Who sent this ``Authorization`` header (``Key SECRET``, ``Bearer TOKEN`` when ``uploading``); None: nobody."""
        scheme, _, credential = (authorization or "").partition(" ")
        credential = credential.strip()
        if not credential or scheme.lower() not in ("key", "bearer"):
            return None
        digest = hash_key(credential)
        for key in (*self._configured, *self._stored()):
            if hmac.compare_digest(key.sha256, digest):
                return key
        return self._of_token(credential) if uploading and scheme.lower() == "bearer" else None

    def named(self, name: str) -> Key | None:
        """The key of that name."""
        return next((key for key in (*self._configured, *self._stored()) if key.name == name), None)

    def token(self, key: Key) -> tuple[str, float]:
        """A credential for uploads alone, and when it ends (seconds since 1970)."""
        expires = int(time.time()) + _TOKEN_SECONDS
        return f"{key.name}.{expires}.{self._sign(key.name, expires)}", float(expires)

    def capability(self, token: str) -> str:
        """What lets its holder send the content of the file ``token``, which those who may read it cannot guess."""
        return f"{token}.{self._sign(token, 0)}"

    def token_of(self, capability: str) -> str | None:
        """The file that ``capability`` is for; None when it is none of ours."""
        token, _, signature = capability.partition(".")
        return token if hmac.compare_digest(signature.encode(), self._sign(token, 0).encode()) else None

    def _of_token(self, token: str) -> Key | None:
        claim, _, signature = token.rpartition(".")
        name, _, expires = claim.rpartition(".")
        if not re.fullmatch(r"[0-9]{1,12}", expires) or not hmac.compare_digest(
            signature.encode(), self._sign(name, int(expires)).encode()
        ):
            return None
        return self.named(name) if int(expires) > time.time() else None

    def _sign(self, name: str, expires: int) -> str:
        return hmac.new(self._secret, f"{name}\n{expires}".encode(), hashlib.sha256).hexdigest()

    def signer(self) -> Ed25519PrivateKey:
        """What signs webhooks, the same for all replicas and after every restart."""

        def fresh() -> str:
            raw = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
            )
            return base64.b64encode(raw).decode()

        return Ed25519PrivateKey.from_private_bytes(base64.b64decode(self._shared("webhooks", fresh)))

    @property
    def old(self) -> bool:
        """Whether what is known of the database's keys should be read again."""
        return time.monotonic() - self._cached[0] > _REMEMBERED_SECONDS

    def refresh(self) -> None:
        """Read the keys again. While the database does not answer, those that were known are good."""
        before = self._cached
        if before[0] > -math.inf:
            self._cached = time.monotonic(), before[1]  # other callers need not do the same
        try:
            self._cached = time.monotonic(), self._read()
        except SQLAlchemyError as error:
            if before[0] == -math.inf:
                raise
            _LOG.warning("the database does not answer, its keys are used as they were: %s", type(error).__name__)

    def _stored(self) -> list[Key]:
        """Those in the database. A name that the settings know is theirs alone."""
        if self.old:
            self.refresh()
        return [key for key in self._cached[1] if key.name not in self._names]

    def _read(self) -> list[Key]:
        with Session(self._engine) as session:
            return [Key(name=row.name, sha256=row.sha256, limits=Limits()) for row in session.scalars(select(KeyRow))]

    def _shared(self, name: str, fresh: Callable[[], str]) -> str:
        """The secret of that name, made by whoever asks first."""
        with Session(self._engine) as session:
            row = session.get(SecretRow, name)
            if row:
                return row.value
        try:
            with Session(self._engine) as session, session.begin():
                session.add(SecretRow(name=name, value=fresh()))
        except IntegrityError:
            pass  # another replica was faster
        return self._shared(name, fresh)
