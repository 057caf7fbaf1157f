"""`rl-motion pretrain` on a small imported folder: what it makes, that it goes on bit for bit, and what it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.data.datasets import Dataset
from rl_motion.models.zoo import load_denoiser, load_evaluator, load_tmr
from rl_motion.runtime.pretraining.folder import PretrainRun
from tests.real_folder import rows_and_joints, write_folder

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES: dict[str, dict[str, Any]] = {
    "mdm": {"latent_dim": 16, "ff_size": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.1},
    "mdm_smpl": {"latent_dim": 16, "ff_size": 16, "num_layers": 1, "num_heads": 2},
    "t2m_unet": {
        "base_dim": 16, "dim_mults": [1], "time_dim": 16, "text_latent_dim": 16, "text_ff_size": 16,
        "text_num_heads": 2, "num_text_layers": 1,
    },
    "tmr": {"latent_dim": 16, "ff_size": 16, "num_layers": 1, "num_heads": 2},
    "guo": {"movement_latent": 8, "motion_hidden": 8, "text_hidden": 8, "coembedding": 8, "word_size": 8},
}  # fmt: skip
KINDS = {"mdm": "denoiser", "mdm_smpl": "denoiser", "t2m_unet": "denoiser", "tmr": "retrieval", "guo": "evaluator"}
LOADERS = {"denoiser": load_denoiser, "retrieval": load_tmr, "evaluator": load_evaluator}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imported as a user would."""
    folder = tmp_path_factory.mktemp("motion")
    write_folder(folder / "in", *rows_and_joints(trials=3, frames=(24, 40)))
    ended = CliRunner().invoke(app, ["data", "import", str(folder / "in"), "--out", str(folder / "set")])
    assert ended.exit_code == 0, ended.output
    return folder / "set"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_job(data: Path, network: str, **changes: Any) -> Path:
    content: dict[str, Any] = {
        "name": "made",
        "kind": KINDS[network],
        "data": {"directory": str(data), "frames": 24},
        "network": {"kind": network, "shape": SHAPES[network]},
        "train": {"steps": 6, "batch": 4, "warmup": 2, "log_every": 2, "validate_every": 2},
        "runtime": {"threads": 1, "save_every_s": 0},
        "tracking": {"mlflow_uri": None},
    }
    if network != "guo":
        content["text"] = {"steps": 4}
    if KINDS[network] == "denoiser":
        content["diffusion"] = {"schedule": {"betas": "linear", "timesteps": 20}}
    path = Path("job.yaml")
    path.write_text(yaml.safe_dump(content | changes))
    return path


def pretrain(*words: object, code: int = 0) -> str:
    ended = CliRunner().invoke(app, ["pretrain", *map(str, words)])
    assert ended.exit_code == code, ended.output + repr(ended.exception)
    return " ".join(ended.output.split())


def losses(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def same(one: Path, other: Path) -> bool:
    first, second = (load_file(path / "model" / "model.safetensors") for path in (one, other))
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("network", SHAPES)
def test_every_kind_of_network_becomes_a_checkpoint_that_loads(network: str, data: Path) -> None:
    said = pretrain(write_job(data, network), "--out", "runs")
    assert "model: runs/made/model" in said
    model = LOADERS[KINDS[network]](Path("runs/made/model"))
    assert model.representation == "humanml3d-263"
    rows = losses(Path("runs/made"))
    texts = 0 if network == "guo" else 4
    assert [row["iteration"] for row in rows] == [*range(2, texts + 1, 2), *range(texts + 2, texts + 7, 2)]
    assert all({"network/loss", "network/val_loss"} <= row.keys() for row in rows if row["iteration"] > texts)
    card = Path("runs/made/model/README.md").read_text()
    assert Dataset.open(data).info.sha256 in card
    assert not list(Path("runs/made").glob("*.state.safetensors"))
    statistics = load_file("runs/made/model/model.safetensors")
    assert torch.equal(statistics["mean_D"], torch.tensor(Dataset.open(data).statistics.mean_D))
    assert "it was over already" in pretrain("job.yaml", "--out", "runs")


def test_several_jobs_are_trained_in_turn(data: Path) -> None:
    one = write_job(data, "guo").rename("one.yaml")
    other = write_job(data, "mdm", name="other")
    said = pretrain(one, other, "--out", "runs")
    assert said.index("model: runs/made/model") < said.index("model: runs/other/model")
    assert pretrain("runs/made", "runs/other").count("it was over already") == 2


def test_of_several_jobs_none_begins_where_one_cannot(data: Path) -> None:
    one, twin = write_job(data, "guo").rename("one.yaml"), write_job(data, "mdm")
    assert "got two jobs named 'made'; want a name" in pretrain(one, twin, "--out", "runs", code=2)
    assert "want" in pretrain(one, "missing.yaml", "--out", "runs", code=2)
    assert not Path("runs").exists()


@pytest.mark.parametrize(("network", "kill"), [("mdm", 1), ("mdm", 2), ("tmr", 3), ("guo", 1)])
def test_what_was_killed_goes_on_to_the_same_bits(
    network: str, kill: int, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(data, network)
    pretrain(job, "--out", "whole")
    written = 0
    write = PretrainRun.write_state

    def write_then_die(self: PretrainRun, *given: Any) -> None:
        nonlocal written
        write(self, *given)
        written += 1
        if written == kill:
            raise KeyboardInterrupt

    monkeypatch.setattr(PretrainRun, "write_state", write_then_die)
    assert "the same command goes on from there" in pretrain(job, "--out", "cut", code=130)
    assert not Path("cut/made/model").exists()
    monkeypatch.setattr(PretrainRun, "write_state", write)
    pretrain("cut/made")
    assert losses(Path("cut/made")) == losses(Path("whole/made"))
    assert same(Path("cut/made"), Path("whole/made"))
    pretrain(job, "--out", "other", "--seed", 1)
    assert not same(Path("other/made"), Path("whole/made"))


def test_nothing_of_the_test_split_is_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its motion nor its captions: whoever asks for one of its rows is refused."""
    dataset = Dataset.open(data)
    held_out = set(dataset.split("test").rows_N.tolist())
    trained = set(dataset.split("train").rows_N.tolist())
    asked: set[int] = set()
    features, captions = Dataset.features, Dataset.captions
    monkeypatch.setattr(Dataset, "features", lambda self, row: asked.add(row) or features(self, row))
    monkeypatch.setattr(Dataset, "captions", lambda self, row: asked.add(row) or captions(self, row))
    pretrain(write_job(data, "mdm"), "--out", "runs")
    assert held_out
    assert asked & trained
    assert not asked & held_out


def test_mistakes_end_in_a_line_and_leave_nothing(data: Path) -> None:
    job = write_job(data, "mdm")
    for sets, words in (
        (["--set", "train.stepps=3"], "did you mean 'train.steps'?"),
        (["--set", "network.shape.latent_dims=16"], "did you mean 'latent_dim'?"),
        (["--set", "network.shape.features=4"], "as the data decides it"),
        (["--set", "network.shape.latent_dim=wide"], "network.shape.latent_dim: got 'wide'"),
        (["--set", "network.shape.num_heads=3"], "cannot be trained so"),
        (["--set", "network.kind=guo"], "want mdm or mdm_smpl or t2m_unet"),
        (["--set", "data.directory=nowhere"], "holds no dataset.json"),
        (["--set", "text={encoder: nowhere}"], "has no config.json"),
        (["--set", "tracking.mlflow_uri=ftp://somewhere"], "tracking.mlflow_uri"),
    ):
        said = pretrain(job, "--out", "runs", *sets, code=2)
        assert words in said, said
        assert "Traceback" not in said
        assert not Path("runs").exists(), sets
    assert "want the same job" in _again_with_another_seed(job)


def _again_with_another_seed(job: Path) -> str:
    pretrain(job, "--out", "runs")
    return pretrain(job, "--out", "runs", "--seed", 5, code=2)


@pytest.mark.slow
def test_from_a_folder_of_motion_to_a_report(data: Path, root: Path) -> None:
    """The commands of docs/pretraining.md with the files of jobs/real, all of them made small."""
    small = ["--set", "train.steps=2", "--set", "train.batch=4", "--set", "train.log_every=2"]
    small += ["--set", "train.validate_every=2", "--set", "runtime.threads=1", "--set", "tracking.mlflow_uri=null"]
    small += ["--set", f"data.directory={data}"]
    for network, name in (("mdm", "mdm"), ("tmr", "tmr"), ("guo", "evaluator")):
        shape = ["--set", f"network.shape={json.dumps(SHAPES[network])}"]
        words = ["--set", "text.steps=2"] if network != "guo" else []
        pretrain(root / "jobs" / "real" / f"pretrain-{name}.yaml", *small, *shape, *words)
    sets = [
        f"evaluation.data={data}", f"prompts.sources={{{data}: 1}}", "tracking.mlflow_uri=null", "train.iterations=1",
        "runtime.backend=local", "runtime.threads=1", "policy.steps=3", "train.prompts_per_iteration=4",
        "train.samples_per_prompt=2", "train.prompts_per_unit=2", "evaluation.prompts=4",
        "evaluation.samples_per_prompt=2", "evaluation.page_prompts=1",
    ]  # fmt: skip
    job = root / "jobs" / "real" / "post-train.yaml"
    ended = CliRunner().invoke(app, ["train", str(job), *(word for one in sets for word in ("--set", one))])
    assert ended.exit_code == 0, ended.output + repr(ended.exception)
    report = json.loads(Path("runs/my-motion/report.json").read_text())
    assert report["evaluation"]["splits"] == {"held_out": "test", "train": "train"}
    assert set(report["base"]) == set(report["field"]) == {"held_out", "train"}
    assert "oracle_success" in report["not_judged"]
    assert "real" in report["field"]["held_out"]
    ended = CliRunner().invoke(app, ["report", "runs/my-motion", "--out", "report"])
    assert ended.exit_code == 0, ended.output + repr(ended.exception)
