"""The embedded world, second dialect: another body, another rate, other features, other words.

What the first dialect's captions ask for, as far as `second_grammar` speaks of it, asked for in other words and done by
a body with longer legs and a shorter trunk and arms, as KIT-ML's 251 features at 12.5 frames a second. Three splits,
`second`/`train|val|test`: a combination is in the part that it is in in the first dialect, so that none that is tested
in one was trained on in the other.

Legend: N motions, F frames, D features, J joints.
"""

from __future__ import annotations

import hashlib
from functools import cache
from random import Random

import numpy as np

from rl_motion.data.actions import perform
from rl_motion.data.embedded import WORDINGS, Clips, digest, splits
from rl_motion.data.grammar import Claim
from rl_motion.data.oracle import MAX_BONE_DRIFT, Verdict, judge
from rl_motion.data.oracle_measures import Array
from rl_motion.data.oracle_reading import Reading
from rl_motion.data.pose import FIRST_BODY, Body
from rl_motion.data.second_grammar import render, speaks_of
from rl_motion.motion import kit
from rl_motion.motion.features import uniform_joints
from rl_motion.motion.resample import resampled_frames
from rl_motion.motion.skeleton import HUMANML3D_OFFSETS_J3
from rl_motion.types import Prompt

FRAMES = 25
"""Longest motion, in feature frames."""
LENGTHS = (24, 25)
PARTS = ("train", "val", "test")
BODY = Body(kit.LONG_LEGGED_OFFSETS_J3, kit.FPS)


@cache
def claims() -> dict[str, tuple[Claim, ...]]:
    """The combinations of every part; disjoint."""
    first = splits()
    return {
        part: tuple(c for domain in ("source", "target") for c in first[f"{domain}/{part}"] if speaks_of(c))
        for part in PARTS
    }


def make_prompt(part: str, claim: Claim, index: int) -> Prompt:
    """The index-th wording of a combination, with its length in frames of 12.5 a second."""
    rng = Random(digest("second", part, claim.key, index))
    text, length = render(claim, rng), rng.choice(LENGTHS)
    identity = hashlib.sha256(f"{text}\x1f{length}".encode()).hexdigest()[:16]
    return Prompt(identity, text, length, claim.action)


def worded(part: str, times: int) -> list[Prompt]:
    """The captions of a part, so many wordings of each combination, without their motions."""
    made = [make_prompt(part, c, i) for i in range(times) for c in claims()[part]]
    return list({p.id: p for p in made}.values())


def clips(part: str, number: int, seed: int = 0) -> Clips:
    """`number` motions of a part with a caption each, cycling through its combinations."""
    all_claims = claims()[part]
    features = np.zeros((number, FRAMES, kit.LAYOUT.features_D), np.float32)
    length = np.zeros(number, np.int64)
    captions = []
    for n in range(number):
        claim = all_claims[n % len(all_claims)]
        prompt = make_prompt(part, claim, digest("second clip", seed, n) % WORDINGS)
        rng = np.random.default_rng(digest("second motion", part, seed, n))
        joints_FJ3 = kit.to_kit_joints(perform(claim, prompt.length + 1, rng, BODY))
        features[n, : prompt.length] = kit.joints_to_features(joints_FJ3, own_heading=True)
        length[n] = prompt.length
        captions.append(prompt.text)
    return Clips(features, length, tuple(captions), tuple(all_claims[n % len(all_claims)] for n in range(number)))


def check(reading: Reading, joints_FJ3: Array, fps: float) -> Verdict:
    """Judge joints [F, 22, 3] (metres) of this body against what a caption says: the first dialect's rules.

    Bones are compared with this body's. The rules are fitted to the first body at 20 frames a second: directions of
    bones are kept and get its lengths, the way is scaled as the legs are, and frames in between are made by a cubic.
    """
    joints = np.asarray(joints_FJ3, dtype=float)
    if not np.isfinite(joints).all():
        return Verdict(False, False, False, ("not finite",))
    joints = kit.to_kit_joints(joints)
    drift = float(np.abs(kit.KIT.bone_lengths(joints) / _LENGTHS_J - 1.0).mean())
    first = kit.from_kit_joints(uniform_joints(kit.LAYOUT, joints[None], kit.in_kit_joints(HUMANML3D_OFFSETS_J3))[0])
    verdict = judge(reading, _in_between(first, fps, FIRST_BODY.fps), FIRST_BODY.fps)
    if drift < MAX_BONE_DRIFT:
        return verdict
    return Verdict(False, verdict.claim, False, (*verdict.reasons, f"bones {100 * drift:.0f} % off"))


_LENGTHS_J = np.linalg.norm(kit.KIT_OFFSETS_J3[1:], axis=-1) / kit.MILLIMETRES_PER_METRE


def _in_between(joints_FJ3: Array, fps_from: float, fps_to: float) -> Array:
    """Joints at a higher rate, on Catmull-Rom cubics through the frames; the ends are held."""
    at_F = np.arange(int(resampled_frames(len(joints_FJ3), fps_from, fps_to))) * (fps_from / fps_to)
    frame_F = np.floor(at_F).astype(int)
    u_F11 = (at_F - frame_F)[:, None, None]
    before, start, end, after = (
        joints_FJ3[np.clip(frame_F + shift, 0, len(joints_FJ3) - 1)] for shift in (-1, 0, 1, 2)
    )
    slope, next_slope = (end - before) / 2, (after - start) / 2
    cubic = 2 * start + slope - 2 * end + next_slope
    square = -3 * start - 2 * slope + 3 * end - next_slope
    dense: Array = ((cubic * u_F11 + square) * u_F11 + slope) * u_F11 + start
    return dense
