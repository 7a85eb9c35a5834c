"""A job on a cluster of three nodes in one machine, in a process of its own. Prints the ids of the nodes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster as Nodes

from latentsync_ray import Cluster, Job, Recipe, run
from latentsync_ray.sinks import Published
from latentsync_ray.sinks.mp4 import Mp4Sink

__all__ = ["TellingSink"]


class TellingSink(Mp4Sink):
    """Leaves the id of the node that each clip was joined on."""

    def publish(self, local_mp4: Path, clip_name: str) -> Published:
        place = Path(self.output).parent / "nodes"
        place.mkdir(exist_ok=True)
        (place / clip_name).write_text(ray.get_runtime_context().get_node_id())
        return super().publish(local_mp4, clip_name)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 2})
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False)
    job = Job(
        manifest=folder / "pairs.jsonl",
        output=folder / "out",
        sink="three_nodes:TellingSink",
        recipe=Recipe(model="tiny-random", steps=1, preset="ultrafast"),
        cluster=Cluster(device="cpu"),
    )
    summary = run(job)
    ids = [node["NodeID"] for node in ray.nodes()]
    ray.shutdown()
    nodes.shutdown()
    sys.stdout.write(f"{json.dumps(ids)}\n")
    raise SystemExit(summary.exit_code)
