"""What Prometheus finds at a node's metrics port while a run is watched."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest

from rl_motion.config.load import dump_job
from rl_motion.runtime.exporter import METRICS
from rl_motion.runtime.watcher import watching_run
from tests.fakes import toy_job
from tests.watching import Seen

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SAMPLE = re.compile(r"^ray_rl_motion_(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
ROW = {
    "reward/total": 0.5,
    "policy/kl": 0.01,
    "policy/staleness": 1.0,
    "prompts/drawn": 30.0,
    "prompts/flat": 0.25,
    "prompts/set_aside": 2.0,
    "learner/skipped_steps": 3.0,
    "sentinel/alarms": 2.0,
    "time/wait_s": 4.0,
}


def scraped() -> dict[str, dict[str, float]]:
    """By name, values by the tags that are ours."""
    import ray

    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    text = urllib.request.urlopen(address, timeout=5).read().decode()
    found: dict[str, dict[str, float]] = {}
    for name, tags, value in SAMPLE.findall(text):
        if 'run="watched"' in tags:
            own = " ".join(sorted(re.findall(r'\b(?:role|state|reason|stage)="(\w+)"', tags)))
            found.setdefault(name, {})[own] = float(value)
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_every_metric_is_at_the_nodes_port(tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    job = toy_job(backend="ray", mode="async")
    (folder / "job.yaml").write_text(dump_job(job))
    with watching_run(folder, job, Seen(), behind=lambda: 5) as seen:
        seen.begin(0)
        seen.iteration(0, ROW)
        deadline = time.monotonic() + 60
        while METRICS.keys() - (found := scraped()).keys():
            assert time.monotonic() < deadline, f"missing: {METRICS.keys() - found.keys()}"
            time.sleep(1)
    assert found.keys() == METRICS.keys()
    assert found["units"] == {"in_flight": 2.0, "waiting": 1.0}
    assert found["retries"] == {"died": 1.0, "hung": 0.0, "lost": 0.0, "unsound": 0.0, "learner": 0.0}
    assert found["workers"]["ready rollout"] == 2.0
    assert found["gpus"] == {"rollout": 0.0, "reward": 1.0, "learner": 1.0}
    assert found["utilisation"]["rollout"] == 0.5  # one of two is busy
    names = ("skipped_steps", "staleness", "staleness_bound", "mlflow_behind", "sentinels_out")
    assert {name: found[name][""] for name in names} == dict(zip(names, (3.0, 1.0, 1.0, 5.0, 2.0), strict=True))
