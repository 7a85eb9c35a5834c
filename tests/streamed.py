"""A Dataset of two clips, of which the second gets its speech when the first has come out: run as a process with its own Ray.

Ray Data begins no later step of a pipeline while an earlier one holds what CPUs there are, so it gets eight.
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pyarrow as pa
import ray
from eight_pairs import portrait
from make_clips import speech_like, write_clip, write_speech
from ray.data.expressions import col

from latentsync_ray import Cluster, Recipe, lipsync_dataset


def main(folder: Path) -> None:
    """Tell the clips as they come out, and "given" when the second gets its speech."""
    video, audio = write_clip(folder / "talk.mp4", portrait(20)), write_speech(folder / "speech.wav", speech_like(0.4))
    give = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            give.wait()
            data = audio.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    speeches = {"second": f"http://127.0.0.1:{server.server_port}/speech.wav"}
    rows = [
        {"clip_id": name, "video": str(video), "audio": speeches.get(name, str(audio))}
        for name in ("first", "second", "unwanted")
    ]
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    pairs = ray.data.from_items(rows, override_num_blocks=3).filter(expr=col("clip_id") != "unwanted")
    recipe = Recipe(model="tiny-random", steps=1, preset="ultrafast")
    records = lipsync_dataset(pairs, folder / "out", recipe=recipe, cluster=Cluster(device="cpu"))
    names = records.map(lambda row: {"name": row["clip_id"].upper()})
    for batch in names.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for name in cast("pa.Table", batch).to_pydict().get("name", []):
            sys.stdout.write(f"{name}\n")
            if not give.is_set():
                sys.stdout.write("given\n")
                give.set()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
