"""What the second dialect can be asked to do, and the captions that ask for it: KIT-ML's terseness, another order.

The claims are those of the first dialect (`rl_motion.data.grammar`) for the actions in `ACTIONS`; what may name a side
names it. `render` words them: how fast comes first, the limb before how often, a comma before how it is held. Most
words are the first dialect's in other turns of phrase; some are new to its text encoder, whose embedding of a caption
with such a word is far from all that its denoisers know (docs/log.md).
"""

from __future__ import annotations

from random import Random

from rl_motion.data.grammar import COARSE, Claim

VERBS: dict[str, tuple[str, ...]] = {
    "walk": ("walks", "is walking", "goes walking"),
    "run": ("is running", "jogs"),
    "jump": ("leaps", "hops"),
    "squat": ("does a squat", "crouches down, stands up"),
    "bow": ("takes a bow", "bends forward"),
    "jack": ("does jumping jacks", "jumps with legs and arms apart"),
    "sidestep": ("steps sideways", "makes side steps"),
    "turn": ("makes a quarter turn", "turns the body"),
    "sit": ("takes a seat", "sits down in a chair"),
    "arms": ("lifts both arms up", "brings both arms up"),
    "wave": ("is waving", "does a wave"),
    "kick": ("throws a kick", "does a kick"),
    "punch": ("throws a punch", "does a punch"),
    "knee": ("lifts a knee", "puts a knee up"),
    "raise": ("lifts an arm up", "brings an arm up"),
    "circle": ("walks in a circle", "is walking around in a circle"),
    "spin": ("spins around", "spins in place"),
    "reach": ("reaches out in front", "stretches both hands out in front"),
    "lean": ("leans over", "leans the body"),
    "march": ("is marching in place", "steps in place"),
}
ACTIONS = tuple(VERBS)
"""Fewer than the first dialect's, as KIT-ML is smaller than HumanML3D: without clap, twist, lunge, heel and sneak."""

_SUBJECTS = ("a human", "a man", "a woman", "a person")
_SPEEDS = {"slow": ("slowly", "at a slow pace", "gradually"), "fast": ("quickly", "at a fast pace", "hastily")}
_TIMES = {1: ("one single time", "once"), 2: ("two times", "twice in a row"), 3: ("three times", "thrice in a row")}
_DIRECTIONS = {
    "forward": ("forward", "straight ahead"), "backward": ("backward", "to the rear"),
    "up": ("up", "on the spot"), "clockwise": ("clockwise", "clockwise all around"),
    "counterclockwise": ("counterclockwise", "anticlockwise"),
}  # fmt: skip
_LIMBS = {"wave": "hand", "kick": "leg", "punch": "fist", "knee": "leg", "raise": "arm"}
_SIZES = {
    "small": ("small", "tight"), "large": ("large", "wide"),
    "half": ("half a turn", "by 180 degrees"), "full": ("a full turn", "by 360 degrees"),
    "low": ("on a low seat", "very deep"), "high": ("on a high seat", "not deep"),
}  # fmt: skip
_GAZES = {"down": ("head down", "with a lowered head"), "up": ("head up", "with a raised head")}
_STYLES = {
    "wings": ("arms spread", "arms outspread like wings"),
    "hips": ("hands on hips", "arms akimbo"),
    "bent": ("knees bent", "with bent legs"),
}


def speaks_of(claim: Claim) -> bool:
    """Whether the second dialect has this claim."""
    return claim.action in ACTIONS and (bool(claim.side) or claim.action not in COARSE)


def render(claim: Claim, rng: Random) -> str:
    """One wording of the claim; `rng` chooses among the paraphrases."""
    verb = rng.choice(VERBS[claim.action])
    if claim.extent in ("small", "large"):
        verb = verb.replace("a circle", f"a {rng.choice(_SIZES[claim.extent])} circle")
    said = [rng.choice(_SUBJECTS), verb]
    if claim.extent in ("half", "full", "low", "high"):
        said.append(rng.choice(_SIZES[claim.extent]))
    if claim.side:
        said.append(_side(claim, rng))
    if claim.count:
        said.append(rng.choice(_TIMES[claim.count]))
    text = " ".join(said)
    for words in (_GAZES.get(claim.gaze), _STYLES.get(claim.style)):
        if words:
            text += ", " + rng.choice(words)
    return f"{rng.choice(_SPEEDS[claim.speed])}, {text}" if claim.speed else text


def _side(claim: Claim, rng: Random) -> str:
    if claim.side in _DIRECTIONS:
        return rng.choice(_DIRECTIONS[claim.side])
    if claim.action in _LIMBS:
        limb = _LIMBS[claim.action]
        return rng.choice((f"with the {claim.side} {limb}", f"by the {claim.side} {limb}"))
    return rng.choice((f"to the {claim.side}", f"towards the {claim.side} side"))
