"""The reward is never the evaluator; no held-out prompt is read; no checkpoint is chosen on a test split."""

import hashlib
import shutil
from dataclasses import replace
from functools import cache
from itertools import count

import pytest

from rl_motion.config import EvaluationConfig, Job, UserError
from rl_motion.data import embedded, worlds
from rl_motion.data.embedded import SPLITS
from rl_motion.evaluation.bench import evaluator_of, evaluator_sha256
from rl_motion.evaluation.guarantees import Seen, refuse_goal, unseen
from rl_motion.models.zoo import ZOO
from rl_motion.runtime.build import build_validation, check_job, seen_by
from rl_motion.runtime.prompt_sources import read_source
from rl_motion.types import Prompt
from tests.pools import pool_in, pool_row

READ = worlds.FIRST.read
prompts, wordings = cache(embedded.prompts), cache(embedded.wordings)


def job(**changes):
    return Job.model_validate({"name": "toy"} | changes)


def held_out(count=40, split="target/test"):
    return prompts(split)[:count]


# --- the reward is never the evaluator ------------------------------------------------------------


def sha256(checkpoint):
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()


def test_an_evaluator_that_a_reward_reads_is_refused(tmp_path):
    goal = sha256(ZOO / "tmr-embedded")
    for name in ("tmr", "tmr_contrastive"):
        with pytest.raises(UserError, match=f"got an evaluator that reward '{name}' reads too.*want.*choose"):
            refuse_goal(goal, job(rewards=[{"name": "foot_skate"}, {"name": name}]))
    # A copy under another name is the same goal.
    shutil.copytree(ZOO / "tmr-embedded", tmp_path / "mine")
    shutil.copytree(ZOO / "text-embedded", tmp_path / "text-embedded")
    with pytest.raises(UserError, match="reads too"):
        refuse_goal(goal, job(rewards=[{"name": "tmr", "model": str(tmp_path / "mine")}]))
    # Negative controls: another evaluator, or rewards without weights.
    refuse_goal("0" * 64, job())
    refuse_goal(goal, job(rewards=[{"name": "foot_skate"}]))


def test_a_plugin_that_loads_an_evaluator_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    honest = "class Mine:\n    pass\n"
    (tmp_path / "mine.py").write_text(honest)
    refuse_goal("0" * 64, job(rewards=[{"name": "mine.py:Mine"}]))
    for line in (
        "from rl_motion.models.zoo import load_evaluator",
        "from rl_motion.evaluation.bench import evaluator_of",
        "from rl_motion.models.guo import Guo",
        "WEIGHTS = 'zoo/guo-embedded/model.safetensors'",
    ):
        (tmp_path / "mine.py").write_text(f"{line}\n{honest}")
        with pytest.raises(UserError, match=r"reward 'mine.py:Mine'"):
            refuse_goal("0" * 64, job(rewards=[{"name": "mine.py:Mine"}]))


PLUGIN = """
from rl_motion.types import MotionForm, Normalisation, Representation

class Mine:
    accepts = frozenset({MotionForm(Representation.HUMANML3D_263, Normalisation.NONE)})
    differentiable = True

    def __call__(self, motions, prompts, noise_level_B=None):
        %s
"""


def test_such_a_job_is_refused_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUGIN % "return motions.features_BFD[..., 2].sum(dim=1)")
    check_job(job(rewards=[{"name": "mine.py:Mine"}]))
    (tmp_path / "mine.py").write_text(PLUGIN % "return load_evaluator('guo-embedded').embed_motions(motions)[:, 0]")
    with pytest.raises(UserError, match=r"reward 'mine.py:Mine' reads too"):
        check_job(job(rewards=[{"name": "mine.py:Mine"}]))
    # The other way is closed too: a reward's weights are a retrieval model's, an evaluator is none.
    with pytest.raises(UserError, match="guo"):
        check_job(job(rewards=[{"name": "tmr", "model": "guo-embedded"}]))
    # Nor does anything in the package give its evaluator to a reward.
    sources = [path.read_text() for path in (ZOO.parent / "rewards").glob("*.py")]
    assert sources and not any("load_evaluator" in source or "EVALUATORS" in source for source in sources)


def test_what_is_held_out_is_a_test_split_and_a_name_left_out_keeps_its_own():
    splits = EvaluationConfig(splits={"held_out": "second/test"}).splits
    assert splits == {"held_out": "second/test", "original": "source/test", "train": "target/train"}
    for name, split in (("held_out", "target/val"), ("original", "source/train"), ("train", "target/test")):
        with pytest.raises(ValueError, match=f"got {name}='{split}'; want source/"):
            EvaluationConfig(splits={name: split})


def test_a_run_does_not_wait_for_an_alarm_that_cannot_come():
    """Bands are of a frame rate: those of 20 a second judge no motion of 12.5."""
    slow = {"model": {"name": "mdm-second"}, "rewards": [{"name": "tmr", "model": "tmr-second"}]}
    slow |= {"prompts": {"sources": {"second/train": 1}, "validation": {"second/val": 1}}}
    slow |= {"evaluation": {"validate_every": 1, "splits": {"held_out": "second/test", "train": "second/train"}}}
    with pytest.raises(UserError, match="another frame rate"):
        check_job(job(**slow, sentinels={"pause": True}))
    check_job(job(**slow, sentinels={"pause": True, "bands": "second"}))


# --- no held-out prompt is read ------------------------------------------------------------


@pytest.mark.parametrize(
    "alike",
    [
        lambda prompt: prompt,
        lambda prompt: replace(prompt, id="another", length=20),
        lambda prompt: Prompt("another", f" {prompt.text.upper()}. ", 40),
        lambda prompt: Prompt("another", f'"{prompt.text.replace(" ", ", ", 1)}"?;', 40),
    ],
    ids=["the same", "the same words", "the same words, written otherwise", "the same words, with other marks"],
)
@pytest.mark.parametrize("use", ["trained", "validated"])
def test_a_prompt_that_was_read_is_refused(alike, use):
    examined = held_out()
    leak = [Prompt("1", "a person walks", 40), alike(examined[7])]
    with pytest.raises(UserError, match=r"1 prompts of target/test.*want.*take them out") as caught:
        unseen(examined, "target/test", Seen(**{use: leak}), READ)
    assert examined[7].text[:60] in str(caught.value)
    # Negative control: without the leak all of them are examined.
    assert unseen(examined, "target/test", Seen(**{use: leak[:1]}), READ) == examined


def test_settings_are_chosen_on_val_which_validation_reads_too_and_training_never():
    chosen = held_out(split="target/val")
    assert unseen(chosen, "target/val", Seen(validated=chosen), READ) == chosen
    with pytest.raises(UserError, match="target/val"):
        unseen(chosen, "target/val", Seen(trained=chosen), READ)


def test_a_combination_that_was_read_in_other_words_is_left_out():
    examined = prompts("target/test")
    asked = examined[0]
    known = {prompt.text for prompt in examined}
    other = next(p for p in wordings("target/test") if READ(p.text) == READ(asked.text) and p.text not in known)
    fresh = unseen(examined, "target/test", Seen(trained=[other]), READ)
    assert asked not in fresh
    assert {READ(p.text) for p in examined} - {READ(p.text) for p in fresh} == {READ(asked.text)}
    # Negative control: nobody looks at combinations.
    assert unseen(examined, "target/test", Seen(trained=[other]), None) == examined


def test_a_caption_with_more_to_it_is_no_combination():
    """`a person walks to the right then turns left and climbs a ladder` would read as turning left."""
    examined = prompts("source/test")
    assert any(READ(p.text) == READ("a person turns to the left") for p in examined)
    real = Prompt("1", "a person walks to the right then turns to the left and begins climbing a ladder", 40)
    assert unseen(examined, "source/test", Seen(trained=[real]), READ) == examined
    plain = Prompt("2", "someone turns towards the left", 40)
    assert len(unseen(examined, "source/test", Seen(trained=[plain]), READ)) < len(examined)


def test_where_every_combination_was_read_there_is_nothing_to_examine():
    examined = [p for p in prompts("target/test") if READ(p.text) == READ(prompts("target/test")[0].text)]
    with pytest.raises(UserError, match="no prompt of target/test"):
        unseen(examined[:-1], "target/test", Seen(trained=examined[-1:]), READ)


def test_splits_share_no_combination_as_the_oracle_reads_them():
    combinations = {
        split: {worlds.world_of(split).read(prompt.text) for prompt in worlds.prompts(split)}
        for split in (*SPLITS, "second/train", "second/val", "second/test")
    }
    for split, found in combinations.items():
        part = split.partition("/")[2]
        others = set().union(*(other for name, other in combinations.items() if not name.endswith(part)))
        assert found, split
        assert not found & others, split


@pytest.mark.parametrize("split", ["first/test", "second/test"])
def test_nothing_of_a_packaged_test_split_is_left_out_or_refused(split):
    job_of_all = job(
        prompts={
            "sources": dict.fromkeys(("source/train", "target/train", "second/train"), 1),
            "validation": {"target/val": 1, "second/val": 1},
        },
        evaluation={"validate_every": 1},
    )
    examined = worlds.prompts(split)
    seen = seen_by(job_of_all)
    assert len(seen.trained) > 5000 < len(seen.apart)
    assert unseen(examined, split, seen, worlds.world_of(split).read) == examined


@pytest.mark.parametrize("source", ["text file", "pool"])
def test_held_out_prompts_in_files_and_pools_are_found(tmp_path, source):
    """A file of captions of which one is held out: what the job would read is what is compared."""
    leak = held_out(1)[0]
    path = tmp_path / "mine.txt"
    path.write_text(f"a person walks\n{leak.text}#40\n")
    if source == "pool":
        path = tmp_path / "pool"
        pool_in(path, pool_row(leak.text, 40), pool_row("a person walks", 40))
    small = {"prompts_per_iteration": 2, "prompts_per_unit": 2}
    with pytest.raises(UserError, match=r"1 prompts of target/test.*take them out"):
        check_job(job(prompts={"sources": {str(path): 1}}, train=small))
    if source == "pool":
        return
    examined = {"validate_every": 1, "validation_prompts": 2}
    with pytest.raises(UserError, match=r"1 prompts of target/test.*take them out"):
        check_job(job(prompts={"validation": {str(path): 1}}, evaluation=examined))
    # Negative control: without the line nobody objects, and the caption of one's own is compared as a combination.
    (tmp_path / "honest.txt").write_text("a person walks\na man climbs a ladder\n")
    honest = job(prompts={"sources": {str(tmp_path / "honest.txt"): 1}}, train=small)
    check_job(honest)
    assert not seen_by(honest).apart


# --- no checkpoint is chosen on a test split ------------------------------------------------------------


@pytest.mark.parametrize("split", ["target/test", "source/test", "second/test", "first/test"])
def test_neither_training_nor_validation_reads_a_test_split(split):
    for use, key in (("train", "prompts.sources"), ("val", "prompts.validation")):
        with pytest.raises(UserError, match=f"{key}: got '{split}'.*want"):
            read_source(split, use, 40, 20.0)
    with pytest.raises(UserError, match=r"prompts.validation: got"):
        build_validation(job(prompts={"validation": {split: 1}}, evaluation={"validate_every": 1}))


def test_what_these_tests_notice(monkeypatch):
    """Negative control: with each guard taken out, what it refuses goes through."""
    leak = held_out(3)
    never_twice = count()
    monkeypatch.setattr("rl_motion.evaluation.guarantees._plain", lambda text: str(next(never_twice)))
    renamed = [replace(prompt, id=f"other {prompt.id}") for prompt in leak]
    assert unseen(leak, "target/test", Seen(trained=renamed), None) == leak
    monkeypatch.setattr("rl_motion.evaluation.guarantees.weights_sha256", lambda checkpoint: "")
    refuse_goal(sha256(ZOO / "tmr-embedded"), job())
    # A split whose name says `val` whatever it holds would be read: the name is the guard.
    monkeypatch.setattr("rl_motion.data.worlds.prompts", lambda name, fps: leak)
    assert read_source("target/val", "val", 40, 20.0).prompts == leak


def test_packaged_evaluators_are_no_goal_of_the_packaged_jobs():
    for split in ("target/test", "second/test"):
        found = evaluator_of(split)
        assert found.sha256 == evaluator_sha256(split)
        refuse_goal(found.sha256, job(rewards=[{"name": "tmr"}, {"name": "foot_skate"}]))
