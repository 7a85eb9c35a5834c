"""What the driver asks of a cluster's GPUs, on a cluster that says it has one."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import time
import ray
from latentsync_ray import Cluster, Job, ModelError, Recipe, pipeline
from latentsync_ray.pipeline import device
from latentsync_ray.pipeline.device import ask_device

ray.init(address="local", num_gpus=1, num_cpus=2, log_to_driver=False, include_dashboard=False)
whole, half = (ask_device(Cluster(generate_gpus=share), pipeline.nodes()) for share in (None, 0.5))
assert whole.kind == "cpu" and whole.gigabytes > 1, "the GPU is pretended: the device is the processor"
assert half.gigabytes == whole.gigabytes / 2, "two workers share it"
assert ask_device(Cluster(generate_gpus=0), pipeline.nodes()) is None

def job(**cluster):
    recipe = Recipe(model="tiny-random", micro_batch=64)
    return Job(manifest="p.csv", output="/tmp/o", recipe=recipe, cluster=Cluster(**cluster))

assert pipeline.prepare(job()).cluster.device_memory_gb == whole.gigabytes
try:
    pipeline.prepare(job(device_memory_gb=0.2))
except ModelError as error:
    print(error)

@ray.remote(num_gpus=1)
def hold():
    time.sleep(60)

taken = hold.remote()
device._SECONDS = 2
time.sleep(1)
assert ask_device(Cluster(), pipeline.nodes()) is None, "none was free"
"""


@pytest.mark.slow
def test_memory_of_a_gpu_is_asked_for_before_any_worker_starts() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "to make 64 windows of frames at once, and the device has 0.2 GB: set recipe.micro_batch to" in done.stdout
    assert "no GPU was free within 2 s" in done.stderr
