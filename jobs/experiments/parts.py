"""What the arms of a row are examined on: captions of test splits, and real motion of the same.

A part is written as splits joined by `+`, whole or without all but some actions:

    source/test+target/test     source/test:knee (that action alone)     source/test:-knee (all others)

Legend: N motions, F frames, D features.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from rl_motion.config import UserError
from rl_motion.types import Prompt

if TYPE_CHECKING:
    from rl_motion.data.grammar import Claim
    from rl_motion.data.worlds import World
    from rl_motion.types import Motions


@dataclass(frozen=True, slots=True)
class Part:
    """Splits of one world, with one action alone, or without one."""

    splits: tuple[str, ...]
    only: str = ""
    without: str = ""

    @classmethod
    def of(cls, text: str) -> Part:
        """From its written form."""
        splits, _, action = text.partition(":")
        without = action.removeprefix("-") if action.startswith("-") else ""
        return cls(tuple(splits.split("+")), "" if without else action, without)

    def __str__(self) -> str:
        """Its written form."""
        action = self.only or (f"-{self.without}" if self.without else "")
        return "+".join(self.splits) + (f":{action}" if action else "")

    def has(self, action: str) -> bool:
        """Whether motion of this action belongs here."""
        return action == self.only if self.only else action != self.without


def refuse_other_than(use: str, parts: Collection[Part]) -> None:
    """Tables are measured on test splits, which nothing was chosen on; settings are chosen on val splits.

    Raises:
        UserError: a part has a split of another use.
    """
    for split in (split for part in parts for split in part.splits):
        if not split.endswith(f"/{use}"):
            raise UserError(f"got the split {split!r}; want {use} splits alone, {_WHY[use]}; name another")


_WHY = {"test": "as a table is of what is held out", "val": "as nothing is chosen by what is held out"}


def refuse_leak(name: str, training: Sequence[Prompt], part: Part, fps: float, *, new: bool) -> None:
    """What is examined has not been trained on: no prompt, no text, and where it is to be new no combination either.

    Raises:
        UserError: names the first that has.
    """
    from rl_motion.evaluation.guarantees import Seen, unseen

    read = world_of(part).read if new else None
    for split in part.splits:
        prompts = prompts_of(replace(part, splits=(split,)), sys.maxsize, 0, fps)
        if len(unseen(prompts, split, Seen(training), read)) < len(prompts):
            raise UserError(
                f"{name}: got prompts of {split} whose combinations training reads in other words; want none; take "
                "them out of prompts.sources"
            )


def world_of(part: Part) -> World:
    """The world that all of a part's splits belong to."""
    from rl_motion.data.worlds import world_of

    worlds = {world_of(split).name: world_of(split) for split in part.splits}
    if len(worlds) != 1:
        raise UserError(f"got splits of the worlds {sorted(worlds)} in {part}; want one world; split it into two parts")
    return next(iter(worlds.values()))


def prompts_of(part: Part, count: int, seed: int, fps: float) -> tuple[Prompt, ...]:
    """Up to `count` prompts of the part, drawn by seed: every combination is as likely as another, as among real clips.

    An action alone has few combinations, so all their wordings are drawn from.

    Args:
        part: whose.
        count: at most.
        seed: of the draw.
        fps: of the model that makes them: lengths are in its frames.
    """
    from rl_motion.data import embedded, worlds

    def given(split: str) -> Sequence[Prompt]:
        if not part.only:
            return worlds.prompts(split, fps)
        rate = fps / world_of(part).fps
        return [replace(prompt, length=math.ceil(prompt.length * rate - 1e-6)) for prompt in embedded.wordings(split)]

    unique = {prompt.text: prompt for split in part.splits for prompt in given(split) if part.has(prompt.group)}
    order = sorted(unique.values(), key=lambda prompt: hashlib.sha256(f"{seed}/{prompt.text}".encode()).digest())
    return tuple(order[:count])


@cache
def combinations(splits: tuple[str, ...]) -> Mapping[str, Claim]:
    """The combination that every wording of these splits of the first world says, by text."""
    from rl_motion.data import embedded

    claims = embedded.splits()
    return {
        embedded.make_prompt(split, claim, index).text: claim
        for split in splits
        for claim in claims[split]
        for index in range(embedded.WORDINGS)
    }


def distractors(part: Part, own_text: str, count: int, seed: int) -> tuple[str, ...]:
    """Captions that a motion of an action alone is told from: of other combinations, one each.

    A batch of the action's own captions would hold the same few combinations many times over, and no motion could tell
    them apart. The action's other combinations, the nearest, are always among them.
    """
    said = combinations(part.splits)
    own = said[own_text]
    rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(own_text.encode()).digest()[:8], "big")])
    texts: dict[Claim, list[str]] = {}
    for text, claim in said.items():
        texts.setdefault(claim, []).append(text)
    near = [claim for claim in texts if claim != own and claim.action == part.only]
    far = [claim for claim in texts if claim.action != part.only]
    chosen = [*near, *(far[i] for i in rng.permutation(len(far)))][:count]
    return tuple(texts[claim][rng.integers(len(texts[claim]))] for claim in chosen)


def real_motion(part: Part, number: int, seed: int) -> Iterator[tuple[Motions, tuple[Prompt, ...]]]:
    """About `number` real motions of the part with their captions, split by split as they have captions."""
    from rl_motion.data import worlds

    world = world_of(part)
    if part.only:
        yield _performed(part, number, seed)
        return
    shares = {split: len(worlds.prompts(split)) for split in part.splits}
    for split, share in shares.items():
        clips = worlds.clips(split, round(number * share / sum(shares.values())), seed)
        kept = [n for n, claim in enumerate(clips.claims) if part.has(claim.action)]
        said = [Prompt("", clips.captions[n], int(clips.length_N[n]), clips.claims[n].action) for n in kept]
        yield _motions(world, clips.features_NFD[kept], clips.length_N[kept]), tuple(said)


def asked_sha256(part: Part, prompts: Sequence[Prompt], seed: int) -> str:
    """Hash of what an arm is asked, and of an action alone also of the captions that it is told from."""
    said = [[prompt.id, prompt.text, prompt.length, prompt.group] for prompt in prompts]
    return hashlib.sha256(json.dumps([said, _told_from(part), seed]).encode()).hexdigest()


@cache
def real_sha256(part: Part, number: int, seed: int) -> str:
    """Hash of captions and features of real motion, and of an action alone likewise."""
    found = hashlib.sha256(json.dumps(_told_from(part)).encode())
    for motions, prompts in real_motion(part, number, seed):
        found.update(json.dumps([[prompt.text, prompt.length, prompt.group] for prompt in prompts]).encode())
        found.update(motions.features_BFD.numpy().tobytes())
    return found.hexdigest()


def _told_from(part: Part) -> list[list[str]]:
    """The captions that `distractors` draws from, with what they say."""
    return [[text, str(claim)] for text, claim in combinations(part.splits).items()] if part.only else []


def _performed(part: Part, number: int, seed: int) -> tuple[Motions, tuple[Prompt, ...]]:
    """Real motion of one action of the first world, its combinations in turn (`clips` would make all others too)."""
    from rl_motion.data import embedded
    from rl_motion.data.actions import perform
    from rl_motion.motion.features import joints_to_features

    claims = [(s, claim) for s in part.splits for claim in embedded.splits()[s] if claim.action == part.only]
    features_NFD = np.zeros((number, embedded.FRAMES, 263), np.float32)
    length_N = np.zeros(number, np.int64)
    captions = []
    for n in range(number):
        (split, claim), rng = claims[n % len(claims)], np.random.default_rng([seed, n])
        prompt = embedded.make_prompt(split, claim, int(rng.integers(embedded.WORDINGS)))
        motion = joints_to_features(perform(claim, prompt.length + 1, rng), own_heading=True)
        features_NFD[n, : prompt.length], length_N[n] = motion, prompt.length
        captions.append(prompt)
    return _motions(world_of(part), features_NFD, length_N), tuple(captions)


def _motions(world: World, features_NFD: np.ndarray, length_N: np.ndarray) -> Motions:
    import torch

    from rl_motion.types import Motions, Normalisation

    features = torch.from_numpy(features_NFD)
    return Motions(features, torch.from_numpy(length_N), world.fps, world.representation, Normalisation.NONE)
