"""Words of motion captions with their parts of speech, in HumanML3D's own form.

HumanML3D was tagged by spaCy: hyphens removed, alphabetic tokens only, `word/POS` with the lemma of nouns and verbs (not of
"left") and Universal POS tags. This is the same form without a model: closed classes are listed, open ones come from lemminflect's
dictionary, and what is ambiguous is settled by the words around it. Accuracy on gold labels: README.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

_TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[,.;:!?/()]")

TYPOS = {
    "foward": "forward", "fowards": "forwards", "foreward": "forward", "forewards": "forwards", "froward": "forward",
    "forword": "forward", "infront": "in front", "thier": "their", "thair": "their", "thr": "the", "teh": "the",
    "anf": "and", "adn": "and", "amd": "and", "ans": "and", "ang": "and", "an d": "and", "perosn": "person",
    "peron": "person", "oerson": "person", "peson": "person", "persin": "person", "peraon": "person", "perso": "person",
    "rigth": "right", "righ": "right", "roght": "right", "soemthing": "something", "somthing": "something",
    "someting": "something", "postion": "position", "postition": "position", "squating": "squatting",
    "sqauts": "squats", "streches": "stretches", "strech": "stretch", "outstreched": "outstretched",
    "steping": "stepping", "walkng": "walking", "grabed": "grabbed", "grabing": "grabbing", "begining": "beginning",
    "excercising": "exercising", "excercise": "exercise", "exerises": "exercises", "preforming": "performing",
    "perfoms": "performs", "stagers": "staggers", "stiring": "stirring", "rasies": "raises", "rasied": "raised",
    "resised": "raised", "rotaing": "rotating", "bouncin": "bouncing", "cricle": "circle", "cirlce": "circle",
    "diagnally": "diagonally", "diagnolly": "diagonally", "slowlt": "slowly", "slowy": "slowly", "wlowly": "slowly",
    "sightly": "slightly", "directally": "directly", "aggresively": "aggressively", "akwardly": "awkwardly",
    "continously": "continuously", "fourth and back": "forth and back", "bith": "both", "wi3th": "with", "woth": "with",
    "wth": "with", "whle": "while", "ther": "their", "hadns": "hands", "arma": "arms", "seperatind": "separating",
    "claping": "clapping", "swingin": "swinging", "aroudn": "around", "aorund": "around", "arounds": "around",
    "decends": "descends", "jesture": "gesture", "fastly": "fast", "treadmil": "treadmill", "somehwere": "somewhere",
    "orginal": "original", "dumbell": "dumbbell", "dumbells": "dumbbells", "throwed": "threw", "uo": "up",
    "stratching": "scratching", "abit": "a bit", "summersault": "somersault", "gorrila": "gorilla",
}  # fmt: skip
"""Misspellings of the public captions that occur often or stand where grammar needs the word."""

_CLOSED: dict[str, str] = {}
for _tag, _words in {
    "DET": "a an the this these those his her their its my your our each every some any no another all both either "
    "neither which whatever",
    "PRON": "he she it they him them himself herself themselves themself itself someone somebody something anything "
    "nothing anyone everyone everything nobody i you we who whom what oneself others theirs",
    "AUX": "is are was were be been being am can could will would may might should must did does",
    "CCONJ": "and or but nor",
    "SCONJ": "while whilst if because though although unless since until whether",
    "PART": "not",
    "NUM": "one two three four five six seven eight nine ten eleven twelve ninety hundred",
    "ADP": "with in on from of at by for into onto across through towards toward under above below between against "
    "along beside before after during without upon within beneath underneath among like per outside inside "
    "behind than off out over up down via throughout beyond near alongside atop",
    "ADV": "then again twice once thrice forward forwards backward backwards sideways sidewards clockwise "
    "counterclockwise anticlockwise very just together apart away too also so almost forth here now ahead upright "
    "somewhere nowhere everywhere quite rather even maybe perhaps only still never always often instead forwardly "
    "upwards upward downwards downward inward inwards outward outwards rightward leftward left-ward overhead when how "
    "where why nearly already afterwards diagonally barely halfway midway anyways abruptly more most soon though yet "
    "repeatedly alternately sometimes meanwhile eventually finally suddenly immediately mostly ever twice well "
    "counter-clockwise aside aback onwards onward indoors outdoors abroad apart",
    "ADJ": "other several few same own such few many different next previous",
    "INTJ": "hi bye oh hello goodbye",
}.items():
    _CLOSED |= dict.fromkeys(_words.split(), _tag)

_NOUNS = set(
    "hand hands arm arms leg legs foot feet knee knees elbow elbows head heads face shoulder shoulders side sides back "
    "time times place front position motion movement air floor ground circle line step pace chair object ball wall "
    "waist hip hips chest toe toes finger fingers palm palms body person man woman figure thigh thighs torso stomach "
    "neck wrist wrists ankle ankles heel heels fist fists room box bench couch table jacks jack stance pose beat style "
    "manner fashion degree degrees angle direction speed way kind sort top bottom middle center centre corner edge "
    "ceiling something thing things building railing handrailing handrail rail king ring wing wings string morning level height "
    "clothing swing set drink bottle phone cup glass guitar violin drum drums golf baseball basketball tennis boxing "
    "fighter fighting zombie monkey chicken bird squat lunge cartwheel handstand kick punch dance waltz salsa jig "
    "square pattern shape curve rope ladder stairs stair steps ramp treadmill weight weights partner music song subject front bit beginning warming exercise exercises".split()
)
"""Of words that may be a noun or a verb: those that mostly are nouns unless the place says otherwise."""
_VERBISH_S = set(
    "walks steps turns kicks jumps runs waves raises lifts moves stands sits bends picks throws squats swings stops "
    "starts begins holds puts reaches leans spins twists punches claps crouches kneels bows hops skips jogs crawls "
    "stumbles falls rises takes makes gets goes comes returns places drops grabs looks touches stretches extends "
    "lowers rotates circles faces backs shuffles dances balances pushes pulls catches drinks wipes scratches climbs "
    "paces lunges sways shakes points rubs hits rests pivots bounces lands rolls slides pours flaps tilts limps "
    "ducks dodges stirs leaps drags hangs taps tosses rocks sweeps wiggles waits carries jabs strokes swats stomps "
    "sprints twirls sneaks scrubs presses wobbles pats slaps shrugs salutes flips thrusts struts heads hands eats "
    "plays marches strides curls positions poses motions gestures angles shifts switches signals crosses sidesteps "
    "steadies repeats works guards blocks strikes cups shoulders knees levels feet exercises practices".split()
)
"""Forms in -s that are verbs after a subject or a conjunction, although most of them may be nouns."""
_ADJ_FIRST = set(
    "slow fast quick small large big wide tight full half straight low high long short deep light heavy slight brisk "
    "steady normal moderate medium imaginary invisible upper lower middle left right sudden strong wild soft "
    "sharp casual relaxed circular counter diagonal imaginary martial curved narrow flat still open closed "
    "bent outstretched crossed extended raised folded clasped parallel upright similar normal regular free original "
    "opposite single double entire whole multiple various certain careful drunk tired injured angry happy sad".split()
)
_SUBJECTS = set(
    "person man woman figure human someone guy individual boy girl subject character lady people men somebody child "
    "human stick dude skeleton actor he she they it who dancer".split()
)
_CONJ_BEFORE = {"then", "also", "still", "slowly", "quickly"}
_ING_NOUNS = {"ceiling", "building", "railing", "handrailing", "thing", "king", "ring", "wing", "string", "morning",
              "evening", "clothing", "something", "anything", "nothing", "everything", "bring", "sling", "during"}  # fmt: skip
_TAKES_TO = set(
    "start starts begin begins try tries appear appears seem seems continue continues attempt want need about".split()
)
_PLACE_VERBS = set(
    "turn face look step lean go move twist jump walk shift sway hop bend pivot veer swing side shuffle kick punch rotate head run jog slide skip strafe glance reach point spin angle".split()
)


@dataclass(frozen=True, slots=True)
class Word:
    """A token: as written (lower case, mended), its Universal POS (`PUNCT` for marks) and its lemma."""

    text: str
    tag: str
    lemma: str

    @property
    def ing(self) -> bool:
        """A present participle."""
        return self.tag == "VERB" and self.text.endswith("ing") and self.lemma != self.text

    @property
    def third(self) -> bool:
        """The third person singular of a verb."""
        return self.tag == "VERB" and self.text.endswith("s") and self.text != self.lemma

    @property
    def past(self) -> bool:
        """A past form or past participle that differs from the base."""
        return self.tag == "VERB" and not self.ing and not self.third and self.text != self.lemma


def split(text: str) -> list[str]:
    """Lower-case tokens, punctuation of their own, hyphens removed, frequent misspellings mended."""
    clean = text.lower().replace("’", "'").replace("-", "").replace("&", " and ")
    words = []
    for token in _TOKEN.findall(clean):
        words += TYPOS.get(token, token).split()
    return words


@cache
def dictionary(word: str) -> dict[str, str]:
    """Possible tags of an open-class word with its lemma for each, from lemminflect's dictionary; empty: unknown."""
    from lemminflect import getAllLemmas

    found = {tag: lemmas[0] for tag, lemmas in getAllLemmas(word).items() if tag in ("NOUN", "VERB", "ADJ", "ADV")}
    if word in ("left", "right"):
        return {"ADJ": word, "NOUN": word, "ADV": word}
    return _MENDED.get(word, found)


_MENDED = {
    "waving": {"VERB": "wave"}, "waived": {"VERB": "wave"}, "waives": {"VERB": "wave"}, "waiving": {"VERB": "wave"},
    "sidesteps": {"VERB": "sidestep"}, "sidestepping": {"VERB": "sidestep"}, "uncrosses": {"VERB": "uncross"},
    "handstand": {"NOUN": "handstand"}, "moonwalk": {"NOUN": "moonwalk", "VERB": "moonwalk"},
    "moonwalks": {"NOUN": "moonwalk", "VERB": "moonwalk"}, "backflip": {"NOUN": "backflip"},
    "uppercut": {"NOUN": "uppercut"}, "uppercuts": {"NOUN": "uppercut"}, "salsa": {"NOUN": "salsa"},
    "macarena": {"NOUN": "macarena"}, "fell": {"VERB": "fall"}, "lay": {"VERB": "lie"}, "lays": {"VERB": "lay"},
    "found": {"VERB": "find"}, "saw": {"VERB": "see", "NOUN": "saw"}, "tpose": {"NOUN": "tpose"},
    "strafes": {"VERB": "strafe"}, "strafing": {"VERB": "strafe"}, "threw": {"VERB": "throw"},
    "crosslegged": {"ADJ": "crosslegged"}, "barstool": {"NOUN": "barstool"}, "catwalk": {"NOUN": "catwalk"},
    "roundhouse": {"NOUN": "roundhouse"}, "lunges": {"NOUN": "lunge", "VERB": "lunge"}, "does": {"VERB": "do"},
    "pirouette": {"NOUN": "pirouette"}, "breakdances": {"VERB": "breakdance"}, "breakdancing": {"VERB": "breakdance"},
    "kickboxing": {"VERB": "kickbox"}, "imaginary": {"ADJ": "imaginary"}, "frisbee": {"NOUN": "frisbee"},
    "drunkenly": {"ADV": "drunkenly"}, "lazily": {"ADV": "lazily"}, "sneakily": {"ADV": "sneakily"},
}  # fmt: skip


def parse(text: str) -> list[Word]:
    """Every token with its tag and lemma, punctuation included."""
    tokens = split(text)
    tags: list[str] = []
    for place in range(len(tokens)):
        tags.append(_tag(tokens, tags, place))
    return [Word(token, tag, _lemma(token, tag)) for token, tag in zip(tokens, tags, strict=True)]


def tag(text: str) -> list[tuple[str, str]]:
    """(word, Universal POS) of the alphabetic tokens, in HumanML3D's form."""
    out = []
    for word in parse(text):
        plain = word.text.partition("'")[0]
        if plain.isalpha():
            out.append((word.lemma if word.tag in ("NOUN", "VERB") and plain != "left" else plain, word.tag))
    return out


def tokens(text: str) -> list[str]:
    """HumanML3D's `word/POS` tokens."""
    return [f"{word}/{pos}" for word, pos in tag(text)]


def content_lemmas(text: str) -> set[str]:
    """Lemmas of nouns, verbs, adjectives, adverbs and numbers: what a text is about."""
    return {w.lemma for w in parse(text) if w.tag in ("NOUN", "VERB", "ADJ", "ADV", "NUM")}


def inflect(lemma: str, form: str) -> str:
    """A verb's form: VBZ walks, VBG walking, VB walk."""
    if form == "VB":
        return lemma
    return _inflections(lemma, form)


@cache
def _inflections(lemma: str, form: str) -> str:
    from lemminflect import getInflection

    if lemma == "be":
        return {"VBZ": "is", "VBG": "being"}[form]
    # Of several spellings the doubled consonant is the usual one in captions: hopping, not hoping.
    forms = _FORMS.get((lemma, form)) or getInflection(lemma, tag=form)
    return str(forms[0])


_FORMS = {
    ("sidestep", "VBG"): ("sidestepping",), ("sidestep", "VBZ"): ("sidesteps",), ("moonwalk", "VBZ"): ("moonwalks",),
    ("moonwalk", "VBG"): ("moonwalking",), ("strafe", "VBG"): ("strafing",), ("lie", "VBG"): ("lying",),
    ("uncross", "VBZ"): ("uncrosses",), ("uncross", "VBG"): ("uncrossing",), ("breakdance", "VBG"): ("breakdancing",),
}  # fmt: skip


def _lemma(token: str, tag: str) -> str:
    plain = token.partition("'")[0]
    if tag in ("NOUN", "VERB", "ADJ", "ADV"):
        if tag == "VERB" and plain in ("has", "have", "had", "having"):
            return "have"
        if tag == "VERB" and plain in ("does", "did", "doing", "do"):
            return "do"
        return dictionary(plain).get(tag, _stripped(plain, tag))
    return plain


def _stripped(word: str, tag: str) -> str:
    """The lemma of a word that no dictionary has, by its ending."""
    if tag == "VERB" and word.endswith("ing") and len(word) > 5:
        return word[:-3]
    if tag in ("VERB", "NOUN") and word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        return word[:-1]
    return word


def _tag(words: Sequence[str], tags: Sequence[str], i: int) -> str:
    word = words[i].partition("'")[0]
    if not word[0].isalnum():
        return "PUNCT"
    if word[0].isdigit():
        return "NUM"
    before, tag_before = (words[i - 1], tags[i - 1]) if i else ("", "")
    after = words[i + 1] if i + 1 < len(words) else ""
    special = _special(word, before, tag_before, after, tags)
    if special:
        return special
    if word in _CLOSED:
        return _CLOSED[word]
    found = dictionary(word)
    if not found:
        return _by_ending(word)
    if len(found) == 1:
        return next(iter(found))
    return _ambiguous(word, found, before, tag_before, after, tags, words, i)


def _special(word: str, before: str, tag_before: str, after: str, tags: Sequence[str]) -> str:  # noqa: C901, PLR0911, PLR0912
    """Words whose tag depends on their neighbours and that are no open class."""
    if word == "to":
        base = dictionary(after).get("VERB") == after and after not in _NOUNS - {
            "face",
            "kick",
            "punch",
            "dance",
            "squat",
            "box",
            "exercise",
            "step",
            "drink",
            "swing",
            "lunge",
            "balance",
            "place",
            "circle",
        }
        return "PART" if base and _CLOSED.get(after) is None else "ADP"
    if word in ("up", "down", "off", "out", "over"):
        return "ADP"
    if word in ("around", "across", "along", "through", "by", "past"):
        noun_follows = (
            bool(after)
            and (_CLOSED.get(after) in ("DET", "NUM", "PRON") or "NOUN" in dictionary(after))
            and after not in ("and", "then")
        )
        return "ADP" if noun_follows or word == "by" else "ADV"
    if word == "back":
        return "NOUN" if tag_before == "DET" or before in ("lower", "upper") else "ADV"
    if word == "as":
        return (
            "SCONJ"
            if after in ("if", "though", "he", "she", "they", "it", "a", "the", "their", "his", "her")
            else "ADP"
        )
    if word in ("clockwise", "counterclockwise", "anticlockwise"):
        return "ADJ" if _noun_like(after) else "ADV"
    if word == "like":
        return "SCONJ"
    if word == "first" and (before in _SUBJECTS or not before):
        return "ADV"
    if word == "that" and before == "after":
        return "PRON"
    if word == "her" and (not after or not after[0].isalnum() or after in _CLOSED):
        return "PRON"
    if (
        word in ("motion", "while")
        and (tag_before in ("ADJ", "ADV") or before in ("a", "for"))
        and before not in _CONJ_BEFORE
    ):
        return "NOUN" if word == "motion" or before in ("a", "for") else ""
    if word == "that":
        return "DET" if dictionary(after) and "NOUN" in dictionary(after) and tag_before != "NOUN" else "SCONJ"
    if word in ("so", "right") and after == "then":
        return "ADV"
    if word in ("left", "right"):
        if (
            after
            and after[0].isalpha()
            and "NOUN" in dictionary(after)
            and after not in ("then", "while", "back", "forward", "clockwise", "up", "and", "to", "left", "right")
            and not (after in _VERBISH_S and after not in _NOUNS)
        ):
            return "ADJ"
        return "NOUN" if tag_before in ("DET", "ADP") else "ADV"
    if word in ("has", "have", "had", "having"):
        return "AUX" if _past_form(after) else "VERB"
    if word in ("do", "doing"):
        return "VERB"
    if word in ("does", "did"):
        return "AUX" if after == "not" else "VERB"
    if word in ("both", "all", "each") and after == "of":
        return "PRON"
    if word == "one" and (before in ("the", "this", "that", "other")):
        return "NOUN"
    if word in ("near", "next") and after == "to":
        return "ADV"
    if word in ("still", "straight") and before in ("stands", "stand", "standing", "stood", "sits", "stays", "remains"):
        return "ADV"
    return ""


def _past_form(word: str) -> bool:
    found = dictionary(word)
    return found.get("VERB", word) != word and not word.endswith(("s", "ing")) and word not in _NOUNS


def _by_ending(word: str) -> str:
    if word.endswith("ly"):
        return "ADV"
    if word.endswith(("ing", "ed")):
        return "VERB"
    return "NOUN"


def _ambiguous(  # noqa: C901, PLR0911, PLR0912, PLR0913, PLR0917 - one rule a line
    word: str,
    found: dict[str, str],
    before: str,
    tag_before: str,
    after: str,
    tags: Sequence[str],
    words: Sequence[str],
    i: int,
) -> str:
    noun_after = _noun_like(after)
    if word.endswith("ing") and "VERB" in found and word not in _ING_NOUNS:
        if word in _NOUNS and tag_before in ("DET", "ADJ", "ADP") and not noun_after:
            return "NOUN"
        return "VERB"
    verb = "VERB" in found
    if word in _ADJ_FIRST and "ADJ" in found:
        if tag_before == "NUM" or (tag_before == "DET" and after in _VERBISH_S):
            return "ADJ"
        if noun_after and word not in ("open", "lower", "still"):
            return "ADJ"
        if word in ("open", "lower", "still") and tag_before == "DET":
            return "ADJ"
        if "ADV" in found and tag_before not in ("DET", "AUX") and not (verb and tag_before in ("PRON", "PART")):
            return "ADV"
        if not (verb and tag_before in ("PART", "CCONJ", "PRON", "")):
            return "ADJ"
    if "ADV" in found and word.endswith("ly"):
        return "ADV"
    if verb and tag_before == "PART":
        return "VERB"
    if verb and tag_before == "AUX" and _past_form(word):
        return "VERB"
    third = verb and word.endswith("s") and found["VERB"] != word
    if third and tag_before in ("DET", "NUM", "ADJ") and before not in _SUBJECTS:
        if not (
            tag_before == "ADJ"
            and before in ("left", "right")
            and words[max(i - 2, 0)] not in ("the", "their", "his", "her", "with", "both")
        ):
            return "NOUN" if "NOUN" in found else "VERB"
    if (
        third
        and word in _VERBISH_S
        and (
            tag_before in ("PRON", "ADV", "CCONJ", "PUNCT", "")
            or before in _SUBJECTS
            or (tag_before in ("NOUN", "ADP") and _verb_wanted(word, words, tags, i))
        )
    ):
        if not (word in _NOUNS and not _clause_start(word, before, tag_before, after)):
            return "VERB"
    if _past_form(word) and verb:
        if "ADJ" in found and noun_after and tag_before in ("DET", "ADP", "ADJ"):
            return "ADJ"
        return "VERB"
    if "NOUN" in found and (tag_before in ("DET", "ADJ", "NUM") or word in _NOUNS):
        if not (verb and word not in _NOUNS and tag_before == "NUM" and before in _SUBJECTS):
            if "ADJ" in found and noun_after and word not in _NOUNS:
                return "ADJ"
            return "NOUN"
    if verb and (i == 0 or tag_before in ("CCONJ", "PUNCT") or before in _SUBJECTS or before == "then"):
        return "VERB"
    if third:
        return "VERB" if tag_before != "ADP" else ("NOUN" if "NOUN" in found else "VERB")
    if "ADJ" in found and noun_after:
        return "ADJ"
    for tag in ("NOUN", "ADJ", "ADV", "VERB"):
        if tag in found:
            return tag
    return "NOUN"


def _noun_like(word: str) -> bool:
    return (
        bool(word)
        and _CLOSED.get(word) is None
        and "NOUN" in dictionary(word)
        and word not in ("back", "left", "right", "up", "down", "forward")
        and not (word in _VERBISH_S and word not in _NOUNS)
    )


def _clause_start(word: str, before: str, tag_before: str, after: str) -> bool:
    """Whether a word that is mostly a noun is a verb here: after a subject, or followed by what only verbs are."""
    if before in _SUBJECTS:
        return True
    follows = after in (
        "his",
        "her",
        "their",
        "the",
        "a",
        "up",
        "down",
        "back",
        "forward",
        "forwards",
        "backwards",
        "backward",
        "to",
        "both",
        "out",
        "around",
        "over",
        "left",
        "right",
        "sideways",
        "away",
        "aside",
        "into",
        "onto",
        "on",
        "in",
        "from",
        "with",
        "quickly",
        "slowly",
        "towards",
        "side",
        "diagonally",
    )
    return (
        tag_before in ("ADV", "CCONJ", "PUNCT", "PRON")
        and follows
        and word
        in (
            "steps",
            "backs",
            "faces",
            "heads",
            "circles",
            "places",
            "positions",
            "squats",
            "kicks",
            "lunges",
            "punches",
            "swings",
            "drinks",
            "dances",
            "motions",
            "angles",
            "boxes",
            "hands",
            "sets",
            "paces",
        )
    )


def _verb_wanted(word: str, words: Sequence[str], tags: Sequence[str], i: int) -> bool:
    """Whether the clause that a word in -s follows has a subject and no verb yet: `the right leg kicks`."""
    for j in range(i - 1, -1, -1):
        if tags[j] in ("VERB", "AUX"):
            return False
        if tags[j] in ("PUNCT", "CCONJ", "SCONJ") or words[j] == "then":
            return j < i - 1
        if words[j] in ("with", "on", "in", "to", "of"):
            return False
    return True
