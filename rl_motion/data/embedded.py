"""The embedded world, first dialect: its splits, its prompts and its motions.

Six splits, `source|target`/`train|val|test`, share no combination (`Claim`), whatever the wording. A prompt's
text and length and a motion's style are functions of (split, claim, index) alone, so every process sees the
same world.
Legend: N motions, F frames, D features.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from random import Random

import numpy as np
from numpy.typing import NDArray

from rl_motion.config import UserError
from rl_motion.data.actions import perform
from rl_motion.data.grammar import COARSE, Claim, render, source_claims, target_claims
from rl_motion.motion.features import joints_to_features
from rl_motion.types import Prompt

FRAMES = 40
"""Longest motion, in feature frames."""
LENGTHS = (38, 39, 40)
SPLITS = tuple(f"{domain}/{part}" for domain in ("source", "target") for part in ("train", "val", "test"))
PROMPTS_PER_CLAIM = 12
"""Wordings of each combination in `prompts`."""
WORDINGS = 48
"""Wordings of each combination in captioned motion."""


def digest(*parts: object) -> int:
    """A number that is a function of these parts alone, in every process."""
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:8], "big")


def _pairs(claim: Claim) -> set[tuple[object, ...]]:
    """What train must keep so that this claim can be composed: each pair of its values."""
    parts = {name: getattr(claim, name) for name in ("side", "count", "speed", "extent", "gaze", "style")}
    return {((a, parts[a]), (b, parts[b])) for a, b in combinations(parts, 2)}


def _split_action(claims: list[Claim]) -> dict[Claim, str]:
    """A fifth of an action's combinations to test, a tenth to val, while train keeps every pair of values."""
    order = sorted(claims, key=lambda c: digest("split", c.key))
    sides = sorted({c.side for c in claims}, key=lambda s: digest("side", claims[0].action, s))
    pairs = {claim: _pairs(claim) for claim in claims}
    out = dict.fromkeys(claims, "train")
    turns = 0
    for part, number in (("test", max(round(len(claims) / 5), 1)), ("val", round(len(claims) / 10))):
        for _ in range(number):
            # Sides take turns, so that left and right are tested alike.
            ranked = sorted(order, key=lambda c: c.side != sides[turns % len(sides)])
            free = [c for c in ranked if out[c] == "train"]
            kept = Counter(pair for c in free for pair in pairs[c])
            for claim in [c for c in free if all(kept[pair] > 1 for pair in pairs[c])][:1]:
                out[claim] = part
            turns += 1
    return out


@cache
def splits() -> dict[str, tuple[Claim, ...]]:
    """The combinations of every split; disjoint."""
    out: dict[str, list[Claim]] = {name: [] for name in SPLITS}
    for domain, claims in (("source", source_claims()), ("target", target_claims())):
        for action in dict.fromkeys(c.action for c in claims):
            for claim, part in _split_action([c for c in claims if c.action == action]).items():
                out[f"{domain}/{part}"].append(claim)
    return {name: tuple(claims) for name, claims in out.items()}


def _check(split: str) -> None:
    if split not in SPLITS:
        raise UserError(
            f"got split {split!r}; want one of {', '.join(SPLITS)}; choose one of these or give a text file"
        )


def make_prompt(split: str, claim: Claim, index: int) -> Prompt:
    """The index-th wording of a combination, with its length in frames."""
    rng = Random(digest("prompt", split, claim.key, index))
    text, length = render(claim, rng), rng.choice(LENGTHS)
    identity = hashlib.sha256(f"{text}\x1f{length}".encode()).hexdigest()[:16]
    return Prompt(identity, text, length, claim.action)


def prompts(split: str) -> list[Prompt]:
    """The captions of a split, without their motions: all that post-training reads.

    Raises:
        UserError: an unknown split.
    """
    return _worded(split, PROMPTS_PER_CLAIM)


def wordings(split: str) -> list[Prompt]:
    """Every wording of a split's combinations that captioned motion has: more than `prompts`, which they contain.

    Raises:
        UserError: an unknown split.
    """
    return _worded(split, WORDINGS)


def _worded(split: str, times: int) -> list[Prompt]:
    _check(split)
    made = [make_prompt(split, c, i) for i in range(times) for c in splits()[split]]
    return list({p.id: p for p in made}.values())


@dataclass(frozen=True, slots=True)
class Clips:
    """Captioned motions: features_NFD (zero beyond length), length_N, captions, and their combinations."""

    features_NFD: NDArray[np.float32]
    length_N: NDArray[np.int64]
    captions: tuple[str, ...]
    claims: tuple[Claim, ...]


def clips(split: str, number: int, seed: int = 0, *, named_sides: float = 0.0, without: str = "") -> Clips:
    """`number` motions of a split with a caption each, cycling through its combinations.

    `named_sides`: the share of captions of coarse combinations that name a side all the same, from wherever the
    annotator stood: half of them are the viewer's and wrong. Only sides whose both combinations are in target/train
    are named, so that no combination of val or test appears in any caption of the source.
    `without`: an action that is left out, motions and captions.

    Raises:
        UserError: an unknown split, or an action that it does not have.
    """
    _check(split)
    claims = [claim for claim in splits()[split] if claim.action != without]
    if without and len(claims) == len(splits()[split]):
        raise UserError(f"got {split} without {without!r}, which it does not have; want an action of it; correct it")
    features = np.zeros((number, FRAMES, 263), np.float32)
    length = np.zeros(number, np.int64)
    captions = []
    for n in range(number):
        claim = claims[n % len(claims)]
        prompt = make_prompt(split, claim, digest("clip", seed, n) % WORDINGS)
        rng = np.random.default_rng(digest("motion", split, seed, n))
        motion = joints_to_features(perform(claim, prompt.length + 1, rng), own_heading=True)
        features[n, : prompt.length], length[n] = motion, prompt.length
        annotator = Random(digest("annotator", split, seed, n))
        named = _nameable(claim) if annotator.random() < named_sides else ()
        wording = annotator.randrange(WORDINGS)
        captions.append(make_prompt("target/train", annotator.choice(named), wording).text if named else prompt.text)
    return Clips(features, length, tuple(captions), tuple(claims[n % len(claims)] for n in range(number)))


def _nameable(claim: Claim) -> tuple[Claim, ...]:
    """Both sides of a coarse claim, if target/train has both; else nothing."""
    sides = ("clockwise", "counterclockwise") if claim.action in ("circle", "spin") else ("left", "right")
    both = tuple(replace(claim, side=side) for side in sides)
    coarse = claim.action in COARSE and not claim.side
    return both if coarse and set(both) <= set(splits()["target/train"]) else ()
