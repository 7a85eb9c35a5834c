"""The endpoint ``fal-ai/latentsync`` on one's own Ray cluster, for the clients that people have.

routes/      what comes in by HTTP       app.py, hosts.py   put together, and fal's four hosts as one
queue.py     what was accepted           tables.py          ... as SQLite or PostgreSQL keep it
dispatcher   who does it when            worker.py          ... and what is done
fetch.py     inputs from strangers       files.py           uploads and results
deploy.py    all of it on Ray Serve; the only file here that knows Ray
"""

from __future__ import annotations

from typing import Any

__all__ = ["build"]


def build(arguments: dict[str, str]) -> Any:
    """A Ray Serve application; see ``deploy.build``."""
    from latentsync_ray.serve import deploy

    return deploy.build(arguments)
