"""What ships for clusters and schedules: it is of the form that its readers want, and says what this package does."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml

from latentsync_ray import lease
from latentsync_ray.cli.ending import GRACE_SECONDS
from latentsync_ray.job_file import load_job

ROOT = Path(__file__).resolve().parent.parent
CLUSTER, EXAMPLES = ROOT / "configs" / "cluster", ROOT / "jobs" / "examples"
LATE = 3
"""Exit code of a run whose time limit left clips."""


def kind(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT, WHOLE, YES = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
POD = {"type": "object", "required": ["spec"]}
HEAD = kind({"serviceType": TEXT, "enableIngress": YES, "rayStartParams": TEXTS, "template": POD}, "rayStartParams", "template")
WORKERS = kind(
    {
        "groupName": TEXT, "replicas": WHOLE, "minReplicas": WHOLE, "maxReplicas": WHOLE, "numOfHosts": WHOLE,
        "rayStartParams": TEXTS, "template": POD,
    },
    "groupName", "minReplicas", "maxReplicas", "rayStartParams", "template",
)  # fmt: skip
SCALING = kind(
    {"idleTimeoutSeconds": WHOLE, "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]}, "resources": POD}
)
NODES = kind(
    {
        "rayVersion": TEXT, "enableInTreeAutoscaling": YES, "autoscalerOptions": SCALING, "headGroupSpec": HEAD,
        "workerGroupSpecs": {"type": "array", "items": WORKERS}, "suspend": YES,
    },
    "headGroupSpec",
)  # fmt: skip
RAYJOB = kind(
    {
        "entrypoint": TEXT, "runtimeEnvYAML": TEXT, "backoffLimit": WHOLE, "activeDeadlineSeconds": WHOLE, "jobId": TEXT,
        "shutdownAfterJobFinishes": YES, "ttlSecondsAfterFinished": WHOLE, "suspend": YES, "rayClusterSpec": NODES,
        "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]}, "metadata": TEXTS,
    }
)  # fmt: skip
"""Of KubeRay's types RayJobSpec and RayClusterSpec (Apache-2.0, ray-operator/apis/ray/v1): what a job may use."""


def check_pod(pod: dict[str, Any]) -> None:
    """Whoever mounts a volume has it, and whoever ends the pod waits until a run has ended."""
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} == volumes
    assert pod["terminationGracePeriodSeconds"] > GRACE_SECONDS


def test_the_rayjob_is_one_for_kuberay() -> None:
    settings, rayjob = yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text())
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    spec = rayjob["spec"]
    jsonschema.validate(spec, RAYJOB)
    nodes = spec["rayClusterSpec"]
    for group in (nodes["headGroupSpec"], *nodes["workerGroupSpecs"]):
        check_pod(group["template"]["spec"])
    assert int(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) > GRACE_SECONDS
    assert f"ray=={nodes['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    (volume,) = nodes["headGroupSpec"]["template"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == settings["metadata"]["name"]
    (mount,) = nodes["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert spec["entrypoint"] == f"latentsync-ray run {mount['mountPath']}/{next(iter(settings['data']))}"


def test_the_rayjob_runs_a_job_that_fits_its_nodes(tmp_path: Path) -> None:
    settings, rayjob = yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text())
    path = tmp_path / "job.yaml"
    path.write_text(settings["data"]["job.yaml"])
    cluster = load_job(path).cluster
    (group,) = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert cluster.generate_workers == (group["minReplicas"], group["maxReplicas"])
    assert float(container["resources"]["limits"]["nvidia.com/gpu"]) == 1
    assert cluster.accelerator
    assert group["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-accelerator"].endswith(cluster.accelerator.lower())
    stages = [cluster.generate_cpus, cluster.track_cpus, cluster.crop_cpus, cluster.paste_cpus]
    assert sum(each or 0 for each in stages) < float(container["resources"]["limits"]["cpu"])


def test_the_cronjob_goes_on_the_next_night() -> None:
    cron = yaml.safe_load((EXAMPLES / "cronjob.yaml").read_text())
    assert (cron["apiVersion"], cron["kind"], cron["spec"]["concurrencyPolicy"]) == ("batch/v1", "CronJob", "Forbid")
    assert re.fullmatch(r"(\S+ ){4}\S+", cron["spec"]["schedule"])
    job = cron["spec"]["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    check_pod(pod)
    assert pod["restartPolicy"] == "Never", "or Kubernetes refuses the podFailurePolicy"
    assert sum(10 * 2**n for n in range(job["backoffLimit"])) > lease._STALE
    (ended,) = [rule for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert ended["onExitCodes"] == {"operator": "In", "values": [LATE]}
    command, path, option, limit = pod["containers"][0]["args"]
    assert (command, path, option) == ("run", "/etc/dub/job.yaml", "--time-limit")
    assert load_job(ROOT / "configs" / "local.yaml", f"time_limit={limit}").time_limit == 5 * 3600


def test_the_dag_runs_a_job_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow is too large to be installed for this: stand-ins take what the file gives them."""
    told: dict[str, Any] = {}

    class Dag(SimpleNamespace):
        def __init__(self, dag_id: str, **settings: Any) -> None:
            super().__init__(dag_id=dag_id, **settings)

        def __enter__(self) -> Dag:
            return self

        def __exit__(self, *_: object) -> None: ...

    for name, members in (("sdk", {"DAG": Dag}), ("providers.standard.operators.bash", {"BashOperator": told.update})):
        module = ModuleType(f"airflow.{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    found = importlib.util.spec_from_file_location("airflow_dag", EXAMPLES / "airflow_dag.py")
    assert found
    assert found.loader
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    assert (loaded.dag.max_active_runs, loaded.dag.catchup) == (1, False)
    assert told["skip_on_exit_code"] == LATE
    exec_, program, command, path, option, limit, *overrides = told["bash_command"].replace("{{ ds }}", "2026-01-01").split()
    assert (exec_, program, command, path, option) == ("exec", "latentsync-ray", "run", "/jobs/dub.yaml", "--time-limit")
    job = load_job(ROOT / "configs" / "local.yaml", f"time_limit={limit}", *overrides)
    assert job.output == "gs://my-bucket/dubbed/2026-01-01"


def test_the_image_has_all_that_it_copies_and_no_other_models() -> None:
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", "")
    copied = [source for line in re.findall(r"^COPY (.+)$", text, re.M) for source in line.split()[:-1]]
    assert {"pyproject.toml", "constraints.txt", "latentsync_ray"} <= set(copied)
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert 'ENTRYPOINT ["latentsync-ray"]' in text
    assert "latentsync-ray models download" not in text
    assert "-c constraints.txt" in text
