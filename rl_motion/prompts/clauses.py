"""Takes a caption apart into meta-motions by grammar alone (InstructMotion, arXiv:2405.15541, section 4.2, without a model).

A caption is cut where another motion begins: at finite verbs, at gerunds that name an action, at purposes that are a motion
(`bends down to pick up a box`), and where a verb is left out (`walks forward, then to the left`). Similes and guesses are not
cut. What a clause lacks (its subject, its verb) it takes from the one before. Accuracy on gold labels, and what goes wrong: README.
"""

from __future__ import annotations

import re
from itertools import pairwise
from dataclasses import dataclass, field

from rl_motion.prompts.words import Word, inflect, parse

PERFORMERS = frozenset(
    "person man woman figure human someone somebody guy individual boy girl subject character lady child he she they it "
    "toddler dancer skeleton actor people men".split()
)
BODY = frozenset(
    "arm arms hand hands leg legs foot feet head knee knees elbow elbows shoulder shoulders hip hips body torso waist "
    "wrist wrists fist fists finger fingers palm palms thumb heel heels toe toes".split()
)
_PHASES = frozenset(
    "start begin continue appear seem try attempt proceed prepare look pretend happen tend want decide go get".split()
)
"""Verbs that only say how far another one is: `starts to walk` is a walk. `look`, `go` and `get` count before some forms only."""
_PREAMBLE = re.compile(
    r"^(?:it (?:looks|appears|seems) (?:like|as if|as though|that) |this (?:is|shows|looks like|seems like|appears to be) |there is |"
    r"the (?:video|animation|motion|sim|clip) (?:shows|is of|depicts|is) |(?:looks|appears|seems) like |we see |"
    r"in this (?:video|clip|motion),? )"
)
_AT_ONCE = re.compile(r",? (?:at the same time|simultaneously)\b|^simultaneously,? ")
_SIMILE = frozenset({"like", "if", "though", "similar", "imitating", "resembling", "pretending", "mimicking"})
_MANNER = frozenset("keep try start begin use appear seem lead cause make have be remain face do represent indicate show "
                    "signify simulate imitate mimic resemble follow involve include alternate finish end".split())  # fmt: skip
"""Gerunds after a motion that tell its manner, no motion of their own: `keeping the back straight`."""
_STATES = frozenset("stand sit lie kneel stay remain".split())
_SWINGS = frozenset("swing move wave raise flap rotate circle shake go sway bounce pump flail spin lower rise".split())
_NEED_OBJECT = frozenset("raise lower lift bend rotate move extend stretch hold grab shake swing open close flex drop twist "
                         "cross fold wave rub tap".split())  # fmt: skip
_VERBLESS = frozenset("to towards toward back left right forward forwards backward backwards up down sideways into onto "
                      "diagonally clockwise counterclockwise around over out in".split())  # fmt: skip


@dataclass(slots=True)
class Clause:
    """A motion on its way into words: who moves, the verb's lemma, what stands before and after the verb."""

    subject: str
    verb: str
    before: list[Word] = field(default_factory=list)
    after: list[Word] = field(default_factory=list)
    auxiliary: str = ""
    """`is` of a passive or of `is down on the knees`."""
    shares: bool = False
    """`bends and moves his arm`: what it does it to is said with the next verb."""
    denied: bool = False
    """`does not fall`: no motion."""

    def words(self) -> list[str]:
        """The sentence's words."""
        head = [self.auxiliary] if self.auxiliary else []
        verb = self.verb if self.auxiliary else inflect(self.verb, "VBZ")
        return [*self.subject.split(), *(w.text for w in self.before), *head, verb, *(w.text for w in self.after)]

    def text(self) -> str:
        """The sentence, without a final period."""
        line = " ".join(word for word in self.words() if word)
        line = re.sub(r"\s+([,.;:!?])", r"\1", line)
        return re.sub(r"[\s,.;:]+$", "", line)


def decompose(caption: str) -> list[str]:
    """The caption's meta-motions, in its order: one of a caption that is one motion, none where nothing moves."""
    found: list[Clause] = []
    subject = "a person"
    plain = _AT_ONCE.sub("", _PREAMBLE.sub("", " ".join(caption.lower().split())))
    for sentence in re.split(r"[.;!?]+(?:\s|$)", plain):
        if sentence.strip():
            cutter = _Cutter(parse(sentence), subject, found)
            cutter.run()
            subject = cutter.subject
    for clause, follower in pairwise(found):
        if clause.shares and clause.verb in _NEED_OBJECT and follower.after and follower.after[0].tag == "DET":
            limb = next((n for n, w in enumerate(follower.after) if w.text in BODY), None)
            clause.after = follower.after[: limb + 1] if limb is not None and limb < 4 else clause.after
    texts = [clause.text() for clause in found if clause.verb and not clause.denied]
    return (
        list(dict.fromkeys(text for text in texts if len(text.split()) > 2 or not text.startswith("a person")))
        if len(texts) == 1
        else texts
    )


class _Cutter:
    """Walks over a sentence once and cuts it into clauses."""

    def __init__(self, words: list[Word], subject: str, found: list[Clause]) -> None:
        self.words = words
        self.subject = subject
        self.found = found
        self.at = 0
        self.current: Clause | None = None
        self.pending: list[Word] = []
        """Adverbs seen since the last cut: they belong to the verb that follows."""
        self.simile = False

    def run(self) -> None:
        self.at = self._first_subject(0)
        self._skip_relative()
        while self.at < len(self.words):
            self._step()
        self._close()

    # -- looking

    def _word(self, ahead: int = 0) -> Word | None:
        place = self.at + ahead
        return self.words[place] if 0 <= place < len(self.words) else None

    def _is(self, ahead: int, *texts: str) -> bool:
        word = self._word(ahead)
        return word is not None and word.text in texts

    # -- steps

    def _step(self) -> None:
        word = self.words[self.at]
        if self._separator():
            return
        if self.simile:
            self._take(word)
            return
        if self._begins_simile(word):
            self.simile = True
            self._take(word)
            return
        if self.current is None:
            self._look_for_verb(word)
            return
        if word.ing and self._new_gerund(word):
            self._cut(word)
            return
        if word.text == "to" and self._purpose():
            self.at += 1
            self._cut(self.words[self.at])
            return
        if word.text in ("with", "while", "as") and self._swinging_limb():
            return
        if word.third and self._missing_separator(word):
            self._cut(word)
            return
        if word.text == "using" and self.current.after:
            self._take(word)
            return
        self._take(word)

    def _take(self, word: Word) -> None:
        if self.current is not None:
            self.current.after.append(word)
        else:
            self.pending.append(word)
        self.at += 1

    def _close(self) -> None:
        if self.current is None and any(w.tag == "VERB" for w in self.pending):
            return
        self.current = None

    def _look_for_verb(self, word: Word) -> None:
        """Before a clause's verb: auxiliaries and phase verbs are passed, adverbs kept, the verb opens the clause."""
        if word.text in ("first", "firstly", "next", "lastly"):
            self.at += 1
            return
        if word.tag == "AUX" or word.text in ("just", "also"):
            self._copula(word)
            return
        if word.text == "to" and self._word(1) is not None and self.words[self.at + 1].tag in ("VERB", "ADV", "AUX"):
            self.at += 1
            return
        if word.text == "about" and self._is(1, "to"):
            self.at += 1
            return
        if word.tag == "VERB":
            if self._is_phase(word):
                self.at += 1
                return
            self._cut(word)
            return
        if (
            word.tag == "NOUN"
            and not self.found
            and self.at == 0
            and len(self.words) > 1
            and "VERB" in _could_be(word.text)
        ):
            self._cut(word)
            return
        self._take(word)

    def _copula(self, word: Word) -> None:
        """`is walking` is a walk; `is pushed` stays passive; `is down on the knees` and `is in a stance` keep their `is`."""
        ahead = 1
        while (follower := self._word(ahead)) is not None and (
            follower.tag in ("ADV", "PART") or follower.text in ("being", "been")
        ):
            ahead += 1
        if word.text in ("is", "was", "are", "were", "be", "being", "been") and follower is not None:
            if follower.past and follower.lemma not in ("crouch", "hunch") and not follower.text.endswith("ing"):
                self.pending += self.words[self.at + 1 : self.at + ahead]
                self.at += ahead
                self._open(Clause(self.subject, follower.text, self.pending, [], "is"))
                self.at += 1
                return
            if follower.tag in ("ADP", "ADJ", "DET", "NOUN") or follower.past:
                self.at += 1
                opened = Clause(self.subject, "be", self.pending, [])
                self._open(opened)
                return
        self.at += 1

    def _is_phase(self, word: Word) -> bool:
        """Whether the verb only introduces the next one."""
        if word.lemma not in _PHASES:
            return False
        place = self.at + 1
        while place < len(self.words) and self.words[place].tag == "ADV":
            place += 1
        follower = self.words[place] if place < len(self.words) else None
        if follower is None:
            return False
        if word.lemma in ("go", "get"):
            return False
        if word.lemma == "look":
            return follower.text == "like" or (follower.text == "to" and self._is(place - self.at + 1, "be"))
        if follower.text == "to" and place + 1 < len(self.words):
            return self.words[place + 1].tag in ("VERB", "AUX", "ADV") or self.words[place + 1].text == "be"
        return follower.ing and word.lemma in ("start", "begin", "continue", "try", "proceed")

    # -- cuts

    def _open(self, clause: Clause) -> None:
        clause.subject = self.subject
        self.found.append(clause)
        self.current = clause
        self.pending = []
        self.simile = False

    def _cut(self, verb: Word) -> None:
        """A new motion begins at this verb."""
        if self.current is not None and self.current.after:
            self._give_back_adverbs()
        before = [w for w in self.pending if w.tag == "ADV" and w.text not in ("then", "also", "now", "just", "and")]
        denied = any(w.tag == "PART" for w in self.pending)
        self._open(Clause(self.subject, verb.lemma, before, denied=denied))
        self.at += 1

    def _give_back_adverbs(self) -> None:
        """`..., slowly lowering`: an adverb right after a mark belongs to what follows."""
        assert self.current is not None
        after = self.current.after
        while len(after) > 1 and after[-1].tag == "ADV" and after[-2].tag == "PUNCT":
            self.pending.insert(0, after.pop())

    def _separator(self) -> bool:
        """A mark or a conjunction: does another motion follow? Then the clause ends here."""
        word = self.words[self.at]
        joins = word.tag in ("PUNCT", "CCONJ") or word.text in (
            "then",
            "while",
            "whilst",
            "before",
            "after",
            "as",
            "until",
            "when",
            "to",
            "where",
        )
        if not joins or word.text in ("to", "where"):
            return False
        place = self.at
        while place < len(self.words) and (
            self.words[place].tag in ("PUNCT", "CCONJ")
            or (self.words[place].text == "that" and self.words[place - 1].text == "after")
            or self.words[place].text
            in (
                "then",
                "while",
                "whilst",
                "before",
                "after",
                "as",
                "also",
                "finally",
                "next",
                "when",
                "afterwards",
                "until",
                "eventually",
                "proceeds",
            )
            and self.words[place].text not in _SIMILE
        ):
            place += 1
        if place < len(self.words) and self.words[place].text in ("if", "though", "like", "well"):
            return False
        adverbs = place
        while adverbs < len(self.words) and self.words[adverbs].tag == "ADV" and self.words[adverbs].text != "then":
            adverbs += 1
        joiner = {w.text for w in self.words[self.at : place]}
        after_subject = self._subject_at(place)
        start = self._verb_at(after_subject if after_subject is not None else adverbs)
        if after_subject is not None and start is not None:
            self._adopt(place, after_subject)
            self._resume_at(after_subject)
            return True
        if start is not None and self._finite_or_joined(self.words[start], joiner):
            if self.current is not None and not self.current.after and joiner == {"and"}:
                self.current.shares = True
            self._resume_at(start)
            self.pending = [w for w in self.words[place:start] if w.tag != "PUNCT"]
            return True
        if self._limb_clause(place):
            return True
        if "then" in joiner and self._verbless(place):
            return True
        if self.current is None and not self.pending:
            self.at = place
            return True
        if self.current is not None and word.text in ("then", "also"):
            self.at += 1
            return True
        return False

    def _resume_at(self, place: int) -> None:
        self.current, self.simile, self.pending = None, False, []
        self.at = place

    def _finite_or_joined(self, verb: Word, joiner: set[str]) -> bool:
        """Whether a verb after a joint begins a motion: any finite one; a gerund unless it is manner; a past form in a past caption."""
        if verb.tag == "AUX":
            return True
        if self.current is None:
            return True
        if self.simile and not (verb.third or "then" in joiner):
            return False
        if verb.ing:
            return not (verb.lemma in _MANNER and not ({"and", "then", "while", "before", "after"} & joiner)) and not (
                verb.lemma in ("be", "try", "use")
            )
        if verb.third:
            return True
        if verb.past:
            return "then" in joiner or self._told_in_past() or self._has_object(verb)
        # A base form: imperative captions, `walk forward and wave`, and slips of the pen.
        return self._told_in_base() or "then" in joiner or self._infinitive()

    def _has_object(self, verb: Word) -> bool:
        """`and moved it`, `and raised his arm`: no participle that describes something."""
        place = next(n for n, w in enumerate(self.words) if w is verb) + 1
        return place < len(self.words) and self.words[place].text in ("it", "his", "her", "their", "the", "a", "both", "them")

    def _told_in_past(self) -> bool:
        return any(w.past and w.lemma == c.verb for c in self.found for w in self.words)

    def _told_in_base(self) -> bool:
        first = self.found[0] if self.found else None
        return first is not None and any(w.tag in ("VERB", "NOUN") and w.text == first.verb for w in self.words)

    def _infinitive(self) -> bool:
        return (
            any(w.text == "to" for w in self.words[: self.at])
            and self.current is not None
            and any(w.tag == "VERB" and w.text == self.current.verb for w in self.words[: self.at])
        )

    def _verb_at(self, place: int) -> int | None:
        """Where the verb of a clause that starts here stands, past adverbs, auxiliaries and phase verbs."""
        while place < len(self.words) and (
            self.words[place].tag in ("ADV",) or self.words[place].text in ("then", "also", ",")
        ):
            place += 1
        if place < len(self.words) and self.words[place].tag in ("VERB", "AUX"):
            return place
        return None

    def _subject_at(self, place: int) -> int | None:
        """Past a performer that starts here (`the man`, `he`), else None."""
        start = place
        while start < len(self.words) and self.words[start].tag in ("DET", "ADJ", "NUM") and start - place < 3:
            start += 1
        if (
            start < len(self.words)
            and self.words[start].text in PERFORMERS
            and (start > place or self.words[start].tag in ("PRON", "NOUN"))
        ):
            follower = start + 1
            while follower < len(self.words) and self.words[follower].tag == "ADV":
                follower += 1
            if follower < len(self.words) and (self.words[follower].tag in ("VERB", "AUX")):
                return start + 1
        return None

    def _adopt(self, place: int, end: int) -> None:
        """A named performer goes on as the subject; a pronoun stands for the one before."""
        name = " ".join(w.text for w in self.words[place:end])
        if name not in ("he", "she", "they", "it") and not self.found:
            self.subject = name

    def _limb_clause(self, place: int) -> bool:
        """`while his arms are swinging`, `and the right leg kicks`: the performer moves the limb."""
        end = self._limb_at(place)
        if end is None:
            return False
        verb = end
        while verb < len(self.words) and self.words[verb].tag in ("AUX", "ADV"):
            verb += 1
        if verb >= len(self.words) or self.words[verb].tag != "VERB" or self.words[verb].past:
            return False
        told = any(w.tag == "AUX" for w in self.words[end:verb])
        if self.words[verb].lemma not in _SWINGS and not told and not self.words[verb].third:
            return False
        self._move_limb(place, end, verb)
        return True

    def _move_limb(self, place: int, end: int, verb: int) -> None:
        opened = Clause(self.subject, self.words[verb].lemma)
        self._open(opened)
        limb = self.words[place:end]
        if limb[0].tag != "DET":
            limb = [Word("their", "DET", "their"), *limb]
        opened.after = list(limb)
        self.at = verb + 1

    def _limb_at(self, place: int) -> int | None:
        start = place
        while start < len(self.words) and self.words[start].tag in ("DET", "ADJ", "NUM") and start - place < 3:
            start += 1
        if start < len(self.words) and self.words[start].text in BODY:
            return start + 1
        return None

    def _swinging_limb(self) -> bool:
        """`with his arms moving up and down`: a motion of its own; `with arms outstretched`: a posture."""
        end = self._limb_at(self.at + 1)
        if end is None or end >= len(self.words):
            return False
        verb = end
        while verb < len(self.words) and self.words[verb].tag in ("AUX", "ADV"):
            verb += 1
        if verb < len(self.words) and self.words[verb].ing and self.words[verb].lemma in _SWINGS:
            self._move_limb(self.at + 1, end, verb)
            return True
        return False

    def _verbless(self, place: int) -> bool:
        """`then to the left`, `then the right`: the verb of the clause before again."""
        if self.current is None or place >= len(self.words):
            return False
        last = self.current
        word = self.words[place]
        if word.text in _VERBLESS and word.tag in ("ADP", "ADV", "NOUN"):
            self._open(Clause(self.subject, last.verb, [], [], last.auxiliary))
            self._carry_object(last, word)
            self.at = place
            return True
        end = self._limb_at(place)
        side = (
            place + 1
            if word.tag == "DET"
            and place + 1 < len(self.words)
            and self.words[place + 1].text in ("left", "right", "other")
            else None
        )
        if end is not None or side is not None:
            self._open(Clause(self.subject, last.verb))
            self.at = place
            return True
        return False

    def _carry_object(self, last: Clause, word: Word) -> None:
        """`moves both arms to the front, then to the sides`: what is moved is moved again."""
        assert self.current is not None
        limb = []
        for w in last.after:
            limb.append(w)
            if w.text in BODY:
                break
            if w.tag not in ("DET", "ADJ", "NUM"):
                return
        if limb and limb[-1].text in BODY and word.text in ("to", "towards", "back", "up", "down", "into", "out", "in"):
            self.current.after = list(limb)

    def _new_gerund(self, word: Word) -> bool:
        """Whether a gerund within a clause is another motion: `walks across the beam holding a rail`."""
        before = self._word(-1)
        clause = self.current
        assert clause is not None
        if word.lemma in _MANNER or before is None or self._is(1, "jacks", "jack", "motion", "motions"):
            return False
        if not clause.after:
            return False if clause.verb in _STATES or clause.verb in ("go", "be", "keep", "stop", "start") else True
        if before.tag in ("DET", "ADJ", "PART", "NUM", "AUX") or before.text in (
            "of",
            "in",
            "by",
            "for",
            "from",
            "at",
            "into",
            "like",
            "on",
            "without",
            "the",
            "about",
            "is",
            "are",
            "or",
        ):
            return before.text == "by" and word.lemma not in ("do",)
        if before.tag == "VERB":
            return False
        follower = self._word(1)
        if before.tag == "NOUN" and before.text in BODY and any(w.text == "with" for w in clause.after[-4:]):
            return False
        return not (follower is not None and follower.tag == "NOUN" and before.tag == "ADP" and before.text != "up")

    def _purpose(self) -> bool:
        """`bends down to pick up a box`: a purpose that is a bodily motion."""
        clause, follower = self.current, self._word(1)
        if clause is None or follower is None or follower.tag != "VERB" or follower.text != follower.lemma:
            return False
        before = self._word(-1)
        if (
            before is None
            or (before.tag == "VERB" and before.lemma in _PHASES)
            or before.text in ("about", "ready", "order", "as", "going", "try", "trying", "has", "have")
        ):
            return False
        if clause.verb in ("use", "try", "appear", "seem", "want", "continue", "have", "need", "prepare"):
            return False
        return follower.lemma in PURPOSES

    def _begins_simile(self, word: Word) -> bool:
        if word.text in ("like", "similar", "imitating", "resembling", "pretending", "mimicking", "pantomiming"):
            return self.current is not None
        return (
            word.text == "as"
            and (self._is(1, "if", "though", "well") is True and not self._is(1, "well"))
            and self.current is not None
        )

    def _missing_separator(self, word: Word) -> bool:
        """`walks forward squats down`: two finite verbs without a joint."""
        clause = self.current
        assert clause is not None
        before = self._word(-1)
        if before is None or before.text in (
            "that",
            "which",
            "what",
            "where",
            "who",
            "it",
            "someone",
            "something",
            "they",
            "he",
            "she",
        ):
            return False
        if any(w.text in ("that", "which", "what", "where", "who") for w in clause.after):
            return False
        return (
            before.tag in ("ADV", "NOUN", "ADP") and word.lemma in FINITE_ALWAYS and before.text not in ("with", "of")
        )

    # -- the start

    def _first_subject(self, place: int) -> int:
        """Past the performer at the start, which becomes the subject; a caption without one keeps `a person`."""
        while place < len(self.words) and (
            self.words[place].text in ("then", "and", "so", "next") or self.words[place].tag == "PUNCT"
        ):
            place += 1
        start = place
        while start < len(self.words) and self.words[start].tag in ("DET", "ADJ", "NUM", "VERB") and start - place < 3:
            start += 1
        if start < len(self.words) and self.words[start].text in PERFORMERS:
            name = [w.text for w in self.words[place : start + 1]]
            if name[0] in ("he", "she", "they", "it") and self.found:
                return start + 1
            self.subject = self._named(name)
            return start + 1
        if place < len(self.words) and self._limb_clause(place):
            return self.at
        return place

    @staticmethod
    def _named(name: list[str]) -> str:
        if name[-1] in ("he", "she", "they", "it", "someone", "somebody"):
            return "someone" if name[-1] in ("someone", "somebody") else name[-1]
        if name[0] in ("a", "an", "the", "one"):
            return " ".join(name)
        if name[0] == "this":
            return " ".join(["a", *name[1:]])
        return " ".join(["a", *name])

    def _skip_relative(self) -> None:
        if self._is(0, "who", "that"):
            self.at += 1


def _could_be(text: str) -> dict[str, str]:
    from rl_motion.prompts.words import dictionary

    return dictionary(text)


PURPOSES = frozenset(
    "pick grab touch reach catch throw kick hit push pull lift wave sit stand jump walk run turn look step wash wipe drink "
    "eat pour scratch clap punch bend crouch kneel grasp take place put return face dodge avoid climb crawl open close "
    "roll swing shake retrieve examine inspect stretch lay lie meet strike toss raise lower crawl hop spin hold sweep clean stir".split()
)
FINITE_ALWAYS = frozenset(
    "walk squat kneel crouch bend wave raise lower lift pick throw grab sit stand jump turn get spin reach hop jog run crawl stumble fall "
    "bring take lean put clap".split()
)
