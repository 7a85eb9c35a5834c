"""A server of its own process, to be killed: python tests/serve_process.py FOLDER PORT [DATABASE]"""

from __future__ import annotations

import sys
import time

from serve_harness import make_settings, running

from latentsync_ray.serve.failures import reclaim
from latentsync_ray.serve.server import Server

LEASE_SECONDS = 120
"""Longer than a busy machine may keep a worker from renewing it."""


def main(folder: str, port: str, database: str = "") -> None:
    settings = make_settings(folder, database=database, lease_seconds=LEASE_SECONDS)
    if not database:
        reclaim(Server.of(settings).queue, settings)  # as the command does for the folder that is its alone
    with running(settings, port=int(port)):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
