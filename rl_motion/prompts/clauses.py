"""Takes a caption apart into meta-motions by grammar: InstructMotion (arXiv:2405.15541), section 4.2, without a model.

A caption is cut where another motion begins (cutter.py): at finite verbs, at gerunds that name an action, at purposes
that are a motion (`bends down to pick up a box`), and where a verb is left out (`walks forward, then to the left`).
What a clause lacks (its performer, its verb, what it moves) it takes from its neighbours. Similes and guesses are not
cut, what is denied is dropped. It does not resolve pronouns beyond the performer's, nor does it know whether a body can
do it (reading.py, plausible.py). Accuracy on gold labels, and what goes wrong: README.
"""

from __future__ import annotations

import re
from itertools import pairwise

from rl_motion.prompts.cutter import Clause, Cutter
from rl_motion.prompts.vocabulary import BODY, listed
from rl_motion.prompts.words import parse

_PREAMBLE = re.compile(
    r"^(?:it (?:looks|appears|seems) (?:like|as if|as though|that) |there is |"
    r"this (?:is|shows|looks like|seems like|appears to be) |"
    r"the (?:video|animation|motion|sim|clip) (?:shows|is of|depicts|is) |(?:looks|appears|seems) like |we see |"
    r"in this (?:video|clip|motion),? )"
)
"""What a caption says of itself."""
_AT_ONCE = re.compile(r",? (?:at the same time|simultaneously)\b|^simultaneously,? ")
_SENTENCE_END = re.compile(r"[.;!?]+(?:\s|$)")
_NEED_OBJECT = listed("""
    raise lower lift bend rotate move extend stretch hold grab shake swing open close flex drop twist cross fold wave
    rub tap
""")
"""Verbs that share the limb of the next one: `bends and moves his arm`."""


def decompose(caption: str) -> list[str]:
    """The caption's meta-motions, in its order: one of a caption that is one motion, none where nothing moves.

    Each is a sentence of its own in the present tense: `a person walks forward`.
    """
    found: list[Clause] = []
    subject = "a person"
    plain = _AT_ONCE.sub("", _PREAMBLE.sub("", " ".join(caption.lower().split())))
    for sentence in _SENTENCE_END.split(plain):
        if sentence.strip():
            cutter = Cutter(parse(sentence), subject, found)
            cutter.run()
            subject = cutter.subject
    for clause, follower in pairwise(found):
        if clause.shares and clause.verb in _NEED_OBJECT:
            _share_limb(clause, follower)
    texts = [clause.text() for clause in found if not clause.denied]
    if len(texts) == 1 and texts[0].startswith("a person") and len(texts[0].split()) <= 2:
        return []
    return texts


def _share_limb(clause: Clause, follower: Clause) -> None:
    """What the follower begins with, where that is a limb: `his right arm`."""
    if not follower.after or follower.after[0].tag != "DET":
        return
    limb = next((place for place, word in enumerate(follower.after[:4]) if word.text in BODY), None)
    if limb is not None:
        clause.after = follower.after[: limb + 1]
