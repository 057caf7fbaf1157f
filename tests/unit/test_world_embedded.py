"""The embedded world's splits, prompts and clips: disjoint, complete, pinned, the same in every process."""

import hashlib
import os
import subprocess
import sys
from dataclasses import astuple, replace
from itertools import combinations
from random import Random

import numpy as np
import pytest
import torch

from rl_motion.config import UserError
from rl_motion.data import embedded, oracle
from rl_motion.data.embedded import (
    FRAMES,
    LENGTHS,
    PROMPTS_PER_CLAIM,
    SPLITS,
    clips,
    make_prompt,
    prompts,
    splits,
)
from rl_motion.data.grammar import COARSE, Claim, render, source_claims, target_claims
from rl_motion.motion.features import features_to_joints

SEED = 70_707
SIDES = ("left", "right", "clockwise")
PINNED = "0f8d1c30eb4203471c4eca63d2265778e28e529128ab63a5ec8ff5becb7eb258"
"""Of all splits and prompts. The packaged models were trained on this world: a change orphans them."""


def world_digest():
    """Hash of the combinations and prompts of every split; no arithmetic that machines could round differently."""
    rows = [(s, [c.key for c in splits()[s]], [(p.id, p.text, p.length, p.group) for p in prompts(s)]) for s in SPLITS]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def test_splits_share_no_combination_and_cover_the_world():
    assert tuple(splits()) == SPLITS == (
        "source/train", "source/val", "source/test", "target/train", "target/val", "target/test",
    )  # fmt: skip
    for one, other in combinations(SPLITS, 2):
        assert not {*splits()[one]} & {*splits()[other]}
    for domain, claims in (("source", source_claims()), ("target", target_claims())):
        held = [c for s in SPLITS if s.startswith(domain) for c in splits()[s]]
        assert sorted(held) == sorted(claims)


def test_no_caption_is_in_two_splits():
    for one, other in combinations(SPLITS, 2):
        assert not {p.text for p in prompts(one)} & {p.text for p in prompts(other)}


def test_sizes():
    assert {name: len(claims) for name, claims in splits().items()} == {
        "source/train": 332, "source/val": 48, "source/test": 101,
        "target/train": 245, "target/val": 38, "target/test": 69,
    }  # fmt: skip
    for name, claims in splits().items():
        # A few wordings repeat by chance and are listed once.
        assert 0.9 * PROMPTS_PER_CLAIM * len(claims) <= len(prompts(name)) <= PROMPTS_PER_CLAIM * len(claims)
    assert min(len(prompts(name)) for name in ("source/test", "target/test")) >= 256


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_target_action_has_all_of_its_sides(part):
    for action in COARSE:
        want = {c.side for c in target_claims() if c.action == action}
        assert len(want) == 2
        assert {c.side for c in splits()[f"target/{part}"] if c.action == action} == want


FIELDS = ("side", "count", "speed", "extent", "gaze", "style")


def missing_pairs(made):
    """Pairs of values that val or test combine and train never shows together for that action."""

    def pairs(claim):
        values = [(name, getattr(claim, name)) for name in FIELDS]
        return {(claim.action, *pair) for pair in combinations(values, 2)}

    missing = set()
    for domain in ("source", "target"):
        seen = set().union(*map(pairs, made[f"{domain}/train"]))
        missing |= set().union(*(pairs(c) for part in ("val", "test") for c in made[f"{domain}/{part}"])) - seen
    return missing


def test_train_holds_every_pair_of_values_that_val_and_test_combine():
    """What is held out are combinations of three and more, not words and not pairs."""
    assert missing_pairs(splits()) == set()
    blind = splits() | {
        "target/train": tuple(c for c in splits()["target/train"] if (c.side, c.gaze) != ("left", "up"))
    }
    assert len(missing_pairs(blind)) >= 5  # negative control


def test_source_captions_never_name_a_coarse_side_and_target_captions_always_do():
    for name in SPLITS:
        for prompt in prompts(name):
            if prompt.group in COARSE:
                assert any(word in prompt.text for word in SIDES) == name.startswith("target/"), prompt


def test_prompts_are_unique_known_and_of_the_stated_lengths():
    for name in SPLITS:
        made = prompts(name)
        assert len({p.id for p in made}) == len(made)
        assert {p.length for p in made} == set(LENGTHS)
        assert {p.group for p in made} == {c.action for c in splits()[name]}


def test_wordings_are_functions_of_split_claim_and_index():
    claim = splits()["target/test"][0]
    assert make_prompt("target/test", claim, 3) == make_prompt("target/test", claim, 3)
    assert len({make_prompt("target/test", claim, n).text for n in range(20)}) > 10
    assert make_prompt("target/test", claim, 3).id in {p.id for p in prompts("target/test")}


def test_clips_are_finite_and_zero_beyond_their_length():
    train = splits()["target/train"]
    number = len(train) + 6
    made = clips("target/train", number, SEED)
    assert made.features_NFD.shape == (number, FRAMES, 263)
    assert made.features_NFD.dtype == np.float32
    assert np.isfinite(made.features_NFD).all()
    assert set(made.length_N.tolist()) == set(LENGTHS)
    for x_FD, length in zip(made.features_NFD, made.length_N, strict=True):
        assert not x_FD[length:].any()
        assert x_FD[:length].any(1).all()
    assert made.claims == (*train, *train[:6])
    assert len(made.captions) == number


def test_the_seed_decides_the_motion_and_a_longer_draw_begins_like_a_shorter_one():
    few, more, other = clips("source/val", 5, SEED), clips("source/val", 9, SEED), clips("source/val", 5, SEED + 1)
    assert np.array_equal(few.features_NFD, more.features_NFD[:5])
    assert few.captions == more.captions[:5]
    assert np.abs(few.features_NFD - other.features_NFD).max(axis=(1, 2)).min() > 0.01


@pytest.fixture
def still(monkeypatch):
    """Clips without motion, where only captions matter: a thousand of them cost nothing."""
    monkeypatch.setattr(embedded, "perform", lambda *_: None)
    monkeypatch.setattr(embedded, "joints_to_features", lambda *_, **__: 0.0)


def said(caption):
    """The combination that a caption names, in the oracle's reading."""
    return Claim(*astuple(oracle.read(caption)))


def named(made):
    """(combination, what its caption says) of the clips whose caption says something else."""
    return [(claim, said(c)) for claim, c in zip(made.claims, made.captions, strict=True) if said(c) != claim]


@pytest.mark.usefixtures("still")
def test_the_source_names_sides_of_coarse_combinations_as_often_as_asked():
    number = 6000
    made = {share: clips("source/train", number, SEED, named_sides=share) for share in (0.0, 0.5, 1.0)}
    known = {*splits()["target/train"]}
    nameable = sum(len({o for o in known if replace(o, side="") == c}) == 2 for c in made[0.0].claims)
    assert nameable > 600
    assert named(made[0.0]) == []
    assert made[0.0].captions == clips("source/train", number, SEED).captions
    assert len(named(made[1.0])) == nameable
    assert 0.4 * nameable < len(named(made[0.5])) < 0.6 * nameable
    for claim, other in named(made[1.0]):
        assert claim.action in COARSE
        assert claim.side == ""  # the combination that the motion follows stays what it is
        assert replace(other, side="") == claim
        assert other in known
    for action in COARSE:
        sides = [other.side for claim, other in named(made[1.0]) if claim.action == action]
        assert 0.3 < sides.count(min(sides)) / len(sides) < 0.7


def leaks():
    """Combinations of val or test of either domain in captions of another split of the source, sides named."""
    held = {c: name for name in SPLITS if not name.endswith("train") for c in splits()[name]}
    found = set()
    for name in SPLITS[:3]:
        made = clips(name, 1000, SEED, named_sides=1.0)
        found |= {other for caption in made.captions if held.get(other := said(caption), name) != name}
    return found


@pytest.mark.usefixtures("still")
def test_named_sides_never_say_a_combination_of_val_or_test(monkeypatch):
    assert leaks() == set()

    def all_sides(claim):
        return tuple(c for c in target_claims() if replace(c, side="") == claim)

    monkeypatch.setattr(embedded, "_nameable", all_sides)  # negative control: what is asked for without regard
    assert {c.action for c in leaks()} == set(COARSE)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("split", [name for name in SPLITS if name.startswith("target/")])
def test_captions_of_the_target_keep_their_own_side(split):
    number = len(splits()[split])
    assert clips(split, number, SEED, named_sides=1.0).captions == clips(split, number, SEED).captions


def test_half_of_the_named_sides_are_wrong(monkeypatch):
    """Judged by the motion itself; everything else that the caption says is true."""
    coarse = tuple(c for c in splits()["source/train"] if embedded._nameable(c))
    only_coarse = splits() | {"source/train": coarse}
    monkeypatch.setattr(embedded, "splits", lambda: only_coarse)
    number = max(2 * len(coarse), 150)
    made = clips("source/train", number, SEED, named_sides=1.0)
    right, true = [], []
    for claim, caption, x_FD, length in zip(made.claims, made.captions, made.features_NFD, made.length_N, strict=True):
        joints_FJ3 = features_to_joints(torch.from_numpy(x_FD[:length])).numpy()
        right.append(oracle.check(caption, joints_FJ3).success)
        true.append(oracle.check(render(claim, Random(caption)), joints_FJ3).success)
    assert np.mean(true) >= 0.97
    assert 0.4 < np.mean(right) < 0.6
    quiet = clips("source/train", number, SEED)
    assert np.array_equal(made.features_NFD, quiet.features_NFD)  # naming a side changes no motion


PROCESS = """
import hashlib
from rl_motion.data.embedded import SPLITS, clips, prompts, splits
made = [clips(s, 6, 70707) for s in SPLITS]
text = repr([(splits()[s], prompts(s)) for s in SPLITS] + [(m.captions, m.length_N.tolist()) for m in made])
print(hashlib.sha256(text.encode() + b"".join(m.features_NFD.tobytes() for m in made)).hexdigest())
print(hash("salted"))
"""


def test_every_process_sees_the_same_world(root):
    runs = []
    for salt in ("0", "1", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": salt}
        command = [sys.executable, "-c", PROCESS]
        run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
        runs.append(run.stdout.split())
    digests, salted = zip(*runs, strict=True)
    assert len(set(digests)) == 1
    assert len(set(salted)) == 3  # the processes did differ in how they hash


def test_the_world_is_the_one_that_the_packaged_models_were_trained_on():
    assert world_digest() == PINNED


@pytest.mark.parametrize(
    ("split", "pose", "root", "frames"),
    [("source/train", 0.3532680, 0.007587401, 12938), ("target/train", 0.3539714, 0.008206250, 9572)],
)
def test_the_mover_is_the_one_that_the_packaged_models_were_trained_on(split, pose, root, frames):
    """Mean size of pose and root features over one clip per combination; rounding is far smaller."""
    made = clips(split, len(splits()[split]), SEED)
    assert int(made.length_N.sum()) == frames
    assert np.abs(made.features_NFD[..., :67]).mean(dtype=float) == pytest.approx(pose, rel=1e-5)
    assert np.abs(made.features_NFD[..., :3]).mean(dtype=float) == pytest.approx(root, rel=1e-5)


def test_another_world_is_noticed(monkeypatch):
    """Negative control: one wording more per combination, or two splits exchanged, changes the digest."""
    monkeypatch.setattr(embedded, "PROMPTS_PER_CLAIM", PROMPTS_PER_CLAIM + 1)
    assert world_digest() != PINNED
    monkeypatch.undo()
    exchanged = splits() | {"source/val": splits()["source/test"], "source/test": splits()["source/val"]}
    monkeypatch.setattr(embedded, "splits", lambda: exchanged)
    assert world_digest() != PINNED


@pytest.mark.parametrize("call", [prompts, lambda split: clips(split, 1)], ids=["prompts", "clips"])
@pytest.mark.parametrize("split", ["target", "source/dev", ""])
def test_unknown_splits_are_explained(call, split):
    with pytest.raises(UserError, match=r"got split '.*'; want one of source/train, .*target/test; choose"):
        call(split)
