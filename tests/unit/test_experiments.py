"""jobs/experiments: what is done is not done again, what does not compare is refused, tables say what was measured."""

import dataclasses
import importlib
import json
import math
import os
import shutil
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from rl_motion.config import UserError
from rl_motion.config.load import dump_job, load_job
from rl_motion.evaluation.statistics import Estimate

ROW = "leave-out-knee"
SMALL = ("--rows", ROW, "--seeds", "2", "--smoke", "--set", "model.name=mdm-embedded")


@pytest.fixture
def lab(root, monkeypatch):
    """The modules beside the scripts."""
    monkeypatch.syspath_prepend(str(root / "jobs" / "experiments"))
    names = ("parts", "measuring", "running", "figures", "tables", "ablations")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


class Processes:
    """Stands for processes: notes what each was asked, does it with made-up numbers, and dies where it is told to."""

    def __init__(self, lab, dies_at=None):
        self.lab, self.dies_at, self.done = lab, dies_at, []

    def __call__(self, words, log):
        if len(self.done) == self.dies_at:
            raise RuntimeError("killed")
        if words[1].endswith("measuring.py"):
            for question, answer in zip(words[2::2], words[3::2], strict=True):
                ask = self.lab.measuring.Ask(**json.loads(Path(question).read_text()))
                self.lab.measuring.write(Path(answer), ask, made_up(ask))
            self.done.append(f"measure {ask.arm}")
            return
        job, out, seed = words[4], Path(words[6]), int(words[8])
        job = load_job(job, words[10::2], seed)
        folder = out / job.name
        (folder / "adapter").mkdir(parents=True)
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(job.name.encode())
        (folder / "job.yaml").write_text(dump_job(job))
        (folder / "report.json").write_text("{}")
        self.done.append(f"train {job.name}")


def made_up(ask):
    """Motions about their texts: the farther away, the worse."""
    rng = np.random.default_rng(0)
    prompts = 2 * ask.prompts if ask.arm == "real" else ask.prompts
    text = rng.normal(size=(prompts, 6)).astype(np.float32)
    blur = {"real": 0.1, "base": 0.6, "full model": 0.3}.get(ask.arm, 0.4)
    shape = (prompts, 6) if ask.arm == "real" else (ask.samples, prompts, 6)
    motion = text + blur * np.random.default_rng(len(ask.arm)).normal(size=shape).astype(np.float32)
    found = {"motion": motion, "text": text, "groups": np.asarray(["knee"] * prompts)}
    if ask.arm == "real":
        return found
    success = np.full(shape[:2], 0.25 if ask.arm == "base" else 0.5, np.float32)
    return found | {"success": success, "reward": success, "start_sha256": np.asarray("noise")}


@pytest.fixture
def begin(lab, monkeypatch):
    """Calls the command with processes that do as they are told."""
    monkeypatch.setattr(lab.tables, "evaluator_sha256", lambda _: "evaluator")
    monkeypatch.setattr(lab.tables, "find_weights", lambda _: {"model": "weights"})
    monkeypatch.setattr(lab.tables.Experiment, "check", lambda _: None)

    def call(out, *words, dies_at=None):
        processes = Processes(lab, dies_at)
        monkeypatch.setattr(lab.running, "process", processes)
        app = typer.Typer()
        app.command()(lab.tables.main)
        ended = CliRunner().invoke(app, [*SMALL, "--parallel", "1", "--out", str(out), *words])
        return ended, processes.done

    return call


def test_a_killed_call_goes_on_and_does_nothing_twice(begin, tmp_path):
    whole, everything = begin(tmp_path / "undisturbed")
    assert whole.exit_code == 0, whole.output
    assert sorted(everything) == sorted(
        ["measure real", "measure base", "measure full model"]
        + [f"{what}{seed}" for seed in (0, 1) for what in (f"train {ROW}-seed", "measure seed")]
    )
    ended, first = begin(tmp_path / "killed", dies_at=4)
    assert ended.exit_code == 1, ended.output
    assert len(first) == 4
    ended, second = begin(tmp_path / "killed")
    assert ended.exit_code == 0, ended.output
    assert first + second == everything
    results = [tmp_path / name / "results" / f"tables-{ROW}.json" for name in ("undisturbed", "killed")]
    tables = [json.loads(file.read_text())["tables"] for file in results]
    assert tables[0] == tables[1]
    ended, third = begin(tmp_path / "killed")
    assert (ended.exit_code, third) == (0, [])
    # Control: what is lost is made again.
    (tmp_path / "killed" / "measured" / ROW / "seed1-kept.npz").unlink()
    assert begin(tmp_path / "killed")[1] == ["measure seed1"]


def test_the_results_say_where_they_come_from(begin, tmp_path):
    assert begin(tmp_path)[0].exit_code == 0
    about = json.loads((tmp_path / "results" / f"tables-{ROW}.json").read_text())["about"]
    assert about["seeds"] == [0, 1]
    assert len(about["commit"]) == 40
    assert {"command", "wall_s", "changed_files", "settings"} <= about.keys()
    text = (tmp_path / "results" / f"tables-{ROW}.md").read_text()
    assert all(
        words in text for words in ("ground truth", "| full model |", "| base |", "**ours** (2 seeds)", "forgetting")
    )


def test_a_folder_of_another_job_is_refused(begin, tmp_path):
    assert begin(tmp_path)[0].exit_code == 0
    ended, done = begin(tmp_path, "--set", "train.learning_rate=0.5")
    assert (ended.exit_code, done) == (2, [])
    assert "a run of another job" in ended.stderr


@pytest.mark.parametrize("setting", ["runtime.mode=async", "runtime.staleness=4"])
def test_a_run_of_another_runtime_is_another_where_that_changes_numbers(setting, begin, tmp_path):
    assert begin(tmp_path)[0].exit_code == 0
    ended, done = begin(tmp_path, "--set", setting)
    assert (ended.exit_code, done) == (2, [])
    assert "a run of another job" in ended.stderr
    faster = ("--set", "runtime.rollout_workers=3", "--set", "runtime.deadline_s=5")
    assert (begin(tmp_path, *faster)[0].exit_code, begin(tmp_path, *faster)[1]) == (0, [])  # control


def test_measurements_without_their_run_are_made_sure_of(begin, lab, tmp_path):
    assert begin(tmp_path)[0].exit_code == 0
    shutil.rmtree(tmp_path / f"{ROW}-seed1")
    ended, done = begin(tmp_path)
    assert (ended.exit_code, done) == (0, [f"train {ROW}-seed1"]), ended.output  # the same adapter: nothing to measure
    shutil.rmtree(tmp_path / f"{ROW}-seed1" / "adapter")
    ended, done = begin(tmp_path)
    assert (ended.exit_code, done) == (0, [f"train {ROW}-seed1"]), ended.output
    # Control: measurements of another adapter are no measurements of this one.
    (tmp_path / f"{ROW}-seed1" / "adapter" / "adapter_model.safetensors").write_bytes(b"another")
    ended, done = begin(tmp_path)
    assert (ended.exit_code, done) == (2, [])
    assert "measured with other inputs" in ended.stderr


def test_a_measurement_of_other_weights_is_refused(begin, lab, tmp_path, monkeypatch):
    assert begin(tmp_path)[0].exit_code == 0
    monkeypatch.setattr(lab.tables, "evaluator_sha256", lambda _: "another evaluator")
    ended, done = begin(tmp_path)
    assert (ended.exit_code, done) == (2, [])
    assert "measured with other inputs" in ended.stderr


@pytest.mark.parametrize("kind", ["prompts", "real"])
def test_a_measurement_of_a_reworded_world_is_refused(kind, begin, lab, tmp_path, monkeypatch):
    """Same weights, seeds and sizes: the prompts themselves count, and of real motion captions and features."""
    if kind == "prompts":
        monkeypatch.setattr(lab.tables, "real_sha256", lambda *_: "the same real motion")
    assert begin(tmp_path)[0].exit_code == 0
    assert begin(tmp_path)[1] == []  # control
    if kind == "prompts":
        given = lab.parts.prompts_of

        def reworded(*what):
            first, *rest = given(*what)
            return (dataclasses.replace(first, text=f"{first.text} now"), *rest)

        monkeypatch.setattr(lab.tables, "prompts_of", reworded)
    else:
        given = lab.parts.real_motion

        def moved(*what):
            for motions, prompts in given(*what):
                yield dataclasses.replace(motions, features_BFD=motions.features_BFD + 1e-3), prompts

        lab.parts.real_sha256.cache_clear()
        monkeypatch.setattr(lab.parts, "real_motion", moved)
    ended, done = begin(tmp_path)
    lab.parts.real_sha256.cache_clear()
    assert (ended.exit_code, done) == (2, [])
    assert "measured with other inputs" in ended.stderr


def test_a_longer_prompt_and_another_caption_of_real_motion_count(lab, monkeypatch):
    part = lab.parts.Part.of("source/test:knee")
    prompts = lab.parts.prompts_of(part, 4, 0, 20.0)
    own = lab.parts.asked_sha256(part, prompts, 0)
    longer = (dataclasses.replace(prompts[0], length=prompts[0].length + 1), *prompts[1:])
    assert own == lab.parts.asked_sha256(part, tuple(prompts), 0)
    assert len({own, lab.parts.asked_sha256(part, longer, 0), lab.parts.asked_sha256(part, prompts[::-1], 0)}) == 3
    motions, said = next(lab.parts.real_motion(part, 4, 0))
    hashes = []
    for captions in (said, said, (dataclasses.replace(said[0], text="another"), *said[1:])):
        monkeypatch.setattr(lab.parts, "real_motion", lambda *_, c=captions: [(motions, c)])
        hashes.append(lab.parts.real_sha256.__wrapped__(part, 4, 0))
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_unknown_row_is_refused(begin, tmp_path):
    ended, _ = begin(tmp_path, "--rows", "leave-out-cartwheel")
    assert ended.exit_code == 2
    assert "want one of cross-to-second" in ended.stderr


def test_a_row_is_checked_before_anything_is_done(lab, root, tmp_path, monkeypatch):
    """Its own source with one held-out wording more, and an evaluator that its reward reads."""
    from rl_motion.data import embedded
    from rl_motion.evaluation.guarantees import weights_sha256
    from rl_motion.models.zoo import RETRIEVAL, locate
    from rl_motion.rewards import CHECKPOINTS

    monkeypatch.chdir(root)

    def check(*sets):
        [experiment] = lab.tables.plan([ROW], [0], tmp_path, lab.tables.SMOKE, sets)
        experiment.check()

    def sources(*wordings):
        captions = (root / "jobs" / "experiments" / "knee.txt").read_text()
        (tmp_path / "knee.txt").write_text(captions + "".join(f"{text}#40\n" for text in wordings))
        return f"prompts.sources={json.dumps({str(tmp_path / 'knee.txt'): 2, 'source/train': 1})}"

    check()  # controls: the row as it is, and a copy of its captions
    check(sources())
    knees = [prompt.text for prompt in embedded.wordings("source/test") if prompt.group == "knee"]
    with pytest.raises(UserError, match="that the job reads too"):
        check(sources(knees[-1]))
    kept = next(prompt.text for prompt in embedded.prompts("source/test") if prompt.group != "knee")
    with pytest.raises(UserError, match="that the job reads too"):
        check(sources(kept))
    goal = weights_sha256(locate(CHECKPOINTS["tmr"], RETRIEVAL))
    monkeypatch.setattr(lab.tables, "evaluator_sha256", lambda _: goal)
    with pytest.raises(UserError, match="that reward 'tmr' reads too"):
        check()
    assert not any(path.is_dir() for path in tmp_path.iterdir())


@pytest.mark.parametrize("committed", [True, False])
def test_a_run_goes_on_from_its_commit_or_begins_anew(committed, lab, tmp_path, root, monkeypatch):
    run = lab.running.Training(root / "jobs" / "experiments" / f"{ROW}.yaml", "run", tmp_path, 3)
    (run.folder / "commits").mkdir(parents=True)
    (run.folder / "half").touch()
    newest = SimpleNamespace(manifest=None) if committed else None
    monkeypatch.setattr(lab.running, "Commits", lambda *_: SimpleNamespace(newest=lambda: newest))
    asked = []
    monkeypatch.setattr(lab.running, "process", lambda words, log: asked.append(words[3:]))
    lab.running.train(run)
    assert asked[0][0] == ("resume" if committed else "train")
    assert (run.folder / "half").exists() == committed


def test_a_run_that_an_orphan_works_on_is_waited_for(lab, tmp_path, root, monkeypatch):
    run = lab.running.Training(root / "jobs" / "experiments" / f"{ROW}.yaml", "run", tmp_path, 0)
    looks = iter([True, True, False])
    monkeypatch.setattr(lab.running, "is_held", lambda _: next(looks))
    monkeypatch.setattr(lab.running, "_LOOK_S", 0.0)
    monkeypatch.setattr(lab.running, "is_trained", lambda _: True)
    monkeypatch.setattr(lab.running, "process", lambda *_: pytest.fail("began it again"))
    lab.running.train(run)
    assert next(looks, None) is None


def test_steps_after_a_failure_are_not_begun(lab):
    done = []

    def fail():
        raise RuntimeError("out of room")

    steps = [
        lab.running.Step(name, 1.0, lambda: False, do) for name, do in [("a", fail), ("b", lambda: done.append("b"))]
    ]
    with pytest.raises(RuntimeError, match="out of room"):
        lab.running.see_through([steps[:1], steps[1:]], 1, lambda _: None)
    assert done == []
    assert lab.running.see_through([steps[1:]], 1, lambda _: None) < 1.0
    assert done == ["b"]  # control


def test_the_time_left_follows_what_was_seen(lab):
    steps = [lab.running.Step(f"{n}", 60.0, lambda: False, lambda: None) for n in range(5)]
    said = []
    progress = lab.running.Progress(said.append, 2, list(steps))
    assert "5 steps left, about 2.5 min" in progress.left()
    progress.ended(steps[0], 120.0)  # twice as long as guessed
    assert "4 steps left, about 4.0 min" in said[0]


def test_time_adds_up_over_calls(lab, tmp_path):
    assert lab.tables.spent(tmp_path, 5.0) == 5.0
    assert lab.tables.spent(tmp_path, 2.5) == 7.5


def table(lab, ours, base=1.0, metric="fid"):
    def figures(value):
        return {metric: Estimate(value, None, None, 8)}

    return lab.figures.Table(
        title="T", examined="E.", real=figures(0.1), models={"full model": figures(0.8), "base": figures(base)},
        ours={seed: figures(value) for seed, value in enumerate(ours)}, paper={metric: "-13.9 %"}, paper_source="p",
    )  # fmt: skip


def test_relative_gains_and_their_intervals(lab):
    """Against Student's quantile of a printed table: 4.303 at two degrees of freedom."""
    found = table(lab, [0.7, 0.8, 0.9])
    change = found.changes()["fid"]
    half = 4.303 * 0.1 / math.sqrt(3)
    assert (change.value, change.low, change.high) == pytest.approx((-0.2, -0.2 - half, -0.2 + half), abs=1e-3)
    against_full = found.changes(found.models["full model"])["fid"]
    assert (against_full.value, against_full.high) == pytest.approx((0.0, half / 0.8), abs=1e-3)
    lines = list(found.lines())
    assert "| ours against the base | -20.0 % [-44.8, +4.8] |" in lines
    assert "| the paper, its ours against its base | -13.9 % |" in lines
    assert "No difference between ours and the base that 3 seeds can show: FID." in "\n".join(lines)


def test_a_difference_is_called_one_where_its_interval_leaves_out_zero(lab):
    assert "Every difference" in "\n".join(table(lab, [0.79, 0.80, 0.81]).lines())
    assert "nothing is shown" in "\n".join(table(lab, [0.8]).lines())


def test_the_oracle_changes_in_points_and_zero_has_no_relative_change(lab):
    assert table(lab, [0.4, 0.5], base=0.25, metric="success").changes()["success"].value == pytest.approx(0.2)
    assert table(lab, [0.4, 0.5], base=0.0, metric="success").changes()["success"].value == pytest.approx(0.45)
    assert table(lab, [0.4, 0.5], base=0.0).changes() == {}
    assert "| ours against the base | – |" in list(table(lab, [0.4, 0.5], base=0.0).lines())


def test_the_paper_s_changes_are_those_of_its_tables(lab):
    assert lab.tables.ROWS["cross-to-second"].changes["r_precision_1"] == "+14.1 %"
    assert lab.tables.ROWS["cross-to-second"].changes["fid"] == "-30.6 %"
    assert lab.tables.ROWS["cross-to-first"].changes["multimodality"] == "-1.3 %"
    assert lab.tables.ROWS["leave-out-knee"].changes["r_precision_1"] == "+6.0 %"
    assert lab.tables.ROWS["leave-out-knee"].changes["fid"] == "-13.9 %"
    assert lab.tables.ROWS["leave-out-squat"].changes["r_precision_1"] == "+12.2 %"
    assert lab.tables.relative_changes(*lab.tables.KEPT[1])["fid"] == "-20.0 %"


def measured(lab, blur, start="noise", **extra):
    rng = np.random.default_rng(1)
    text = rng.normal(size=(32, 4))
    motion = text + blur * rng.normal(size=(3, 32, 4))
    success = np.zeros((3, 32), np.float32)
    success[0] = 1
    return lab.measuring.Measured(motion, text, ["walk"] * 32, success, success, start_sha256=start, **extra)


def test_figures_are_of_the_arms_and_the_nearer_fits_better(lab):
    near, far = measured(lab, 0.05), measured(lab, 1.0)
    rng = np.random.default_rng(2)
    text = rng.normal(size=(96, 4))
    real = lab.measuring.Measured(text + 0.05, text, ["walk"] * 96, np.ones(96))
    found = lab.figures.figures({"base": far, "seed0": near}, real, seed=0)
    assert found["seed0"]["r_precision_1"].value > found["base"]["r_precision_1"].value
    assert found["seed0"]["multimodal_distance"].value < found["base"]["multimodal_distance"].value
    assert found["seed0"]["fid"].value < found["base"]["fid"].value
    assert found["base"]["success"].value == pytest.approx(1 / 3)
    assert found["real"]["success"].value == 1.0
    assert found["real"]["r_precision_1"].value == 1.0
    with pytest.raises(UserError, match="2 kinds of noise"):
        lab.figures.figures({"base": far, "seed0": measured(lab, 0.1, start="other noise")}, real, seed=0)


def test_too_little_real_motion_has_no_floor_and_the_table_says_so(lab):
    """One real motion makes no two halves; the other metrics stand all the same."""
    base, tuned = measured(lab, 1.0), measured(lab, 0.05)

    def lines(real, **extra):
        text = np.random.default_rng(2).normal(size=(real, 4))
        motion = lab.measuring.Measured(text, text, ["walk"] * real, np.ones(real), **extra)
        found = lab.figures.figures({"base": base, "seed0": tuned}, motion, seed=0)
        models, ours = {"base": found["base"]}, {0: found["seed0"]}
        return found, "\n".join(lab.figures.Table("T", "E.", found["real"], models, ours, {}, "").lines())

    found, text = lines(1, others=np.ones((1, 3, 4)))
    assert "No FID and no floor" in text
    assert "FID ↓" not in text
    assert {"success", "r_precision_1"} <= found["real"].keys()
    assert found["base"]["multimodal_distance"].value > found["seed0"]["multimodal_distance"].value
    found, text = lines(96)  # control
    assert "fid" in found["real"]
    assert "no floor" not in text


def test_one_action_alone_is_told_from_other_captions(lab):
    motion, own = np.zeros((3, 2)), np.array([[1.0, 0], [2.0, 0], [3.0, 0]])
    others = np.tile(np.array([[2.0, 0], [2.5, 0], [9.0, 0]]), (3, 1, 1))
    # Ranks 0; 0.5, as a tie counts as the average; 2.
    assert lab.figures.nearest_K(motion, own, others) == pytest.approx([2 / 3, 2 / 3, 1.0])
    assert lab.figures.nearest_K(motion, 10 * own, others) == pytest.approx([0.0, 0.0, 0.0])


def test_parts_are_written_and_read(lab):
    for text in ("first/test", "source/test+target/test", "source/test:knee", "source/test:-knee"):
        assert str(lab.parts.Part.of(text)) == text
    only, without = lab.parts.Part.of("source/test:knee"), lab.parts.Part.of("source/test:-knee")
    assert [part.has("knee") for part in (only, without)] == [True, False]
    assert [part.has("squat") for part in (only, without)] == [False, True]


@pytest.mark.parametrize(("use", "split"), [("test", "source/val"), ("test", "source/train"), ("val", "source/test")])
def test_splits_of_another_use_are_refused(use, split, lab):
    part = lab.parts.Part.of(f"source/{use}+{split}")
    with pytest.raises(UserError, match=f"want {use} splits alone"):
        lab.parts.refuse_other_than(use, [part])
    lab.parts.refuse_other_than(use, [lab.parts.Part.of(f"source/{use}")])  # control


def test_what_was_trained_on_is_not_examined(lab):
    from rl_motion.data import embedded

    part = lab.parts.Part.of("source/test:knee")
    trained = [prompt for prompt in embedded.prompts("source/train") if prompt.group == "knee"]
    lab.parts.refuse_leak("row", trained, part, 20.0, new=True)  # control
    held_out = [prompt for prompt in embedded.wordings("source/test") if prompt.group == "knee"]
    with pytest.raises(UserError, match="that the job reads too"):
        lab.parts.refuse_leak("row", [*trained, held_out[0]], part, 20.0, new=False)


def test_what_was_trained_on_in_other_words_is_not_examined_as_new(lab):
    from rl_motion.data import embedded

    part = lab.parts.Part.of("source/test")
    known = {prompt.text for prompt in embedded.prompts("source/test")}
    reworded = [prompt for prompt in embedded.wordings("source/test") if prompt.text not in known][:1]
    with pytest.raises(UserError, match="in other words"):
        lab.parts.refuse_leak("row", reworded, part, 20.0, new=True)
    lab.parts.refuse_leak("row", reworded, part, 20.0, new=False)  # control: of what is kept, only the same words count


def test_an_action_s_prompts_and_what_they_are_told_from(lab):
    part = lab.parts.Part.of("source/test:knee")
    prompts = lab.parts.prompts_of(part, 128, 0, 20.0)
    assert len(prompts) == len({prompt.text for prompt in prompts}) == 128
    assert {prompt.group for prompt in prompts} == {"knee"}
    assert prompts == lab.parts.prompts_of(part, 128, 0, 20.0)
    assert prompts != lab.parts.prompts_of(part, 128, 1, 20.0)
    said = lab.parts.combinations(("source/test",))
    others = [said[text] for text in lab.parts.distractors(part, prompts[0].text, 31, 0)]
    assert len(set(others)) == 31
    assert said[prompts[0].text] not in others
    knees = {claim for claim in said.values() if claim.action == "knee"}
    assert knees - {said[prompts[0].text]} == {claim for claim in others if claim.action == "knee"}


def test_lengths_are_in_frames_of_the_model(lab):
    from rl_motion.motion.resample import resampled_frames

    for written in ("source/test", "source/test:knee"):
        part = lab.parts.Part.of(written)
        own = {prompt.length for prompt in lab.parts.prompts_of(part, 64, 0, 20.0)}
        slower = {prompt.length for prompt in lab.parts.prompts_of(part, 64, 0, 12.5)}
        # Rows of motion hold one frame more. What comes back is as long as motion of that world is.
        back = {int(resampled_frames(length + 1, 12.5, 20.0)) - 1 for length in slower}
        assert back <= own, written
        shorter = {int(resampled_frames(length, 12.5, 20.0)) - 1 for length in slower}
        assert not shorter <= own, written  # control: a frame less, and it is not


def test_every_row_is_a_job_on_what_it_says(lab, root):
    from rl_motion.data import embedded
    from rl_motion.prompts.pool import read_prompts

    for name, row in lab.tables.ROWS.items():
        job = load_job(str(root / "jobs" / "experiments" / f"{name}.yaml"))
        assert job.name == name
        lab.parts.refuse_other_than("test", [lab.parts.Part.of(row.exam), lab.parts.Part.of(row.kept)])
        assert not any(source.endswith(("/test", "/val")) for source in job.prompts.sources)
        for split in (source for source in job.prompts.sources if "/" in source and not source.endswith(".txt")):
            assert split.endswith("/train")
    for action in ("knee", "squat"):
        written = read_prompts(root / "jobs" / "experiments" / f"{action}.txt", 40)
        captions = [prompt for prompt in embedded.prompts("source/train") if prompt.group == action]
        assert [prompt.id for prompt in written] == [prompt.id for prompt in captions]


class Judge:
    """Stands for an evaluator."""

    def to(self, device):
        return self

    def embed_motions(self, motions):
        return motions.features_BFD[..., :5].mean(dim=1)

    def embed_texts(self, texts):
        import torch

        return torch.tensor([[len(text), text.count("e"), 0, 0, 0] for text in texts], dtype=torch.float32)


def test_an_arm_is_measured_from_the_same_noise_as_another(lab, monkeypatch, tmp_path):
    monkeypatch.setattr("rl_motion.models.zoo.load_evaluator", lambda _: Judge())
    job = lab.tables.examination(
        load_job("demo", ["policy.steps=2", "algorithm.transitions=1", "train.prompts_per_unit=2"])
    )

    def ask(arm, model="mdm-embedded", seed=5):
        named = job.model_copy(update={"model": job.model.model_copy(update={"name": model})})
        return lab.measuring.Ask(
            arm=arm, part="source/test:knee", job=named.model_dump(mode="json"), adapter=None, evaluator="judge",
            prompts=3, samples=2, seed=seed, real=2,
        )  # fmt: skip

    asks = (ask("base"), ask("base", "mdm-embedded-b"), ask("base", seed=6))
    one, other, later = (lab.measuring.measure(wanted) for wanted in asks)
    assert one["motion"].shape == (2, 3, 5)
    assert one["success"].shape == one["reward"].shape == (2, 3)
    assert one["others"].shape == (3, 31, 5)
    assert one["start_sha256"] == other["start_sha256"] != later["start_sha256"]
    assert not np.array_equal(one["motion"], other["motion"])
    real = lab.measuring.measure(ask("real"))
    assert real["motion"].shape == real["text"].shape == (6, 5)
    assert real["success"].mean() == 1.0  # real motion does what it says
    file = tmp_path / "measured.npz"
    lab.measuring.write(file, ask("base"), one)
    assert lab.measuring.is_measured(file, ask("base"))
    assert np.array_equal(lab.measuring.read(file).motion, one["motion"])
    with pytest.raises(UserError, match="measured with other seed"):
        lab.measuring.is_measured(file, ask("base", seed=6))


@pytest.fixture
def ablations(lab):
    return lab.ablations


def variant(gains):
    """Of each seed, 4 prompts x 1 sample; the tuned one does so many of them, the base the first."""
    ids = ["a", "b", "c", "d"]
    part = [{"ids": ids, "base": [1.0, 0, 0, 0], "tuned": [float(n < gain) for n in range(4)], "diversity": 1.0}
            for gain in gains]  # fmt: skip
    rest = {"minutes": 1.0, "policy/kl": 1e-6, "policy/clip_fraction": 0.0, "policy/gradient_share_s0": 0.5}
    return {seed: {"target": one, "source": one, **rest} for seed, one in enumerate(part)}


def test_a_variant_that_fails_costs_no_other(ablations, tmp_path, monkeypatch):
    """What is done is written, the rest is gone on with, and the same command makes what is missing."""
    monkeypatch.setattr(ablations, "TABLES", {"small": {name: [f"v={name}"] for name in ("one", "two", "three")}})
    monkeypatch.setattr(ablations, "_inputs", lambda *_: {})
    fails, made = {"two"}, []

    def train(_, settings, seed):
        name = settings[-1].removeprefix("v=")
        if name in fails:
            raise ValueError("out of luck")
        made.append(name)
        return variant([seed + 2])[0]

    monkeypatch.setattr(ablations, "_alone", train)
    app = typer.Typer()
    app.command()(ablations.main)
    words = ["--table", "small", "--out", str(tmp_path), "--parallel", "1"]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 1, ended.output
    assert made == ["one", "three"]
    assert "error: 1 of 3 failed" in ended.stderr
    assert "two, seed 0: failed with ValueError: out of luck" in ended.stderr
    assert len(list(tmp_path.rglob("*.json"))) == 2
    assert not list(tmp_path.rglob("*.md"))
    fails.clear()
    ended = CliRunner().invoke(app, words)
    assert (ended.exit_code, made) == (0, ["one", "three", "two"]), ended.output
    assert len(list(tmp_path.rglob("*.md"))) == 1


def test_a_killed_process_takes_no_other_with_it(ablations):
    with pytest.raises(BrokenProcessPool):
        ablations._alone(os._exit, 9)
    assert ablations._alone(math.sqrt, 4.0) == 2.0


def test_variants_are_paired_with_the_first(ablations):
    first, second = variant([2]), variant([3])
    assert ablations.change(first, "target").value == 0.25
    assert ablations.against(first, second, "target").value == 0.25
    same = ablations.against(first, variant([2]), "target")
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)  # paired prompt by prompt: no spread
    several = ablations.against(variant([2, 1, 2]), variant([3, 2, 3]), "target")
    assert (several.value, several.low) == (0.25, 0.25)  # paired seed by seed
    change = ablations.change(variant([1, 2, 3]), "target")
    half = 4.303 * 0.25 / math.sqrt(3)
    assert (change.value, change.high) == pytest.approx((0.25, 0.25 + half), abs=1e-3)
    lines = list(ablations.lines({"as the demo": first, "other": second}))
    assert lines[2].startswith("| as the demo | 25.0 | +25.0")
    assert "one seed" in "\n".join(lines)


def test_ablations_look_at_validation_alone(ablations):
    assert set(ablations.SPLITS.values()) == {"target/val", "source/val"}
    for settings in (sets for table in ablations.TABLES.values() for sets in table.values()):
        assert not any("/test" in value for value in settings)


def test_the_settings_that_the_paper_leaves_open_have_a_variant(ablations):
    sets = [value for variant in ablations.TABLES["paper"].values() for value in variant]
    for key in ("policy.order", "algorithm.transitions", "policy.guidance_scale", "adapter.rank", "clip_range",
                "kl_weight", "samples_per_prompt", "prompts.sources"):  # fmt: skip
        assert any(key in value for value in sets), key
    demo = load_job("demo").train
    for each in (4, 16):
        train = load_job("demo", ablations._samples(each)).train
        assert train.prompts_per_iteration * train.samples_per_prompt == 192 == demo.prompts_per_iteration * 8
        assert train.prompts_per_unit * each == 48
