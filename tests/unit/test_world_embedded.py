"""The embedded world's splits, prompts and clips: disjoint, complete, pinned, the same in every process."""

import hashlib
import os
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

from rl_motion.config import UserError
from rl_motion.data import embedded
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
from rl_motion.data.grammar import COARSE, source_claims, target_claims

SEED = 70_707
SIDES = ("left", "right", "clockwise")
PINNED = "3060dd3d4deda3b3cdf12b2142ec1511f1e3ebc0a7171d7c62bf208af90acfe5"
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
        "source/train": 69, "source/val": 17, "source/test": 32,
        "target/train": 69, "target/val": 14, "target/test": 27,
    }  # fmt: skip
    for name, claims in splits().items():
        # A few wordings repeat by chance and are listed once.
        assert 0.9 * PROMPTS_PER_CLAIM * len(claims) <= len(prompts(name)) <= PROMPTS_PER_CLAIM * len(claims)
    assert len(prompts("target/test")) >= 256


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_target_action_has_all_of_its_sides(part):
    for action in COARSE:
        want = {c.side for c in target_claims() if c.action == action}
        assert len(want) == 2
        assert {c.side for c in splits()[f"target/{part}"] if c.action == action} == want


@pytest.mark.parametrize("domain", ["source", "target"])
def test_train_holds_every_value_that_test_combines(domain):
    """What is held out are combinations, not words."""
    for part in ("val", "test"):
        for claim in splits()[f"{domain}/{part}"]:
            train = [c for c in splits()[f"{domain}/train"] if c.action == claim.action]
            for name in ("side", "count", "speed", "extent"):
                assert getattr(claim, name) in {getattr(c, name) for c in train}, (claim, name)


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
    made = clips("target/train", 75, SEED)
    assert made.features_NFD.shape == (75, FRAMES, 263)
    assert made.features_NFD.dtype == np.float32
    assert np.isfinite(made.features_NFD).all()
    assert set(made.length_N.tolist()) == set(LENGTHS)
    for x_FD, length in zip(made.features_NFD, made.length_N, strict=True):
        assert not x_FD[length:].any()
        assert x_FD[:length].any(1).all()
    train = splits()["target/train"]
    assert made.claims == (*train, *train[: 75 - len(train)])
    assert len(made.captions) == 75


def test_the_seed_decides_the_motion_and_a_longer_draw_begins_like_a_shorter_one():
    few, more, other = clips("source/val", 5, SEED), clips("source/val", 9, SEED), clips("source/val", 5, SEED + 1)
    assert np.array_equal(few.features_NFD, more.features_NFD[:5])
    assert few.captions == more.captions[:5]
    assert np.abs(few.features_NFD - other.features_NFD).max(axis=(1, 2)).min() > 0.01


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
    [("source/train", 0.3545334, 0.00685115, 2704), ("target/train", 0.3546038, 0.00555273, 2700)],
)
def test_the_mover_is_the_one_that_the_packaged_models_were_trained_on(split, pose, root, frames):
    """Mean size of pose and root features over one clip per combination; rounding is far smaller."""
    made = clips(split, 69, SEED)
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
