"""The benchmark's parts on Ray from their command lines, in the size of tests: they end, and write their goals."""

import json
import subprocess
import sys

import pytest

GOALS = {
    "scale": {"scale/synchronous", "scale/one_step_off", "scale/model_error"},
    "ray_overhead": {"ray/over_local", "ray/one_step_off"},
}


@pytest.mark.ray
@pytest.mark.parametrize("name", GOALS)
def test_a_part_writes_its_goals(name, root, tmp_path):
    command = [sys.executable, str(root / "jobs" / "bench" / f"{name}.py"), "--quick", "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads((tmp_path / "out" / "parts" / f"{name}.json").read_text())
    assert {goal["name"] for goal in found["goals"]} == GOALS[name]
    assert found["quick"]
    assert all(goal["value"] > 0 for goal in found["goals"])
