"""Delivering results to those who asked for it, signed so that they can tell who sent them.

The signature is Ed25519 over four lines: request id, user id, Unix time, SHA-256 of the body; receivers find the public key
in the server's JWKS (RFC 7517, RFC 8037).
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from latentsync_ray.serve.fetch import FetchError, post
from latentsync_ray.serve.queue import Queue
from latentsync_ray.serve.settings import Settings
from latentsync_ray.serve.tables import RequestRow

__all__ = ["WebhookSender", "jwks", "notice"]

_LOG = logging.getLogger(__name__)
_LONGEST_WAIT = 1800.0
_AT_ONCE = 8
_GRACE = 15.0
"""Seconds after an attempt's longest time, at which it counts as never made: whoever made it went away."""


class WebhookSender:
    """Delivers what is due; each attempt is noted in the queue before the next, so that a restart goes on."""

    def __init__(self, queue: Queue, settings: Settings, signer: Ed25519PrivateKey) -> None:
        self._queue, self._settings, self._signer = queue, settings, signer

    def deliver_due(self) -> int:
        """One attempt for every webhook whose time has come; how many those were."""
        due = self._queue.due_webhooks()
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # one receiver that hangs must not hold up the others
            list(pool.map(self._attempt, due))
        return len(due)

    def _attempt(self, row: RequestRow) -> None:
        options, body = self._settings.webhooks, json.dumps(notice(row)).encode()
        if not self._queue.claim_webhook(row, until=time.time() + options.timeout_seconds + _GRACE):
            return
        try:
            status = post(
                str(row.webhook),
                body,
                self.headers(row.id, row.key_name, body),
                network=self._settings.network,
                timeout=options.timeout_seconds,
            )
            problem = "" if 200 <= status < 300 else f"it answered {status}"
        except FetchError as error:
            problem = str(error)
        number = row.webhook_attempts + 1
        if not problem:
            self._queue.log(row.id, f"webhook delivered at attempt {number}")
            self._queue.delivered(row, again_at=None)
            return
        last = number >= options.attempts
        wait = min(_LONGEST_WAIT, options.first_wait_seconds * 2 ** (number - 1)) * random.uniform(0.8, 1.2)
        end = "given up" if last else f"again in {wait:.0f} s"
        self._queue.log(row.id, f"webhook attempt {number} failed ({problem}); {end}", level="ERROR" if last else "WARN")
        self._queue.delivered(row, again_at=None if last else time.time() + wait)
        _LOG.warning("request %s: webhook attempt %d failed: %s; %s", row.id, number, problem, end)

    def headers(self, request_id: str, user_id: str, body: bytes) -> dict[str, str]:
        """The headers that a delivery of ``body`` carries now."""
        moment = str(int(time.time()))
        message = "\n".join((request_id, user_id, moment, hashlib.sha256(body).hexdigest())).encode()
        return {
            "Content-Type": "application/json",
            "X-Fal-Webhook-Request-Id": request_id,
            "X-Fal-Webhook-User-Id": user_id,
            "X-Fal-Webhook-Timestamp": moment,
            "X-Fal-Webhook-Signature": self._signer.sign(message).hex(),
        }


def notice(row: RequestRow) -> dict[str, Any]:
    """What a webhook is told of a completed request."""
    good = row.code == 200
    return {
        "request_id": row.id,
        "gateway_request_id": row.id,
        "status": "OK" if good else "ERROR",
        "error": None if good else f"Invalid status code: {row.code}",
        "payload": row.body,
    }


def jwks(signer: Ed25519PrivateKey) -> dict[str, Any]:
    """The public key, for whoever verifies."""
    public = signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    x = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
    name = hashlib.sha256(public).hexdigest()[:16]
    return {"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": name, "x": x}]}
