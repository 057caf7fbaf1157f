"""Cuts a tagged sentence into clauses, one motion each, in a single walk over its words.

The walk is in one of three states: between clauses (`current` is None; adverbs gather in `pending` until a verb opens
the next clause), within a clause (words are appended to it until another motion begins), or within a simile, which only
a joint can end. What begins another motion: a joint (mark, conjunction, order word) with a verb, a limb or nothing but
a direction behind it; a gerund that names an action; a purpose that is a motion; a limb that swings; a finite verb
without any joint before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from rl_motion.prompts import phrases
from rl_motion.prompts.vocabulary import BODY, PERFORMERS, listed
from rl_motion.prompts.words import Word, dictionary, inflect

_BE = listed("is was are were be being been")
_PRONOUNS = listed("he she they it")
_GUESSES = listed("if though like well")
"""`as if`, `as well`, `and like`: no joint."""
_SIMILES = listed("like similar imitating resembling pretending mimicking pantomiming")
_MANNER = listed("""
    keep try start begin use appear seem lead cause make have be remain face do represent indicate show signify
    simulate imitate mimic resemble follow involve include alternate finish end
""")
"""Gerunds after a motion that tell its manner, no motion of their own: `keeping the back straight`."""
_JOINED = listed("and then while before after")
"""After these even a gerund of manner is told as a motion."""
_STATES = listed("stand sit lie kneel stay remain go be keep stop start")
"""A gerund right after these says what is done meanwhile: `stands waving`."""
_NO_MOTION_AFTER = listed("of in by for from at into like on without the about is are or")
"""A gerund after these is no motion; after `by` it mostly is."""
_SWINGS = listed("swing move wave raise flap rotate circle shake go sway bounce pump flail spin lower rise")
"""What limbs do while the body does something else."""
_VERBLESS = listed("""
    to towards toward back left right forward forwards backward backwards up down sideways into onto diagonally
    clockwise counterclockwise around over out in
""")
"""After `then` these stand for the verb of the clause before."""
_MOVED_TO = listed("to towards back up down into out in")
"""Of `_VERBLESS`: where what was moved before is moved next."""
_RELATIVES = listed("that which what where who")
_PURPOSES = listed("""
    pick grab touch reach catch throw kick hit push pull lift wave sit stand jump walk run turn look step wash wipe
    drink eat pour scratch clap punch bend crouch kneel grasp take place put return face dodge avoid climb crawl
    open close roll swing shake retrieve examine inspect stretch lay lie meet strike toss raise lower hop spin hold
    sweep clean stir
""")
"""Purposes that are bodily motions: `bends down to pick up a box`."""
_NO_PURPOSE_OF = listed("use try appear seem want continue have need prepare")
_NO_PURPOSE_AFTER = listed("about ready order as going try trying has have")
_FINITE_ALWAYS = listed("""
    walk squat kneel crouch bend wave raise lower lift pick throw grab sit stand jump turn get spin reach hop jog run
    crawl stumble fall bring take lean put clap
""")
"""Verbs whose third person begins a motion even where the joint is missing: `walks forward squats down`."""


@dataclass(slots=True)
class Clause:
    """A motion on its way into words: who moves, the verb's lemma, what stands before and after the verb."""

    subject: str
    verb: str
    before: list[Word] = field(default_factory=list)
    after: list[Word] = field(default_factory=list)
    auxiliary: str = ""
    """`is` of a passive; the verb then stands as it is."""
    shares: bool = False
    """`bends and moves his arm`: what it does it to is said with the next verb."""
    denied: bool = False
    """`does not fall`: no motion."""

    def text(self) -> str:
        """The sentence, verb in the third person, without a final period."""
        verb = f"{self.auxiliary} {self.verb}" if self.auxiliary else inflect(self.verb, "VBZ")
        line = " ".join([self.subject, *(w.text for w in self.before), verb, *(w.text for w in self.after)])
        return re.sub(r" ([,.;:!?])", r"\1", line).rstrip(" ,.;:")


class Cutter:
    """Walks over a sentence once and appends its clauses to `found`."""

    def __init__(self, words: Sequence[Word], subject: str, found: list[Clause]) -> None:
        """A sentence's words; who moves unless it says otherwise; the clauses of the sentences before it."""
        self.words = words
        self.subject = subject
        self.found = found
        self.at = 0
        self.current: Clause | None = None
        self.pending: list[Word] = []
        """Adverbs seen since the last cut: they belong to the verb that follows."""
        self.simile = False

    def run(self) -> None:
        """Cut the whole sentence."""
        self.at = self._first_subject()
        if self._is(0, {"who", "that"}):
            self.at += 1
        while self.at < len(self.words):
            self._step(self.words[self.at])

    def _step(self, word: Word) -> None:
        if self._joint():
            return
        clause = self.current
        if clause is None:
            self._look_for_verb(word)
        elif self.simile or self._begins_simile(word):
            self.simile = True
            self._take(word)
        elif (word.ing and self._new_gerund(word, clause)) or (word.third and self._joint_missing(word, clause)):
            self._cut(word)
        elif word.text == "to" and self._purpose(clause):
            self.at += 1
            self._cut(self.words[self.at])
        elif not (word.text in ("with", "while", "as") and self._limb_swings()):
            self._take(word)

    # -- looking

    def _word(self, ahead: int) -> Word | None:
        place = self.at + ahead
        return self.words[place] if 0 <= place < len(self.words) else None

    def _is(self, ahead: int, texts: Set[str]) -> bool:
        word = self._word(ahead)
        return word is not None and word.text in texts

    # -- cutting

    def _open(self, clause: Clause) -> None:
        """A clause begins; who opens it moves on past its verb."""
        self.found.append(clause)
        self.current, self.pending, self.simile = clause, [], False

    def _cut(self, verb: Word) -> None:
        """A new motion begins at this verb."""
        if self.current is not None:
            self._give_back_adverbs(self.current.after)
        before = [w for w in self.pending if w.tag == "ADV" and w.text not in ("then", "also", "now", "just")]
        denied = any(w.tag == "PART" for w in self.pending)
        self._open(Clause(self.subject, verb.lemma, before, denied=denied))
        self.at += 1

    def _give_back_adverbs(self, after: list[Word]) -> None:
        """`..., slowly lowering`: an adverb right after a mark belongs to what follows."""
        while len(after) > 1 and after[-1].tag == "ADV" and after[-2].tag == "PUNCT":
            self.pending.insert(0, after.pop())

    def _take(self, word: Word) -> None:
        (self.pending if self.current is None else self.current.after).append(word)
        self.at += 1

    # -- between clauses

    def _first_subject(self) -> int:
        """Past the performer at the start, who becomes the subject; without one the subject stays who it was."""
        words, place = self.words, 0
        while place < len(words) and (
            words[place].text in ("then", "and", "so", "next") or words[place].tag == "PUNCT"
        ):
            place += 1
        noun = phrases.past_determiners(words, place, phrases.DETERMINERS | {"VERB"})
        if noun < len(words) and words[noun].text in PERFORMERS:
            name = [w.text for w in words[place : noun + 1]]
            if not (name[0] in _PRONOUNS and self.found):
                self.subject = _named(name)
            return noun + 1
        if self._limb_clause(place):
            return self.at
        return place

    def _look_for_verb(self, word: Word) -> None:
        """Auxiliaries and phase verbs are passed, adverbs kept, the verb opens the clause."""
        follower = self._word(1)
        skipped = (
            word.text in ("first", "firstly", "next", "lastly")
            or (word.text == "about" and self._is(1, {"to"}))
            or (word.text == "to" and follower is not None and follower.tag in ("VERB", "ADV", "AUX"))
            or (word.tag == "VERB" and phrases.is_phase(self.words, self.at))
        )
        if skipped:
            self.at += 1
        elif word.tag == "AUX" or word.text in ("just", "also"):
            self._copula(word)
        elif word.tag == "VERB" or self._starts_with_verb(word):
            self._cut(word)
        else:
            self._take(word)

    def _starts_with_verb(self, word: Word) -> bool:
        """An imperative whose verb was tagged as a noun: `step forward`."""
        first = word.tag == "NOUN" and not self.found and self.at == 0 and len(self.words) > 1
        return first and "VERB" in dictionary(word.text)

    def _copula(self, word: Word) -> None:
        """`is walking` is a walk; `is pushed` stays passive; `is down on the knees` keeps its `is`."""
        ahead = 1
        while (follower := self._word(ahead)) is not None and (
            follower.tag in ("ADV", "PART") or follower.text in ("being", "been")
        ):
            ahead += 1
        skipped = self.words[self.at + 1 : self.at + ahead]
        self.at += 1
        if word.text not in _BE or follower is None or follower.text == "about":  # `is about to walk`
            return
        if follower.past and follower.lemma not in ("crouch", "hunch"):
            self._open(Clause(self.subject, follower.text, [*self.pending, *skipped], auxiliary="is"))
            self.at += ahead
        elif follower.past or follower.tag in ("ADP", "ADJ", "DET", "NOUN"):
            self._open(Clause(self.subject, "be", self.pending))

    # -- joints

    def _joint(self) -> bool:
        """Marks, conjunctions, order words: does another motion follow? Then the clause ends here."""
        place = phrases.joint_end(self.words, self.at)
        if place is None or (place < len(self.words) and self.words[place].text in _GUESSES):
            return False
        joiner = {w.text for w in self.words[self.at : place]}
        return (
            self._performer_goes_on(place)
            or self._verb_follows(place, joiner)
            or self._limb_clause(place)
            or ("then" in joiner and self._verbless(place))
            or self._passed(place)
        )

    def _performer_goes_on(self, place: int) -> bool:
        """`and the man sits`: a performer who is named goes on as the subject, a pronoun stands for the one before."""
        end = phrases.subject_end(self.words, place)
        if end is None:
            return False
        name = " ".join(w.text for w in self.words[place:end])
        if name not in _PRONOUNS and not self.found:
            self.subject = name
        self._end_clause(end)
        return True

    def _verb_follows(self, place: int, joiner: Set[str]) -> bool:
        """`and slowly sits`."""
        verb = phrases.verb_at(self.words, place)
        if verb is None or not self._begins_motion(verb, joiner):
            return False
        if self.current is not None and not self.current.after and joiner == {"and"}:
            self.current.shares = True
        self._end_clause(verb)
        self.pending = [w for w in self.words[place:verb] if w.tag != "PUNCT"]
        return True

    def _passed(self, place: int) -> bool:
        """A joint before which nothing is told yet is passed, and so is `then` within a clause."""
        if self.current is None and not self.pending:
            self.at = place
            return True
        if self.current is not None and self.words[self.at].text == "then":
            self.at += 1
            return True
        return False

    def _end_clause(self, place: int) -> None:
        self.current, self.simile, self.pending = None, False, []
        self.at = place

    def _begins_motion(self, place: int, joiner: Set[str]) -> bool:
        """Any finite verb after a joint; a gerund unless it is manner; a past or base form in a caption told so."""
        verb = self.words[place]
        if verb.tag == "AUX" or self.current is None:
            return True
        if self.simile and not verb.third and "then" not in joiner:
            return False
        if verb.ing:
            return not (verb.lemma in _MANNER and not joiner & _JOINED) and verb.lemma not in ("be", "try", "use")
        if verb.third or "then" in joiner:
            return True
        if verb.past:
            return self._told_in_past() or phrases.has_object(self.words, place)
        return self._told_in_base() or self._told_as_infinitive(self.current.verb)

    def _told_in_past(self) -> bool:
        verbs = {clause.verb for clause in self.found}
        return any(w.lemma in verbs and w.past for w in self.words)

    def _told_in_base(self) -> bool:
        """Imperative captions, `walk forward and wave`, and slips of the pen."""
        first = self.found[0].verb
        return any(w.text == first and w.tag in ("VERB", "NOUN") for w in self.words)

    def _told_as_infinitive(self, verb: str) -> bool:
        """`starts to walk and wave`."""
        told = self.words[: self.at]
        return any(w.text == "to" for w in told) and any(w.text == verb and w.tag == "VERB" for w in told)

    # -- limbs and left-out verbs

    def _limb_clause(self, place: int) -> bool:
        """`while his arms are swinging`, `and the right leg kicks`: the performer moves the limb."""
        end = phrases.limb_end(self.words, place)
        verb = phrases.limb_verb(self.words, end) if end is not None else None
        if end is None or verb is None or self.words[verb].past:
            return False
        told = self.words[verb].third or any(w.tag == "AUX" for w in self.words[end:verb])
        if not told and self.words[verb].lemma not in _SWINGS:
            return False
        self._move_limb(place, end, verb)
        return True

    def _limb_swings(self) -> bool:
        """`with his arms moving up and down`: a motion of its own; `with arms outstretched`: a posture."""
        place = self.at + 1
        end = phrases.limb_end(self.words, place)
        verb = phrases.limb_verb(self.words, end) if end is not None else None
        if end is None or verb is None or not self.words[verb].ing or self.words[verb].lemma not in _SWINGS:
            return False
        self._move_limb(place, end, verb)
        return True

    def _move_limb(self, place: int, end: int, verb: int) -> None:
        limb = self.words[place:end]
        owned = [] if limb[0].tag == "DET" else [Word("their", "DET", "their")]
        self._open(Clause(self.subject, self.words[verb].lemma, after=[*owned, *limb]))
        self.at = verb + 1

    def _verbless(self, place: int) -> bool:
        """`then to the left`, `then the right`: the verb of the clause before again."""
        last = self.current
        if last is None or place >= len(self.words):
            return False
        word = self.words[place]
        if word.text in _VERBLESS and word.tag in ("ADP", "ADV", "NOUN"):
            limb = _moved(last.after) if word.text in _MOVED_TO else []
            self._open(Clause(self.subject, last.verb, after=limb, auxiliary=last.auxiliary))
        elif phrases.limb_end(self.words, place) is not None or phrases.other_side(self.words, place):
            self._open(Clause(self.subject, last.verb))
        else:
            return False
        self.at = place
        return True

    # -- within a clause

    def _begins_simile(self, word: Word) -> bool:
        return word.text in _SIMILES or (word.text == "as" and self._is(1, {"if", "though"}))

    def _new_gerund(self, word: Word, clause: Clause) -> bool:
        """Whether a gerund within a clause is another motion: `walks across the beam holding a rail`."""
        before, follower = self.words[self.at - 1], self._word(1)
        if word.lemma in _MANNER or self._is(1, {"jacks", "jack", "motion", "motions"}):
            return False
        if not clause.after:
            return clause.verb not in _STATES
        if before.tag in ("DET", "ADJ", "PART", "NUM", "AUX") or before.text in _NO_MOTION_AFTER:
            return before.text == "by" and word.lemma != "do"
        if before.tag == "VERB":
            return False
        if before.tag == "NOUN" and before.text in BODY and any(w.text == "with" for w in clause.after[-4:]):
            return False
        names = follower is not None and follower.tag == "NOUN" and before.tag == "ADP" and before.text != "up"
        return not names

    def _purpose(self, clause: Clause) -> bool:
        """`bends down to pick up a box`: a purpose that is a bodily motion."""
        before, follower = self.words[self.at - 1], self._word(1)
        if follower is None or follower.tag != "VERB" or follower.text != follower.lemma:
            return False
        if clause.verb in _NO_PURPOSE_OF or before.text in _NO_PURPOSE_AFTER:
            return False
        if before.tag == "VERB" and before.lemma in phrases.PHASES | {"go", "get"}:
            return False
        return follower.lemma in _PURPOSES

    def _joint_missing(self, word: Word, clause: Clause) -> bool:
        """`walks forward squats down`: two finite verbs without a joint."""
        before = self.words[self.at - 1]
        if before.tag not in ("ADV", "NOUN", "ADP") or before.text in ("with", "of"):
            return False
        return word.lemma in _FINITE_ALWAYS and not any(w.text in _RELATIVES for w in clause.after)


def _moved(after: Sequence[Word]) -> list[Word]:
    """`moves both arms to the front, then to the sides`: what is moved is moved again."""
    for place, word in enumerate(after):
        if word.text in BODY:
            return list(after[: place + 1])
        if word.tag not in phrases.DETERMINERS:
            break
    return []


def _named(name: list[str]) -> str:
    """How the performer is called from now on."""
    if name[-1] in ("someone", "somebody"):
        return "someone"
    if name[-1] in _PRONOUNS:
        return name[-1]
    if name[0] in ("a", "an", "the", "one"):
        return " ".join(name)
    return " ".join(["a", *(name[1:] if name[0] == "this" else name)])
