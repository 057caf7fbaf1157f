"""Meta-motions of every kind that operations ask for, as the planner takes them."""

from rl_motion.prompts.planner import Meta
from rl_motion.prompts.reading import Facts, meaning, read_meta

TEXTS = (
    "a person walks forward",
    "a person walks in a circle",
    "a person runs backward",
    "a person jogs in place",
    "a person jumps over a box",
    "a person hops on one leg",
    "a person turns around",
    "a person turns clockwise",
    "a person spins",
    "a person steps to the left",
    "a person kicks",
    "a person kicks with their right leg",
    "a person lunges forward",
    "a person squats",
    "a person bows",
    "a person sits down on a chair",
    "a person kneels",
    "a person lies down on the floor",
    "a person stands up",
    "a person crawls forward",
    "a person waves",
    "a person raises their left arm",
    "a person lowers their right hand",
    "a person claps their hands",
    "a person punches",
    "a person throws a ball",
    "a person picks up a box from the floor",
    "a person washes a window",
    "a person scratches their head with their left hand",
    "a person nods",
    "a person looks around",
    "a person shakes their head",
    "a person does a cartwheel",
    "a person stretches both arms",
)


def meta(text: str, frames: int = 60, sources: tuple[str, ...] = ("one", "two")) -> Meta:
    """A meta-motion of a text that reads as one."""
    facts = read_meta(text)
    assert isinstance(facts, Facts), (text, facts)
    return Meta(meaning(text), text, facts, frames, sources)


def metas() -> list[Meta]:
    """All of them."""
    return [meta(text) for text in TEXTS]
