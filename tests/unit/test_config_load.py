"""Job files: what is refused, how the refusal teaches, and that resolved jobs read back equal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rl_motion.config import Job, UserError
from rl_motion.config.load import change_job, dump_job, load_job


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "job.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_defaults_and_overrides_resolve(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nrewards:\n- {name: tmr}\n- {name: skate, weight: -1}\n")
    job = load_job(path, ["train.learning_rate=1e-3", "rewards.1.weight=-2", "runtime.backend=local"], seed=7)
    assert job.train.learning_rate == 1e-3
    assert job.train.seed == 7
    assert job.rewards[1].weight == -2
    assert job.runtime.backend == "local"


def test_dump_reads_back_equal(tmp_path: Path) -> None:
    job = Job(name="round-trip")
    assert load_job(write(tmp_path, dump_job(job))) == job


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        ("- a\n- b\n", ["list", "mapping"]),
        ("just text", ["str", "mapping"]),
        ("name: [unclosed", ["not YAML"]),
        ("name: a\nname: b\n", ["'name'", "twice"]),
        ("name: !!python/object/apply:os.system ['true']\n", ["python/object", "never built"]),
        (b"name: \xff\xfe", ["UTF-8"]),
        ("name: a\ntrain: {iteration: 3}\n", ["train.iteration'", "train.iterations"]),
        ("name: a\nlearning_rate: 1\n", ["'learning_rate'", "train.learning_rate"]),
        ("name: a\nrewards: [{name: tmr, wieght: 2}]\n", ["rewards.0.weight"]),
        ("name: a\ntrain: {iterations: many}\n", ["train.iterations", "got 'many'", "integer"]),
        ("name: a\ntrain: {learning_rate: .nan}\n", ["train.learning_rate", "nan"]),
        ("name: a\nruntime: {backend: slurm}\n", ["runtime.backend", "'slurm'", "'local' or 'ray'"]),
        ("name: ../../etc\n", ["name", "../../etc"]),
        ("name: a/b\n", ["name"]),
        ("name: a\npolicy: {landing: 1.5}\n", ["policy.landing", "got 1.5", "sigma_min or a sigma between 0"]),
        ("train: {}\n", ["no 'name'"]),
        ("name: a\ntrain: {prompts_per_iteration: 10, prompts_per_unit: 3}\n", ["divides"]),
        ("name: a\ntrain: {ema_decay: 1.0}\n", ["train.ema_decay", "less than 1"]),
        ("name: a\nalgorithm: {advantages: rank}\n", ["algorithm.advantages", "'running'"]),
        ("name: a\nalgorithm: {kl_target: 0.1}\n", ["kl_weight=0", "set algorithm.kl_weight"]),
        ("name: a\nalgorithm: {advantage_min_count: 17}\n", ["advantage_min_count=17", "the buffer can reach"]),
        ("name: a\nalgorithm: {advantages: leave_one_out, advantage_shrinkage: 0.5}\n", ["drop the shrinkage"]),
    ],
)
def test_mistakes_teach(tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_job(write(tmp_path, text))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("train.iterations", "want a.b=c"),
        ("=3", "want a.b=c"),
        ("train..seed=3", "want a.b=c"),
        ("name.sub=3", "'name' is the value"),
        ("rewards.9.weight=3", "want a number below 1"),
        ("train.seeed=3", "train.seed"),
        ("train.seed=-1", "from --set train.seed=-1"),
        ("train.seed=[1", "YAML value"),
    ],
)
def test_set_mistakes_teach(tmp_path: Path, override: str, word: str) -> None:
    with pytest.raises(UserError, match=r".*") as caught:
        load_job(write(tmp_path, "name: a\nrewards: [{name: tmr}]\n"), [override])
    assert word in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        load_job(tmp_path / "nope.yaml")
    with pytest.raises(UserError, match="folder"):
        load_job(tmp_path)


def test_config_needs_neither_torch_nor_ray() -> None:
    code = "import sys, rl_motion.config.load; sys.exit(bool({'torch', 'ray', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_items_of_a_default_list_are_addressed_by_number(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("name: short\n")
    job = load_job(path, ["rewards.0.weight=2", "adapter.targets.1=condition"])
    assert [(reward.name, reward.weight) for reward in job.rewards] == [("tmr", 2.0)]
    assert job.adapter.targets == ("attention", "condition", "condition")


def test_a_job_is_changed_as_a_file_is() -> None:
    job = load_job("demo")
    assert change_job(job, ["train.seed=3", "rewards.0.weight=2"]) == load_job(
        "demo", ["train.seed=3", "rewards.0.weight=2"]
    )
    with pytest.raises(UserError, match=r"job demo: got the unknown key 'train.sed' .*did you mean 'train.seed'"):
        change_job(job, ["train.sed=3"])
