"""The real-motion experiment, small: it runs, goes on where it stopped, and lets nothing through that is held out."""

import dataclasses
import hashlib
import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rl_motion.config import UserError
from rl_motion.config.load import load_job
from rl_motion.data.folder import read_folder, split_clips, split_prompts, wording
from rl_motion.models.text import TextEncoder
from rl_motion.models.zoo import load_denoiser
from rl_motion.prompts.pool import read_prompts
from tests.real_folder import rows_and_joints, write_folder
from tests.unit.test_jobs import application, load

TARGET = ("dance", "jump")
WORDS = ["--target", "dance", "--target", "jump", "--seeds", "2", "--smoke"]


@pytest.fixture(scope="module")
def scripts(root):
    """real_motion.py and real_stages.py, of which it makes its stages."""
    return load(root, "experiments/real_motion"), importlib.import_module("real_stages")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "real", *rows_and_joints())


@pytest.fixture(scope="module")
def world(data, scripts):
    folder = read_folder(data)
    return scripts[1].World(split_clips(folder.clips, TARGET), folder.sha256, scripts[1].SMOKE)


@pytest.fixture(scope="module")
def made(data, scripts, tmp_path_factory):
    """A finished experiment and what it said."""
    out = tmp_path_factory.mktemp("out") / "real-motion"
    ended = CliRunner().invoke(application(scripts[0]), [str(data), "--out", str(out), *WORDS])
    assert ended.exit_code == 0, ended.output
    return out, ended.stdout


def test_every_arm_stands_in_the_results(made):
    out, said = made
    result = json.loads((out / "real_motion.json").read_text())
    assert (out / "real_motion.md").read_text().strip() in said
    assert result["provenance"]["seeds"] == [0, 1]
    assert result["target"] == list(TARGET)
    for split in ("target/test", "source/test"):
        table, scalars = result["tables"][split], result["scalars"][split]
        assert {"upper bound", "base"} == table["models"].keys()
        assert {"0", "1"} == table["ours_by_seed"].keys()
        assert {"fid", "multimodal_distance", "diversity"} <= table["models"]["base"].keys()
        assert {"reward", "jerk", "foot_skate"} <= scalars["means"]["real"].keys() == scalars["means"]["seed1"].keys()
        assert sum(result["prompts"][split].values()) == int(table["examined"].split()[1])
    assert "<html" in (out / "page.html").read_text()[:200].lower()


def test_nothing_is_made_twice_and_what_was_lost_is_made_again(made, data, scripts):
    out, said = made
    assert "kept" not in said.replace("prompts: kept", "")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    (out / "measured" / "upper.json").unlink()  # killed before its note was written
    again = CliRunner().invoke(application(scripts[0]), [str(data), "--out", str(out), *WORDS])
    assert again.exit_code == 0, again.output
    assert [line for line in again.stdout.splitlines() if ": made in" in line] == [
        line for line in again.stdout.splitlines() if line.startswith("upper: made in")
    ]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")} == before
    tables = [text[text.index("###") :] for text in (said, again.stdout)]
    assert tables[0] == tables[1]


def test_a_stage_is_made_anew_for_other_inputs_and_is_whole_or_not_there(scripts, tmp_path):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "file").write_text(str(len(calls)))

    folder, stage = tmp_path / "stage", scripts[1].stage
    first = stage(folder, {"a": 1}, make)
    assert (stage(folder, {"a": 1}, make), len(calls)) == (first, 1)
    assert stage(folder, {"a": 2}, make) != first
    assert (folder / "file").read_text() == "2"

    def fail(folder):
        (folder / "file").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        stage(folder, {"a": 3}, fail)
    assert not folder.exists()
    stage(folder, {"a": 3}, make)
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "3"


def test_stages_depend_on_data_splits_sizes_and_their_code(world, scripts, tmp_path, monkeypatch):
    stages = scripts[1]
    said = stages.described(world, **stages.sizes_of(world, "tmr_steps"))
    fewer = world.splits | {"source/train": world.splits["source/train"][1:]}
    others = [dataclasses.replace(world, sha256="other"), dataclasses.replace(world, splits=fewer)]
    others.append(dataclasses.replace(world, sizes=dataclasses.replace(world.sizes, tmr_steps=3)))
    assert all(stages.described(other, **stages.sizes_of(other, "tmr_steps")) != said for other in others)
    later = tmp_path / "real_stages.py"
    later.write_bytes(b"# edited")
    monkeypatch.setattr(stages, "__file__", str(later))
    assert stages.described(world, **stages.sizes_of(world, "tmr_steps")) != said


def test_no_held_out_caption_reaches_training(made, world, scripts):
    out, _ = made
    held_out = [p for split in scripts[0].EXAMINED for p in split_prompts(world.splits, split, world.sizes.frames)]
    files = [out / "prompts" / f"{domain}-train.txt" for domain in ("source", "target")]
    training = [prompt.text for file in files for prompt in read_prompts(file, 40)]
    said = [text for texts in world.captions(*scripts[1].TRAIN) for text in texts]
    assert training
    assert {wording(text) for text in training} <= {wording(text) for text in said}
    scripts[1].refuse_leaks([*training, *said], held_out)


def test_a_held_out_caption_in_the_prompts_stops_the_job(made, world, scripts, tmp_path):
    """Negative control: planted, in other letters, it is found before anything is trained."""
    out, _ = made
    held_out = split_prompts(world.splits, "target/test", world.sizes.frames)
    for name in ("source", "target"):
        lines = (out / "prompts" / f"{name}-train.txt").read_text()
        (tmp_path / f"{name}-train.txt").write_text(lines + (f"{held_out[0].text.upper()}!#20\n" * (name == "target")))
    job = scripts[0].post_training(out / "zoo", tmp_path, world.sizes, 0)
    with pytest.raises(UserError, match=r"got the held-out caption .* in training"):
        scripts[1].make_adapter(job, held_out, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_counts_as_the_same_only_where_its_numbers_are(root, scripts):
    """Paths and workers are left out of its key, and nothing else."""
    file = root / "jobs" / "experiments" / "real_motion.yaml"

    def key(*sets, at="/here", prompts=2, reward=1):
        sources = {f"{at}/target-train.txt": prompts, f"{at}/source-train.txt": 1}
        rewards = [{"name": "tmr", "model": f"{at}/tmr", "weight": reward}]
        given = [f"model.name={at}/base", f"prompts.sources={json.dumps(sources)}", f"rewards={json.dumps(rewards)}"]
        return json.dumps(scripts[0].settings_of(load_job(file, [*given, *sets], 0)), sort_keys=True)

    own = key()
    assert "/here" not in own
    speed = ("runtime.rollout_workers=2", "runtime.backend=ray", "tracking.experiment=x")
    assert own == key(at="/there") == key(*speed)  # control
    changed = [
        key(prompts=3), key(reward=2), key("prompts.curriculum=signal"), key("runtime.mode=async"),
        key("runtime.staleness=3"), key("rewards=[{name: text_free}]"), key("train.learning_rate=0.5"),
    ]  # fmt: skip
    assert len({own, *changed}) == 1 + len(changed)


def test_a_real_folder_with_too_few_windows_has_tables_without_a_floor(made, world, scripts):
    out, _ = made
    arms = {
        name: scripts[0].read_arm(out / "measured" / name, "target/test") for name in ("real", "base", "upper", "seed0")
    }
    few = dataclasses.replace(arms["real"].measured, motion=arms["real"].measured.motion[:1],
                              text=arms["real"].measured.text[:1], groups=arms["real"].measured.groups[:1])  # fmt: skip
    arms["real"] = dataclasses.replace(arms["real"], measured=few)
    prompts = split_prompts(world.splits, "target/test", world.sizes.frames)
    found, _ = scripts[0].compare(arms, "target/test", prompts)
    assert "no floor" in "\n".join(found.lines())
    assert found.as_dict()["real"] == {}


def test_the_reward_is_not_the_judge(made, scripts, monkeypatch, tmp_path):
    out, _ = made
    job = scripts[0].post_training(out / "zoo", out / "prompts", scripts[1].SMOKE, 0)
    [reward] = job.rewards
    assert (reward.name, reward.model) == ("tmr", str((out / "zoo" / "tmr").resolve()))
    # Control: a judge with the weights that the reward reads.
    weights = (out / "zoo" / "tmr" / "model.safetensors").read_bytes()
    judge = SimpleNamespace(sha256=hashlib.sha256(weights).hexdigest())
    monkeypatch.setattr(scripts[0], "load_evaluator", lambda _: judge)
    with pytest.raises(UserError, match="that reward 'tmr' reads too"):
        scripts[0].measure(job, None, out / "zoo", {}, tmp_path)
    seeds = scripts[1].SEEDS
    assert seeds[scripts[1].EVALUATOR] not in {seed for name, seed in seeds.items() if name != scripts[1].EVALUATOR}


@pytest.mark.usefixtures("one_thread")
def test_the_base_knows_nothing_of_the_targets_motion(made, world, scripts, tmp_path):
    """With other motion in every split but source/train the base comes out the same, bit for bit."""
    out, _ = made
    trained = load_denoiser(out / "zoo" / "base").network.state_dict()

    def again(name, changed):
        splits = {
            split: tuple(dataclasses.replace(c, joints_FJ3=c.joints_FJ3[::-1]) for c in clips)
            if changed(split)
            else clips
            for split, clips in world.splits.items()
        }
        other = dataclasses.replace(world, splits=splits)
        folder = out / "zoo" / name  # beside its text encoder
        scripts[1].make_denoiser(other, out / "zoo", scripts[1].TRAIN[:1], folder)
        return load_denoiser(folder).network.state_dict()

    same, other = (
        again("again", lambda split: split != "source/train"),
        again("other", lambda split: split == "source/train"),
    )
    assert all(torch.equal(trained[name], same[name]) for name in trained)
    assert not all(torch.equal(trained[name], other[name]) for name in trained)  # control: its own motion counts


def test_rows_are_windows_with_each_of_their_captions(made, world, scripts):
    out, _ = made
    encoder = TextEncoder(out / "zoo" / "text")
    rows = scripts[1].Rows(world, encoder, "source/train")
    clips = world.splits["source/train"]
    said = {rows.captions[c] for c in rows.caption_N.tolist()}
    assert said == {text for clip in clips for text in clip.captions}
    assert set(rows.meaning_N.tolist()) == set(range(len({clip.label for clip in clips})))
    # Every window stands with both captions of its clip, one after the other.
    assert torch.equal(rows.features_NFD[0::2], rows.features_NFD[1::2])
    mean_D, std_D = rows.statistics()
    data = rows.normalised(mean_D, std_D)
    assert all(not data.features_NFD[n, length:].any() for n, length in enumerate(data.length_N.tolist()))
    valid = torch.cat([data.features_NFD[n, :length] for n, length in enumerate(data.length_N.tolist())])
    assert valid.mean(0).abs().max() < 1e-3


def test_captions_too_long_for_the_encoder_are_left_out(made, scripts):
    out, _ = made
    encoder, long = TextEncoder(out / "zoo" / "text"), "walk " * (scripts[1].MAX_TOKENS + 1)
    assert scripts[1].read_whole(encoder, ["a person walks", long, "a person walks"]) == ["a person walks"]


def test_all_arms_start_from_the_same_noise(made, scripts):
    out, _ = made
    starts = {
        name: scripts[0].read_arm(out / "measured" / name, "target/test").measured.start_sha256
        for name in ("base", "upper", "seed0", "seed1")
    }
    assert len(set(starts.values())) == 1
    assert next(iter(starts.values()))


def test_what_is_measured_keeps_prompts_and_samples_in_order(made, world, scripts):
    out, _ = made
    prompts = split_prompts(world.splits, "target/test", world.sizes.frames)
    arm = scripts[0].read_arm(out / "measured" / "seed0", "target/test")
    samples = world.sizes.samples
    assert arm.measured.motion.shape[:2] == arm.scalars["reward"].shape == (samples, len(prompts))
    assert arm.length_P.tolist() == [prompt.length for prompt in prompts]
    job = scripts[0].post_training(out / "zoo", out / "prompts", world.sizes, 0)
    reversed_prompts = {"target/test": prompts[::-1]}
    again = out.parent / "again"
    again.mkdir()
    scripts[0].measure(job, out / "runs" / "seed0" / "adapter", out / "zoo", reversed_prompts, again)
    turned = scripts[0].read_arm(again, "target/test")
    np.testing.assert_allclose(turned.measured.motion[:, ::-1], arm.measured.motion, atol=1e-4)
    np.testing.assert_allclose(turned.scalars["reward"][:, ::-1], arm.scalars["reward"], atol=1e-4)


def test_a_category_that_is_not_there_is_the_users_to_mend(data, scripts, tmp_path):
    ended = CliRunner().invoke(
        application(scripts[0]), [str(data), "--out", str(tmp_path), "--target", "swim", "--smoke"]
    )
    assert ended.exit_code == 2
    assert "error: got the target ['swim']" in ended.output
    assert not list(tmp_path.iterdir())
