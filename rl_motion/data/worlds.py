"""The embedded worlds by split: who wrote the captions, how the motion is written down, who judges it.

first dialect    source/ and target/ train|val|test, and first/ for both   HumanML3D's features at 20 fps
second dialect   second/ train|val|test                                    KIT-ML's features at 12.5 fps
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rl_motion.config import UserError
from rl_motion.data import embedded, oracle, oracle_reading, second, second_reading
from rl_motion.data.names import SPLIT
from rl_motion.data.oracle_measures import Array
from rl_motion.data.oracle_reading import Reading
from rl_motion.motion import features, kit
from rl_motion.types import Prompt, Representation

Body = Callable[[Reading, Array, float], oracle.Verdict]
_BODIES: Mapping[Representation, Body] = {
    Representation.HUMANML3D_263: oracle.judge,
    Representation.KIT_251: second.check,
}
"""Whose bones the joints of a representation have."""


@dataclass(frozen=True, slots=True)
class World:
    """One dialect. read: what its captions say. evaluator: the packaged one that was trained on it."""

    name: str
    fps: float
    representation: Representation
    evaluator: str
    read: Callable[[str], Reading]

    def success(self, representation: Representation, caption: str, joints_FJ3: Array, fps: float) -> bool:
        """Whether motion that a model of this representation made does what a caption of this world says.

        Args:
            representation: in `JUDGED`.
            caption: of this world.
            joints_FJ3: [F, 22, 3] in metres.
            fps: of the motion.
        """
        return _BODIES[representation](self.read(caption), joints_FJ3, fps).success


JUDGED = frozenset(_BODIES)
"""Representations that the oracle judges, whichever world the caption is from."""
FIRST = World("first", features.FPS, Representation.HUMANML3D_263, "guo-embedded", oracle_reading.read)
SECOND = World("second", kit.FPS, Representation.KIT_251, "guo-second", second_reading.read)


def world_of(split: str) -> World:
    """The world that a split is of.

    Raises:
        UserError: no such split.
    """
    return SECOND if _parts(split)[0] == "second" else FIRST


def prompts(split: str, fps: float | None = None) -> list[Prompt]:
    """The captions of a split, without their motions: all that post-training reads.

    Args:
        split: its name.
        fps: of the model that will read them: lengths are so many of its frames, rounded up, so that its motion is as
            long as the world's when it is converted back. None: the world's own.

    Raises:
        UserError: no such split.
    """
    domain, part = _parts(split)
    if domain == "second":
        own: list[Prompt] = second.worded(part, embedded.PROMPTS_PER_CLAIM)
    else:
        own = [prompt for name in _names(domain, part) for prompt in embedded.prompts(name)]
    rate = world_of(split).fps
    if fps is None or fps == rate:
        return own
    there = [_at(prompt, math.ceil(prompt.length * fps / rate - 1e-6)) for prompt in own]
    # Two lengths of a wording may become one.
    return list({prompt.id: prompt for prompt in there}.values())


def clips(split: str, number: int, seed: int = 0) -> embedded.Clips:
    """`number` captioned motions of a split, in its world's features, cycling through its combinations.

    Raises:
        UserError: no such split, or `first`, whose two halves are asked for one by one.
    """
    domain, part = _parts(split)
    return second.clips(part, number, seed) if domain == "second" else embedded.clips(split, number, seed)


def _parts(split: str) -> tuple[str, str]:
    found = SPLIT.fullmatch(split)
    if found is None:
        raise UserError(
            f"got split {split!r}; want source, target, first or second, then /train, /val or /test; choose one of "
            "these or give a text file"
        )
    return found[1], found[2]


def _names(domain: str, part: str) -> Sequence[str]:
    return (f"source/{part}", f"target/{part}") if domain == "first" else (f"{domain}/{part}",)


def _at(prompt: Prompt, length: int) -> Prompt:
    identity = hashlib.sha256(f"{prompt.text}\x1f{length}".encode()).hexdigest()[:16]
    return replace(prompt, id=identity, length=length)
