"""Words of motion captions: the tables behind tagging and reading.

Closed classes are complete enough for captions; the other lists hold what a general dictionary leaves open or gets
wrong there: slips of the pen, nouns that are verbs here, forms without an entry.
"""

from __future__ import annotations


def listed(text: str) -> frozenset[str]:
    """A set of words from a text of words."""
    return frozenset(text.split())


TYPOS = {
    "foward": "forward", "fowards": "forwards", "foreward": "forward", "forewards": "forwards", "froward": "forward",
    "forword": "forward", "infront": "in front", "thier": "their", "thair": "their", "thr": "the", "teh": "the",
    "adn": "and", "amd": "and", "ans": "and", "ang": "and", "an d": "and", "perosn": "person",
    "peron": "person", "oerson": "person", "peson": "person", "persin": "person", "peraon": "person", "perso": "person",
    "rigth": "right", "righ": "right", "roght": "right", "soemthing": "something", "somthing": "something",
    "someting": "something", "postion": "position", "postition": "position", "squating": "squatting",
    "sqauts": "squats", "streches": "stretches", "strech": "stretch", "outstreched": "outstretched",
    "steping": "stepping", "walkng": "walking", "grabed": "grabbed", "grabing": "grabbing", "begining": "beginning",
    "excercising": "exercising", "excercise": "exercise", "exerises": "exercises", "preforming": "performing",
    "stagers": "staggers", "rasies": "raises", "rasied": "raised",
    "resised": "raised", "bouncin": "bouncing", "cricle": "circle", "cirlce": "circle",
    "diagnally": "diagonally", "diagnolly": "diagonally", "slowy": "slowly", "wlowly": "slowly",
    "sightly": "slightly", "directally": "directly", "aggresively": "aggressively", "akwardly": "awkwardly",
    "fourth and back": "forth and back", "bith": "both", "woth": "with",
    "wth": "with", "whle": "while", "ther": "their", "hadns": "hands", "arma": "arms", 
    "claping": "clapping", "swingin": "swinging", "aroudn": "around", "aorund": "around", "arounds": "around",
    "decends": "descends", "jesture": "gesture", "fastly": "fast", "treadmil": "treadmill", "somehwere": "somewhere",
    "orginal": "original", "dumbell": "dumbbell", "dumbells": "dumbbells", "throwed": "threw", "uo": "up",
    "stratching": "scratching", "abit": "a bit", "summersault": "somersault", 
}  # fmt: skip
"""Misspellings of the public captions that occur often or stand where grammar needs the word."""

_CLASSES = {
    "DET": """
        a an the this these those his her their its my your our each every some any no another all both either
        neither which whatever
    """,
    "PRON": """
        he she it they him them himself herself themselves themself itself someone somebody something anything
        nothing anyone everyone everything nobody i you we who whom what oneself others theirs
    """,
    "AUX": "is are was were be been being am can could will would may might should must did does",
    "CCONJ": "and or but nor",
    "SCONJ": "while whilst if because though although unless since until whether",
    "PART": "not",
    "NUM": "one two three four five six seven eight nine ten eleven twelve ninety hundred",
    "ADP": """
        with in on from of at by for into onto across through towards toward under above below between against along
        beside before after during without upon within beneath underneath among like per outside inside behind than
        off out over up down via throughout beyond near alongside atop
    """,
    "ADV": """
        then again twice once thrice forward forwards backward backwards sideways sidewards clockwise
        counterclockwise anticlockwise very just together apart away too also so almost forth here now ahead upright
        somewhere nowhere everywhere quite rather even maybe perhaps only still never always often instead forwardly
        upwards upward downwards downward inward inwards outward outwards rightward leftward left-ward overhead when
        how where why nearly already afterwards diagonally barely halfway midway anyways abruptly more most soon
        though yet repeatedly alternately sometimes meanwhile eventually finally suddenly immediately mostly ever
        well counter-clockwise aside aback onwards onward indoors outdoors abroad
    """,
    "ADJ": "other several few same own such many different next previous",
    "INTJ": "hi bye oh hello goodbye",
}
CLOSED = {word: tag for tag, words in _CLASSES.items() for word in words.split()}
"""Tag of the words of closed classes, and of adverbs and adjectives that are nothing else in captions."""

MOSTLY_NOUNS = listed("""
    hand hands arm arms leg legs foot feet knee knees elbow elbows head heads face shoulder shoulders side sides
    back time times place front position motion movement air floor ground circle line step pace chair object ball
    wall waist hip hips chest toe toes finger fingers palm palms body person man woman figure thigh thighs torso
    stomach neck wrist wrists ankle ankles heel heels fist fists room box bench couch table jacks jack stance pose
    beat style manner fashion degree degrees angle direction speed way kind sort top bottom middle center centre
    corner edge ceiling something thing things building railing handrailing handrail rail king ring wing wings
    string morning level height clothing swing set drink bottle phone cup glass guitar violin drum drums golf
    baseball basketball tennis boxing fighter fighting zombie monkey chicken bird squat lunge cartwheel handstand
    kick punch dance waltz salsa jig square pattern shape curve rope ladder stairs stair steps ramp treadmill weight
    weights partner music song subject bit beginning warming exercise exercises
""")
"""Of words that may be a noun or a verb: those that mostly are nouns unless the place says otherwise."""
VERBS_IN_S = listed("""
    walks steps turns kicks jumps runs waves raises lifts moves stands sits bends picks throws squats swings stops
    starts begins holds puts reaches leans spins twists punches claps crouches kneels bows hops skips jogs crawls
    stumbles falls rises takes makes gets goes comes returns places drops grabs looks touches stretches extends
    lowers rotates circles faces backs shuffles dances balances pushes pulls catches drinks wipes scratches climbs
    paces lunges sways shakes points rubs hits rests pivots bounces lands rolls slides pours flaps tilts limps ducks
    dodges stirs leaps drags hangs taps tosses rocks sweeps wiggles waits carries jabs strokes swats stomps sprints
    twirls sneaks scrubs presses wobbles pats slaps shrugs salutes flips thrusts struts heads hands eats plays
    marches strides curls positions poses motions gestures angles shifts switches signals crosses sidesteps steadies
    repeats works guards blocks strikes cups shoulders knees levels feet exercises practices
""")
"""Forms in -s that are verbs after a subject or a conjunction, although most of them may be nouns."""
ADJECTIVES_FIRST = listed("""
    slow fast quick small large big wide tight full half straight low high long short deep light heavy slight brisk
    steady normal moderate medium imaginary invisible upper lower middle left right sudden strong wild soft sharp
    casual relaxed circular counter diagonal martial curved narrow flat still open closed bent outstretched crossed
    extended raised folded clasped parallel upright similar regular free original opposite single double entire
    whole multiple various certain careful drunk tired injured angry happy sad
""")
"""Of words that may be an adjective: those that are one before a noun."""
SUBJECTS = listed("""
    person man woman figure human someone guy individual boy girl subject character lady people men somebody child
    stick dude skeleton actor he she they it who dancer
""")
"""After these a verb is likely."""
NOUNS_IN_ING = listed("""
    ceiling building railing handrailing thing king ring wing string morning evening clothing something anything
    nothing everything bring sling during
""")
"""Words in -ing that are no gerunds."""
ALSO_INFINITIVES = listed("face kick punch dance squat box exercise step drink swing lunge balance place circle")
"""Mostly nouns that are verbs after `to`."""
CLAUSE_AFTER_AS = listed("if though he she they it a the their his her")
"""With these a clause begins after `as`."""
NO_SIDES_NOUN = listed("then while back forward clockwise up and to left right")
"""Before these `left` and `right` are no adjectives: `left then`, `to the left and`."""
STATIVE = listed("stands stand standing stood sits stays remains")
"""`stands still`: after these `still` and `straight` are adverbs."""
AFTER_VERBS = listed("""
    his her their the a up down back forward forwards backwards backward to both out around over left right sideways
    away aside into onto on in from with quickly slowly towards side diagonally
""")
"""What may follow a verb and hardly a noun."""
NOUNS_THAT_ACT = listed("""
    steps backs faces heads circles places positions squats kicks lunges punches swings drinks dances motions angles
    boxes hands sets paces
""")
"""Of `MOSTLY_NOUNS` with an -s: those that are verbs before one of `AFTER_VERBS`."""
OWNERS = listed("the their his her with both")
"""Before these and a side comes a noun: `his left kicks`."""
MENDED = {
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
"""Tags and lemmas where lemminflect has none, or one that is wrong in captions (`waives` is a slip of the pen)."""
FORMS = {
    ("sidestep", "VBG"): "sidestepping", ("sidestep", "VBZ"): "sidesteps", ("moonwalk", "VBZ"): "moonwalks",
    ("moonwalk", "VBG"): "moonwalking", ("strafe", "VBG"): "strafing", ("lie", "VBG"): "lying",
    ("uncross", "VBZ"): "uncrosses", ("uncross", "VBG"): "uncrossing", ("breakdance", "VBG"): "breakdancing",
}  # fmt: skip
"""Verb forms where lemminflect has none or another: (lemma, Penn tag) -> form."""
PERFORMERS = listed("""
    person man woman figure human someone somebody guy individual boy girl subject character lady child he she they
    it toddler dancer skeleton actor people men
""")
"""Who moves."""
BODY = listed("""
    arm arms hand hands leg legs foot feet head knee knees elbow elbows shoulder shoulders hip hips body torso waist
    wrist wrists fist fists finger fingers palm palms thumb heel heels toe toes
""")
"""Parts of the performer that a clause may be about: `his arms swing`."""
