"""The parts of the benchmark that run on Ray, as far as they can be tried without it; quick runs are in integration."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from safetensors import torch as safetensors

from rl_motion.models.adapter import adapter_checksum
from rl_motion.runtime import loop
from rl_motion.runtime.local import LocalBackend
from rl_motion.runtime.workers import Behaviour


@pytest.fixture(scope="module", autouse=True)
def bench(root):
    """Where the scripts find one another."""
    folder = str(root / "jobs" / "bench")
    sys.path.append(folder)
    yield
    sys.path.remove(folder)


def test_light_workers_go_through_the_real_loop_and_take_their_time():
    import ray_light
    import ray_part

    job = ray_part.synchronous(ray_light.light_job(1, 1, 3))
    backend = LocalBackend(job, ray_light.WORKSHOP)
    pool = ray_light.pool(job, rollout_s=0.03, reward_s=0.02, learn_s=0.01)
    start = backend.start()
    state, seconds, rows = ray_part.iterate(job, pool, backend, loop.State(start), 3)
    assert state.snapshot.version == 3
    assert len(seconds) == len(rows) == 3
    for spent, row in zip(seconds, rows, strict=True):
        assert row["time/rollout_s"] >= 3 * 0.03
        assert row["time/reward_s"] >= 3 * 0.02
        assert row["time/learner_s"] >= 3 * 0.01
        assert spent >= 3 * 0.06
        assert row["learner/updates"] == 1
    # Every version has an adapter of its own, which workers have to take in.
    assert state.snapshot.sha256 != start.sha256
    state, _, _ = ray_part.iterate(job, pool, backend, state, 1)
    assert state.snapshot.version == 4


def test_a_stretch_leaves_out_its_ends_one_step_off():
    import ray_light
    import ray_part

    job = ray_light.light_job(1, 1, 1, lag=1)
    backend = LocalBackend(job, ray_light.WORKSHOP)
    pool = ray_light.pool(job, 0, 0, 0)
    state = loop.State(backend.start())
    state, seconds, rows = ray_part.iterate(job, pool, backend, state, 5)
    assert (len(rows), len(seconds)) == (5, 2)
    assert [row["policy/staleness"] for row in rows] == [0, 1, 1, 1, 1]
    # It goes on one step off, and synchronously.
    state, _, rows = ray_part.iterate(job, pool, backend, state, 4)
    assert [row["policy/staleness"] for row in rows] == [1, 1, 1, 1]
    other = ray_light.pool(job, 0.001, 0, 0)  # with other prompts, none of which was drawn ahead
    _, seconds, rows = ray_part.iterate(ray_part.synchronous(job), other, backend, state, 2)
    assert ([row["policy/staleness"] for row in rows], len(seconds)) == ([0, 0], 2)


def test_goals_are_of_the_longest_rollouts_and_the_worst_of_the_model():
    import scale

    runs = [
        {"mode": mode, "unit_s": unit_s, "of_ideal": unit_s + 0.01 * lag, "model_error": 0.1 * unit_s + 0.01 * lag}
        for unit_s in (0.5, 0.9)
        for lag, mode in enumerate(("sync", "async"))
    ]
    found = {goal.name: (goal.value, goal.goal, goal.met) for goal in scale.goals(runs, 16)}
    assert found == {
        "scale/synchronous": (0.9, 0.95, False),
        "scale/one_step_off": (pytest.approx(0.91), 0.95, False),
        "scale/model_error": (pytest.approx(0.1), 0.05, False),
    }


def test_predictions_say_where_it_bends_and_why(tmp_path):
    import scale
    import scale_plot
    from simulation import Costs

    costs = Costs(answer_s=1e-3, latency_s=2e-3, update_s=0.05, watched_s=1e-5)
    found = {case["case"]: case for case in scale.predictions(costs, (16, 64))}
    json.dumps(list(found.values()))
    single = found["one learner"]
    assert single["bends_at"] == 64  # one learner has four times the work, the others four times the hands
    assert single["points"][1]["busiest"] == "learner"
    shared = found["learners in proportion"]["points"][1]
    assert shared["pools"]["learner"] > 20
    assert shared["gpus"] == sum(shared["pools"].values())
    assert shared["motions_per_gpu_s"] > 2 * single["points"][1]["motions_per_gpu_s"]
    runs = [{"mode": "sync", "unit_s": 1.0, "iteration_s": 4.1, "ideal_s": 4.0, "model_s": 4.05}]
    scale_plot.plot(list(found.values()), runs, tmp_path / "new" / "scale.png")
    assert (tmp_path / "new" / "scale.png").stat().st_size > 10_000


def test_blame_is_what_a_cost_takes():
    import scale
    from simulation import Case, Costs, Work

    costs = Costs(answer_s=5e-3, update_s=1e-6)
    case = Case("one", Work(1.0, 0.05, 0.02), costs, reward_per=10, learner_per=10)
    found = scale.blame(case, 64)
    assert found.keys() == {"answer_s"}
    assert found["answer_s"] > 0.1
    assert asdict(costs)["answer_s"] == 5e-3


def test_what_ray_adds_is_told_apart():
    import ray_overhead

    local = {"time/wait_s": 3.0, "time/rollout_s": 2.5, "time/reward_s": 0.5, "time/learner_s": 2.0}
    ray = {"time/wait_s": 3.4, "time/rollout_s": 2.6, "time/reward_s": 0.5, "time/learner_s": 2.3}
    stages = {"local": local | {"time/iteration_s": 5.1}, "ray": ray | {"time/iteration_s": 5.85}}
    found = ray_overhead.where_time_goes(stages)
    want = {"rollout": 0.1, "reward": 0.0, "learner": 0.3, "calls": 0.3, "rest": 0.05}
    assert found == pytest.approx(want)
    assert sum(found.values()) == pytest.approx(0.75)


def test_balanced_work_is_what_one_step_off_doubles():
    import ray_overhead

    stages = {"time/rollout_s": 5.0, "time/reward_s": 1.0, "time/learner_s": 3.0}
    # Two transitions once took half as long as sampling: one of them four times takes as long.
    assert ray_overhead.balanced(stages) == {"transitions": 1, "inner_epochs": 4}
    assert ray_overhead.ideal_gain(stages) == pytest.approx(1.5)
    assert ray_overhead.ideal_gain(stages | {"time/learner_s": 6.0}) == 2.0


def test_nothing_but_the_adapter_travels():
    import ray_sync

    sizes, behaviour = ray_sync.adapter(quick=True)
    names = safetensors.load(behaviour.adapter).keys()
    assert len(sizes) == len(names)
    assert all("lora" in name for name in names)
    state = safetensors.load(behaviour.adapter)
    ray_sync.check_carried(behaviour, state)
    more = state | {"frozen.weight": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"frozen\.weight"):
        ray_sync.check_carried(Behaviour(0, adapter_checksum(more), safetensors.save(more)), state)


def test_a_row_counts_once_it_is_whole(tmp_path):
    import startup

    from rl_motion.config import RunFault

    class Ended:
        returncode = 3

        def poll(self):
            return 3

    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\n{"iter')
    assert startup._first_row(path, Ended()) == {"iteration": 0}
    path.write_text('{"iteration"')
    with pytest.raises(RunFault, match="ended with 3"):
        startup._first_row(path, Ended())


def test_memory_of_this_process_is_read():
    import ray_part

    before = ray_part.resident_mb(os.getpid())
    held = torch.ones(20_000_000)
    assert ray_part.resident_mb(os.getpid()) - before == pytest.approx(80, abs=8)
    del held


def test_the_store_of_a_command_is_found_and_read(tmp_path):
    import ray_memory

    from rl_motion.config import RunFault

    with pytest.raises(RunFault, match="has started no Ray"):
        ray_memory.raylet_of(1)
    program = tmp_path / "raylet"
    shutil.copy(shutil.which("sleep"), program)
    # A command of its own: other tests may have left a Ray under this process.
    with subprocess.Popen(
        ["sh", "-c", f"'{program}' 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        raylet = int(command.stdout.readline())
        try:
            assert ray_memory.raylet_of(command.pid) == raylet
        finally:
            os.kill(raylet, signal.SIGKILL)
    before = ray_memory.store_bytes(os.getpid())
    with (tmp_path / "plasmaAb12Cd").open("wb") as store:
        store.truncate(10_000_000)  # room alone is nothing filled
        assert ray_memory.store_bytes(os.getpid()) - before < 100_000
        store.write(b"x" * 2_000_000)
        store.flush()
        os.fsync(store.fileno())
        (tmp_path / "plasmaAb12Cd").unlink()
        assert ray_memory.store_bytes(os.getpid()) - before == pytest.approx(2e6, rel=0.05)
