"""What the embedded world can be asked to do, and the captions that ask for it.

A `Claim` is one combination of action, side, count, speed, extent, gaze and style; `render` words it, with paraphrases.
Source claims leave open which side the actions in `COARSE` use; target claims always name it. That is the gap
post-training closes from captions alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from random import Random

COUNTS = (1, 2, 3)


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """A combination. Empty strings and 0 mean "not said", which any motion of the action satisfies.

    side: left | right | forward | backward | up | clockwise | counterclockwise; count: 1-3;
    speed: slow | fast; extent: small | large (circles), half | full (spins),
    low | high (seats); gaze: down | up; style: wings (arms spread) | hips (hands on them) | bent (knees).
    """

    action: str
    side: str = ""
    count: int = 0
    speed: str = ""
    extent: str = ""
    gaze: str = ""
    style: str = ""

    @property
    def key(self) -> str:
        """Stable name of the combination."""
        parts = (self.action, self.side, self.count, self.speed, self.extent, self.gaze, self.style)
        return "/".join(str(part or "-") for part in parts)


VERBS: dict[str, tuple[str, ...]] = {
    "walk": ("walks", "is walking", "strolls"),
    "run": ("runs", "is running", "jogs"),
    "jump": ("jumps", "hops", "leaps"),
    "squat": ("squats", "does a squat", "crouches down and stands up"),
    "bow": ("bows", "takes a bow", "bends forward at the waist"),
    "jack": ("does jumping jacks", "performs jumping jacks", "jumps with arms and legs apart"),
    "sidestep": ("steps sideways", "side steps", "steps aside"),
    "turn": ("turns", "makes a quarter turn", "turns the body"),
    "sit": ("sits down", "takes a seat", "lowers into a chair"),
    "arms": ("raises both arms", "lifts both arms up", "puts both arms up"),
    "wave": ("waves", "is waving", "greets with a wave"),
    "kick": ("kicks", "throws a kick", "swings a kick"),
    "punch": ("punches", "throws a punch", "strikes"),
    "knee": ("lifts a knee", "raises a knee", "brings a knee up"),
    "raise": ("raises an arm", "lifts an arm up", "puts an arm up"),
    "circle": ("walks in a circle", "walks around in a circle", "goes around in a circle"),
    "spin": ("spins around", "rotates on the spot", "twirls in place"),
    "clap": ("claps", "is clapping", "claps the hands"),
    "reach": ("reaches out with both hands", "stretches both arms out in front", "reaches out in front"),
    "lean": ("leans over", "tilts the body", "leans the upper body"),
    "twist": ("twists the upper body", "twists at the waist", "twists the torso"),
    "march": ("marches in place", "is marching in place", "steps in place"),
    "lunge": ("lunges", "does a lunge", "steps into a lunge"),
    "heel": ("brings a heel up behind", "lifts a foot behind", "curls a leg behind"),
    "sneak": ("sneaks", "is sneaking", "creeps"),
}
COARSE = ("wave", "kick", "punch", "knee", "raise", "circle", "spin", "lunge", "heel")
"""Actions whose side the source never names and the target always does."""

_SUBJECTS = ("a person", "someone", "a man", "a woman", "the figure", "a human", "the person")
_SPEEDS = {
    "slow": ("slowly", "at a slow pace", "in slow motion", "unhurriedly"),
    "fast": ("quickly", "at a fast pace", "rapidly", "fast"),
}
_TIMES = {1: ("once", "one time", "a single time"), 2: ("twice", "two times"), 3: ("three times", "thrice")}
_DIRECTIONS = {
    "forward": ("forward", "forwards", "ahead"),
    "backward": ("backward", "backwards"),
    "up": ("up", "in place", "on the spot"),
    "clockwise": ("clockwise", "in a clockwise direction"),
    "counterclockwise": ("counterclockwise", "in a counterclockwise direction", "anticlockwise"),
}
_LIMBS = {
    "wave": "hand", "kick": "leg", "punch": "fist", "knee": "leg", "raise": "arm", "lunge": "leg", "heel": "leg",
}  # fmt: skip
_SIZES = {
    "small": ("small", "tight"),
    "large": ("large", "wide"),
    "half": ("half a turn", "halfway"),
    "full": ("a full turn", "all the way"),
    "low": ("on a low seat", "deep down"),
    "high": ("on a high seat", "not very deep"),
}


_GAZES = {
    "down": ("looking down", "with the head down", "while looking at the floor"),
    "up": ("looking up", "with the head up", "while looking at the ceiling"),
}
_STYLES = {
    "wings": ("with the arms spread", "with arms like wings", "with outspread arms"),
    "hips": ("with the hands on the hips", "with hands on hips", "with arms akimbo"),
    "bent": ("with bent knees", "with the knees bent", "in a low stance"),
}
STYLED = {
    "walk": ("wings", "hips"), "jump": ("hips",), "squat": ("wings",), "bow": ("hips",), "sidestep": ("hips",),
    "turn": ("wings",), "sit": ("wings",), "arms": ("bent",), "clap": ("bent",), "reach": ("bent",), "lean": ("hips",),
    "twist": ("wings",), "march": ("hips",), "sneak": ("wings",), "wave": ("bent",), "punch": ("bent",),
    "raise": ("bent",), "kick": ("hips",), "knee": ("wings",), "lunge": ("wings",), "heel": ("hips",),
    "circle": ("wings",), "spin": ("wings",),
}  # fmt: skip
"""The styles that an action's free limbs can take, with the head ahead and at the ordinary speed."""


def _side_words(claim: Claim, rng: Random) -> str:
    if claim.side in _DIRECTIONS:
        return rng.choice(_DIRECTIONS[claim.side])
    if claim.action in ("turn", "sidestep", "lean", "twist"):
        return rng.choice((f"to the {claim.side}", f"towards the {claim.side}"))
    limb = _LIMBS[claim.action]
    return rng.choice((f"with the {claim.side} {limb}", f"using the {claim.side} {limb}", f"on the {claim.side} side"))


def render(claim: Claim, rng: Random) -> str:
    """One wording of the claim; `rng` chooses among the paraphrases."""
    verb = rng.choice(VERBS[claim.action])
    if claim.extent in ("small", "large"):
        verb = verb.replace("a circle", f"a {rng.choice(_SIZES[claim.extent])} circle")
    tail = []
    if claim.extent in ("half", "full", "low", "high"):
        tail.append(rng.choice(_SIZES[claim.extent]))
    if claim.side:
        tail.append(_side_words(claim, rng))
    if claim.count:
        tail.append(rng.choice(_TIMES[claim.count]))
    if claim.speed:
        tail.append(rng.choice(_SPEEDS[claim.speed]))
    if claim.gaze:
        tail.append(rng.choice(_GAZES[claim.gaze]))
    if claim.style:
        tail.append(rng.choice(_STYLES[claim.style]))
    return " ".join([rng.choice(_SUBJECTS), verb, *tail])


def _pace(sides: tuple[str, ...], action: str, extents: tuple[str, ...] = ("",)) -> list[Claim]:
    return [Claim(action, s, 0, v, e) for s, v, e in product(sides, ("", "slow", "fast"), extents)]


def _counted(sides: tuple[str, ...], action: str) -> list[Claim]:
    # Three slow repetitions do not fit into two seconds.
    return [Claim(action, s, n, v) for s, n, v in product(sides, COUNTS, ("", "slow")) if (n, v) != (3, "slow")]


def source_claims() -> list[Claim]:
    """Every combination that source captions can express."""
    claims = _pace(("forward", "backward"), "walk") + _pace(("", "forward"), "run")
    claims += [Claim("jump", side, n) for side, n in product(("up", "forward"), COUNTS)]
    claims += [
        claim for action in ("squat", "bow", "jack", "arms", "clap", "reach") for claim in _counted(("",), action)
    ]
    claims += [Claim(action, side, n) for action, side, n in product(("lean", "twist"), ("left", "right"), COUNTS)]
    claims += [Claim("sneak", side, 0, speed) for side, speed in product(("forward", "backward"), ("", "slow"))]
    claims += (
        _pace(("",), "march")
        + _pace(("left", "right"), "sidestep")
        + _pace(("left", "right"), "turn")
        + _pace(("",), "sit", ("", "low"))
        + [Claim("sit", extent="high")]
    )
    return _varied(claims + _sided(("",), ("",)))


def target_claims() -> list[Claim]:
    """Every combination that target captions can express: the coarse actions with their side named."""
    return _varied(_sided(("left", "right"), ("clockwise", "counterclockwise")))


def _varied(claims: list[Claim]) -> list[Claim]:
    """Each with every gaze or, at the ordinary speed, with its action's styles.

    What is held out then combines parts that were all seen in pairs.
    """
    gazing = [replace(claim, gaze=gaze) for claim, gaze in product(claims, ("", "down", "up"))]
    return gazing + [replace(c, style=style) for c in claims if not c.speed for style in STYLED.get(c.action, ())]


def _sided(limbs: tuple[str, ...], rounds: tuple[str, ...]) -> list[Claim]:
    claims = [claim for action in _LIMBS for claim in _counted(limbs, action)]
    return claims + _pace(rounds, "circle", ("", "small", "large")) + _pace(rounds, "spin", ("half", "full"))


_OPPOSITE = {
    "left": "right", "right": "left", "forward": "backward", "backward": "forward",
    "clockwise": "counterclockwise", "counterclockwise": "clockwise", "slow": "fast", "fast": "slow",
    "small": "large", "large": "small", "half": "full", "full": "half", "low": "high", "high": "low",
    "down": "up", "up": "down", "wings": "hips", "hips": "wings",
}  # fmt: skip


def contradictions(claim: Claim) -> dict[str, Claim]:
    """Claims of the same world that contradict this one, by kind: side, count, speed, extent, gaze, style.

    An action knows few styles, at most two: `wings` and `hips` of a walk contradict each other.
    """
    other = {
        "side": replace(claim, side=_OPPOSITE.get(claim.side, claim.side)),
        "count": replace(claim, count={0: 0, 1: 2, 2: 3, 3: 2}[claim.count]),
        "speed": replace(claim, speed=_OPPOSITE.get(claim.speed, "")),
        "extent": replace(claim, extent=_OPPOSITE.get(claim.extent, "")),
        "gaze": replace(claim, gaze=_OPPOSITE.get(claim.gaze, "")),
        "style": replace(claim, style=_OPPOSITE.get(claim.style, claim.style)),
    }
    possible = {*source_claims(), *target_claims()}
    return {kind: value for kind, value in other.items() if value != claim and value in possible}
