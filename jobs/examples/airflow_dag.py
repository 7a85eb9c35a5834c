"""Airflow 3: every day its own manifest into its own output. The worker that runs it has the package and reaches the cluster.

SIGTERM, which Airflow sends to what it ends, is enough: finished clips and segments are kept, and the next try goes on.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

__all__ = ["dag"]

with DAG("dub", schedule="@daily", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, max_active_runs=1) as dag:
    BashOperator(
        task_id="dub",
        bash_command=(
            "exec latentsync-ray run /jobs/dub.yaml --time-limit 20h"
            " manifest=gs://my-bucket/pairs/{{ ds }}.parquet output=gs://my-bucket/dubbed/{{ ds }}"
        ),
        skip_on_exit_code=3,  # nothing failed, but the time limit left clips: clear the task, and it goes on
        retries=3,
        retry_delay=timedelta(minutes=1),
    )
