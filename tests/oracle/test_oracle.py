"""The embedded world's oracle, against the generator and the grammar that it imports nothing from.

Claims of the issue: it accepts what does what the caption says, and rejects frozen, random-other, contradicting and
noisy motion; the 263-d round trip changes nothing. Legend: F frames, J joints.
"""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import fields, replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from rl_motion.data import grammar, oracle, oracle_reading
from rl_motion.data.actions import perform
from rl_motion.data.embedded import SPLITS, clips
from rl_motion.data.grammar import COARSE, VERBS, Claim, contradictions, render, source_claims, target_claims
from rl_motion.motion.features import features_to_joints, joints_to_features_batch
from rl_motion.motion.skeleton import JOINT_NAMES

SEED = 90_210
"""Training draws its motions from seeds 100-299; these are others."""
FRAMES = 41
CLAIMS = (*source_claims(), *target_claims())
ENOUGH = {"sit": 140}
"""Motions per action in `world`, where 60 are too few to measure: the action nearest to the bound."""
SWAPPED = [n.replace("left", "?").replace("right", "left").replace("?", "right") for n in JOINT_NAMES]
MIRROR_J = [JOINT_NAMES.index(name) for name in SWAPPED]
OPPOSITE = {
    "left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise",
}  # fmt: skip


def motion(index, repetition, claim=None):
    return perform(claim or CLAIMS[index], FRAMES, np.random.default_rng([SEED, index, repetition]))


def decoded(features_NFD):
    return features_to_joints(torch.as_tensor(features_NFD, dtype=torch.float32)).numpy()


def succeeds(caption, joints_FJ3):
    return oracle.check(caption, joints_FJ3).success


def repetitions(claim, motions):
    """How many motions of a claim give its action at least so many in all."""
    return -(-motions // sum(c.action == claim.action for c in CLAIMS))


@pytest.fixture(scope="module")
def world():
    """Claims, captions and motions: all claims, at least 60 motions of each action."""
    rows = [(i, r) for i, c in enumerate(CLAIMS) for r in range(repetitions(c, ENOUGH.get(c.action, 60)))]
    claims = [CLAIMS[i] for i, _ in rows]
    captions = [render(c, Random(f"{SEED}/{n}")) for n, c in enumerate(claims)]
    joints_NFJ3 = np.stack([motion(i, r) for i, r in rows])
    return claims, captions, joints_NFJ3


@pytest.fixture(scope="module")
def features_NFD(few):
    """The 263 features of `few`."""
    return joints_to_features_batch(np.stack([x for _, _, x in few]), own_heading=True)


@pytest.fixture(scope="module")
def few(world):
    """Some motions of each claim, at least 24 of each action, 84 of sitting: (claim, caption, joints)."""
    seen, rows = defaultdict(int), []
    for claim, caption, joints in zip(*world, strict=True):
        seen[claim] += 1
        if seen[claim] <= repetitions(claim, 84 if claim.action in ENOUGH else 24):
            rows.append((claim, caption, joints))
    return rows


def acceptance(claims, captions, joints_NFJ3):
    """Share of accepted motions, per action and overall."""
    verdicts = defaultdict(list)
    for claim, caption, joints in zip(claims, captions, joints_NFJ3, strict=True):
        verdicts[claim.action].append(succeeds(caption, joints))
    overall = float(np.mean([v for group in verdicts.values() for v in group]))
    return {action: float(np.mean(group)) for action, group in verdicts.items()}, overall


def enough(per_action, overall):
    return min(per_action.values()) >= 0.95 and overall >= 0.99


def test_it_accepts_what_each_action_does(world):
    per_action, overall = acceptance(*world)
    assert min(Counter(c.action for c in world[0]).values()) >= 60
    assert len(per_action) == 25
    assert enough(per_action, overall), (per_action, overall)


def test_a_generator_that_swaps_left_and_right_is_noticed(few):
    """Negative control of acceptance: every sided action falls below the bound."""
    claims = [replace(c, side=OPPOSITE.get(c.side, c.side)) for c, _, _ in few]
    swapped = [motion(CLAIMS.index(c), n, s) for n, ((c, _, _), s) in enumerate(zip(few, claims, strict=True))]
    per_action, overall = acceptance([c for c, _, _ in few], [t for _, t, _ in few], swapped)
    assert not enough(per_action, overall)
    assert all(per_action[action] < 0.95 for action in (*COARSE, "turn", "sidestep", "lean", "twist"))


@pytest.mark.parametrize("split", SPLITS)
def test_it_accepts_the_clips_that_models_are_trained_on(split):
    """As models see them: captions and features of `clips`, with their own lengths, in every split."""
    made = clips(split, 90, seed=SEED)
    rows = zip(made.captions, made.features_NFD, made.length_N, strict=True)
    assert np.mean([succeeds(t, decoded(x_FD[:length])) for t, x_FD, length in rows]) >= 0.97


def test_the_round_trip_through_the_features_does_not_change_its_verdicts(few, features_NFD):
    """Its own captions and contradicting ones, so that both verdicts are compared."""
    same, verdicts = [], set()
    for n, ((claim, caption, joints), back) in enumerate(zip(few, decoded(features_NFD), strict=True)):
        others = [render(c, Random(n)) for c in contradictions(claim).values()]
        for asked in (caption, *others[n % max(len(others), 1) :][:1]):
            before = succeeds(asked, joints)
            same.append(before == succeeds(asked, back))
            verdicts.add(before)
    assert len(same) > 1000
    assert verdicts == {True, False}
    assert np.mean(same) >= 0.995


def test_a_lossy_round_trip_is_noticed(few, features_NFD):
    """Negative control: features whose turning is lost on the way change verdicts."""
    lossy_NFD = features_NFD.copy()
    lossy_NFD[..., 0] = 0.0
    same = [succeeds(t, x) == succeeds(t, b) for (_, t, x), b in zip(few, decoded(lossy_NFD), strict=True)]
    assert np.mean(same) < 0.995


@pytest.mark.parametrize("frame", [0, 8, FRAMES // 2, FRAMES - 1])
def test_it_rejects_frozen_motion(few, frame):
    """At most one motion in a hundred."""
    assert np.mean([succeeds(t, np.repeat(x[frame : frame + 1], FRAMES, 0)) for _, t, x in few[::2]]) <= 0.01


def test_it_rejects_another_action_s_motion(few):
    """Every other caption with four motions of other actions."""
    rng, accepted = Random(SEED), []
    for claim, caption, _ in few[::2]:
        others = rng.sample([row for row in few if row[0].action != claim.action], 4)
        accepted += [(claim.action, c.action) for c, _, joints in others if succeeds(caption, joints)]
    assert len(accepted) <= 0.01 * 4 * len(few[::2]), accepted


@pytest.mark.parametrize("sigma_m", [0.02, 0.05, 0.1, 0.3])
def test_it_rejects_noise_on_joints(few, sigma_m):
    """Noise of 2 to 30 cm on the motion that does what is said, and on a frozen body; every third motion."""
    rng, some = np.random.default_rng(SEED), few[::3]
    noise = [rng.normal(0, sigma_m, x.shape) for _, _, x in some]
    assert np.mean([succeeds(t, x + e) for (_, t, x), e in zip(some, noise, strict=True)]) <= 0.01
    assert np.mean([succeeds(t, x[:1] + e) for (_, t, x), e in zip(some, noise, strict=True)]) <= 0.01


@pytest.mark.parametrize("constant", [False, True], ids=["white", "constant"])
def test_it_rejects_decoded_noise(few, features_NFD, constant):
    """Gaussian features with the data's own mean and deviation; constant ones do not tremble. Every third caption."""
    rng, mean_D, std_D = np.random.default_rng(SEED), features_NFD.mean((0, 1)), features_NFD.std((0, 1))
    noise = rng.normal(size=(len(few[::3]), FRAMES, 263))
    if constant:
        noise = np.repeat(noise[:, :1], FRAMES, 1)
    joints_NFJ3 = decoded(mean_D + std_D * noise)
    assert np.mean([succeeds(t, x) for (_, t, _), x in zip(few[::3], joints_NFJ3, strict=True)]) <= 0.01


KINDS = ("side", "count", "speed", "extent", "gaze", "style")


def differing(claim, kind):
    """The claims that differ from a claim in one field alone, where both say it."""
    said = getattr(claim, kind)
    others = [o for o in CLAIMS if said and getattr(o, kind) not in ("", 0, said)]
    return [o for o in others if replace(o, **{kind: said}) == claim]


DIFFER = {kind: {claim: differing(claim, kind) for claim in CLAIMS} for kind in KINDS}
"""More than `contradictions`: 1 and 3 repetitions, and jumps forward and up, are told apart too."""


def test_every_contradiction_of_the_grammar_is_tried():
    for claim in CLAIMS:
        for kind, other in contradictions(claim).items():
            assert other in DIFFER[kind][claim]
    assert {kind: len({c.action for c, o in DIFFER[kind].items() if o}) for kind in KINDS} == {
        "side": 16, "count": 16, "speed": 8, "extent": 3, "gaze": 25, "style": 1,
    }  # fmt: skip


def rejection(few, kind):
    """Share of motions rejected by captions that contradict them in one kind, per action."""
    verdicts = defaultdict(list)
    for n, (claim, _, joints) in enumerate(few):
        for other in DIFFER[kind][claim]:
            verdicts[claim.action].append(not succeeds(render(other, Random(f"{n}/{other.key}")), joints))
    return {action: float(np.mean(group)) for action, group in verdicts.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_it_rejects_what_contradicts_the_caption(few, kind):
    """Left for right, clockwise for counter-clockwise, 3 for 2, slow for fast, half for full: per action and kind."""
    shares = rejection(few, kind)
    assert shares
    assert min(shares.values()) >= 0.95, shares


def overstated(few, kind):
    """Share of motions of claims that leave a kind unsaid, rejected by captions that say it, per action."""
    said = {"speed": ("slow", "fast"), "gaze": ("down", "up"), "style": ("wings", "hips", "bent")}
    values, verdicts = said[kind], defaultdict(list)
    for n, (claim, _, joints) in enumerate(few):
        for other in (replace(claim, **{kind: value}) for value in values if not getattr(claim, kind)):
            if other in DIFFER[kind]:
                verdicts[claim.action].append(not succeeds(render(other, Random(f"{n}/{other.key}")), joints))
    return {action: float(np.mean(group)) for action, group in verdicts.items()}


@pytest.mark.parametrize(("kind", "actions"), [("speed", 22), ("gaze", 25), ("style", 23)])
def test_what_is_unsaid_is_done_the_ordinary_way(few, kind, actions, monkeypatch):
    """Neither slowly nor fast; head, arms and knees at rest. Counted actions have no fast claims: this tells slow."""
    shares = overstated(few, kind)
    assert len(shares) == actions  # jumps, leans and twists have no speed; runs and jumping jacks no style
    assert min(shares.values()) >= 0.95, shares
    read = oracle.read
    monkeypatch.setattr(oracle, "read", lambda caption: replace(read(caption), **{kind: ""}))
    assert max(overstated(few, kind).values()) < 0.95  # negative control: an oracle blind to it


@pytest.mark.parametrize("kind", KINDS)
def test_an_oracle_that_ignores_what_is_said_is_noticed(few, kind, monkeypatch):
    """Negative control: blind to one kind, it falls below the bound for every action."""
    read, blank = oracle.read, 0 if kind == "count" else ""
    monkeypatch.setattr(oracle, "read", lambda caption: replace(read(caption), **{kind: blank}))
    shares = rejection(few, kind)
    assert shares
    assert max(shares.values()) < 0.95, shares


def test_a_check_that_ignores_the_side_is_noticed(few, monkeypatch):
    kick = oracle.CHECKS["kick"]
    monkeypatch.setitem(oracle.CHECKS, "kick", lambda m, reading: kick(m, replace(reading, side="")))
    shares = rejection(few, "side")
    assert shares.pop("kick") < 0.95
    assert min(shares.values()) >= 0.95


def test_mirrored_motion_flips_the_verdict_of_sided_captions(few):
    assert sorted(MIRROR_J) == list(range(22))
    assert list(range(22)) != MIRROR_J
    sided = [(c, t, x) for c, t, x in few if c.side in OPPOSITE]
    mirrored = [(c, t, x[:, MIRROR_J] * [-1, 1, 1]) for c, t, x in sided]
    opposite = [render(replace(c, side=OPPOSITE[c.side]), Random(t)) for c, t, _ in sided]
    assert np.mean([succeeds(t, x) for _, t, x in sided]) >= 0.99
    assert np.mean([succeeds(t, x) for _, t, x in mirrored]) <= 0.01
    assert np.mean([succeeds(o, x) for o, (_, _, x) in zip(opposite, mirrored, strict=True)]) >= 0.99


def test_a_caption_without_side_is_satisfied_by_either(few):
    unsided = [(t, x) for c, t, x in few if c.action in COARSE and not c.side]
    own = [succeeds(t, x) for t, x in unsided]
    mirrored = [succeeds(t, x[:, MIRROR_J] * [-1, 1, 1]) for t, x in unsided]
    assert np.mean(own) >= 0.98
    assert np.mean([a == b for a, b in zip(own, mirrored, strict=True)]) >= 0.98


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_motion_fails(few, value):
    for _, caption, joints in few[::60]:
        broken = joints.copy()
        broken[7, 3, 1] = value
        assert oracle.check(caption, broken) == oracle.Verdict(False, False, False, ("not finite",))


def test_success_needs_the_sentinels_band(few):
    """A body of other proportions, or a trembling one, does not succeed however well it acts."""
    rng = np.random.default_rng(SEED)
    for claim, caption, joints in few[::20]:
        assert oracle.in_band(joints), claim
        for odd in (joints * 1.5, joints + rng.normal(0, 0.03, joints.shape)):
            verdict = oracle.check(caption, odd)
            assert not verdict.success
            assert not verdict.in_band
            assert verdict.reasons[-1] == "outside the sentinels' band"


def test_a_verdict_says_what_fails():
    index = next(i for i, c in enumerate(CLAIMS) if c == Claim("kick", "left", 2))
    verdict = oracle.check("a person kicks with the left leg three times", motion(index, 0))
    assert (verdict.success, verdict.claim, verdict.in_band, verdict.reasons) == (False, False, True, ("count",))
    assert oracle.check("a person kicks with the left leg twice", motion(index, 0)) == oracle.Verdict(
        True, True, True, ()
    )


@pytest.mark.parametrize("caption", ["", "a person", "a person swims", "someone plays the violin with the left hand"])
def test_captions_unknown_to_it_are_refused(caption):
    with pytest.raises(ValueError, match=r"got a caption without a known action.*embedded worlds only"):
        oracle.check(caption, np.zeros((FRAMES, 22, 3)))


class Enumerator(Random):
    """Chooses along a path, and counts the branches, so that every sequence of choices can be visited.

    What is in `drawn` is drawn at random and not counted.
    """

    def __init__(self, path, drawn=(), seed=0):
        super().__init__(seed)
        self.path, self.drawn, self.widths = path, drawn, []

    def choice(self, options):
        if options in self.drawn:
            return super().choice(options)
        taken = self.path[len(self.widths)] if len(self.widths) < len(self.path) else 0
        self.widths.append(len(options))
        return options[taken]


def wordings(claim, drawn=()):
    """Every wording of a claim; of those that differ only in what is `drawn`, one."""
    path = []
    while path is not None:
        rng = Enumerator(path, drawn, f"{claim.key}/{path}")
        yield render(claim, rng)
        path = (path + [0] * len(rng.widths))[: len(rng.widths)]
        while path and path[-1] + 1 == rng.widths[len(path) - 1]:
            path.pop()
        path = [*path[:-1], path[-1] + 1] if path else None


def test_it_reads_every_claim_from_every_wording():
    """So captions and labels cannot disagree, and no wording belongs to two claims. Subjects are drawn."""
    names = [field.name for field in fields(oracle_reading.Reading)]
    drawn, owner, met = (grammar._SUBJECTS,), {}, set()
    for claim in CLAIMS:
        for caption in wordings(claim, drawn):
            reading = oracle_reading.read(caption)
            assert [getattr(reading, n) for n in names] == [getattr(claim, n) for n in names], caption
            assert owner.setdefault(caption, claim) == claim
            met |= {(claim.action, words) for words in grammar._SUBJECTS if caption.startswith(words)}
    assert len(owner) > 35_000
    assert len(met) == len(VERBS) * len(grammar._SUBJECTS)
    kick = next(c for c in CLAIMS if c.action == "kick" and c.side == "left" and not c.speed)
    assert {render(kick, Random(n)) for n in range(2000)} <= {*wordings(kick)}


FORBIDDEN = (
    "rl_motion.data.grammar", "rl_motion.data.actions", "rl_motion.data.pose", "rl_motion.data.embedded",
    "importlib", "__import__",
)  # fmt: skip


def forbidden_imports(source):
    """Modules and names in a source that could bring in the generator or the grammar."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            prefix = f"rl_motion.data.{module}".rstrip(".") if node.level else module
            found |= {prefix} | {f"{prefix}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Name):
            found.add(node.id)
    return sorted(name for name in found if name.startswith(FORBIDDEN))


def test_it_imports_nothing_of_the_generator():
    parts = sorted(Path(oracle.__file__).parent.glob("oracle*.py"))
    assert [part.stem for part in parts] == [
        "oracle", "oracle_gestures", "oracle_measures", "oracle_reading", "oracle_rules", "oracle_travel",
    ]  # fmt: skip
    assert [forbidden_imports(part.read_text(encoding="utf-8")) for part in parts] == [[]] * len(parts)


@pytest.mark.parametrize(
    "line",
    [
        "from rl_motion.data.grammar import render",
        "from rl_motion.data import actions",
        "def check():\n    import rl_motion.data.embedded as e",
        "from . import grammar",
        "from .actions import perform",
        "import importlib",
        "__import__('rl_motion.data.actions')",
    ],
)
def test_an_import_of_the_generator_is_noticed(line):
    assert forbidden_imports(line)


@pytest.mark.parametrize(("module", "loads"), [("oracle", False), ("embedded", True)])
def test_nothing_below_it_imports_the_generator_either(module, loads, root):
    """`embedded`, which does import the generator, is the negative control."""
    code = f"import sys, rl_motion.data.{module}; print([m for m in sys.modules if m.startswith('rl_motion.data.')])"
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert f"rl_motion.data.{module}" in run.stdout
    assert any(name in run.stdout for name in FORBIDDEN[:2]) == loads
