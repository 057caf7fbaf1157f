"""What motion verbs do to a body, as far as combining motions needs it: plain tables of verb lemmas.

Read by bodies.py, usable.py, reading.py and planner.py. A verb that stands in no table is no motion that is combined.
"""

from __future__ import annotations

from rl_motion.prompts.vocabulary import listed

ARMS = frozenset({"left_arm", "right_arm"})
LEGS = frozenset({"left_leg", "right_leg"})
WHOLE = ARMS | LEGS | {"head", "torso", "root"}
"""Parts of a body that a motion keeps busy; `root` is where the body goes and how it is held."""
TRAVEL = listed("""
    walk run jog skip stroll march stride strut sprint pace shuffle sneak creep tiptoe saunter limp stumble stagger
    wander sidestep strafe step moonwalk skate climb descend ascend drift waddle swagger shimmy prance gallop trudge
    hike back move sway dance waltz follow veer head circle hurry go
""")
"""Legs and root; from standing to standing. `move` and `go` only without an object."""
JUMPS = listed("jump hop leap bounce bound")
TURNS = listed("turn spin pivot twirl rotate swivel twist pirouette")
"""Whole body where no limb is named."""
LEG_VERBS = listed("kick stomp lunge balance tap")
ARM_VERBS = listed("""
    raise lower lift wave clap punch reach throw catch hold grab pick put place push pull swing stretch extend cross
    fold point gesture rub scratch wipe wash drink eat pour stir shake touch pat salute shrug flap flex knock slap
    strum play conduct row paddle box jab draw write dial type scrub clean sweep chop dig pump toss dribble applaud
    brush mix open close carry lay set bring swat hit greet cup clasp press unscrew cover spread uncross elevate
    curl move drop bend fling grasp hammer saw juggle beckon signal pet stroke massage rest drum rock brandish swipe
    scoop circle rotate strike outstretch straighten wiggle tap hug shoot comb tie hang slam thrust shadowbox aim
""")
HEAD_VERBS = listed("look nod glance stare gaze")
TORSO_VERBS = listed("bend bow lean tilt stoop hunch")
"""Torso, and legs to hold it, where no limb is named."""
POSTURES: dict[str, tuple[str, str]] = {
    "sit": ("stand", "sit"),
    "crouch": ("stand", "crouch"),
    "kneel": ("stand", "kneel"),
    "lie": ("stand", "lie"),
    "fall": ("stand", "lie"),
    "crawl": ("kneel", "kneel"),
    "squat": ("stand", "stand"),
    "rise": ("low", "stand"),
    "swim": ("lie", "lie"),
}
"""Verb -> (held before, held after). `low`: any but standing; squats come up again by themselves."""
PERFORMING = listed("do perform take make execute complete practice")
PERFORMED = listed("""
    jack jacks cartwheel cartwheels handstand handstands pushup pushups squat squats lunge lunges kick kicks
    backflip flip somersault roll dance jig waltz salsa twirl spin turn jump hop leap step steps bow curtsy punch
    uppercut stretch stretches exercise exercises situp situps plank pirouette burpee burpees box
""")
"""What one `does`, `performs`, `takes` or `makes`: the noun decides."""
SPEEDS = {
    "slow": listed("slow slowly unhurriedly leisurely gradually gently sluggishly casually"),
    "fast": listed("fast quick quickly rapidly swiftly briskly hurriedly speedily"),
}
COUNTED = listed("""
    jump hop kick punch wave clap squat bow nod turn spin bounce stomp lunge throw swing raise lift step tap knock
    leap twist lean reach touch stretch crouch bend rotate flap shake point shrug jab slap tilt strike curl
""")
"""What can be done twice."""
SPEED_OK = (
    TRAVEL
    | TURNS
    | JUMPS - {"jump", "leap"}
    | COUNTED - {"nod", "shrug"}
    | listed("crawl kneel sit stand rise lower wipe stir rub scratch wash pour extend cross pick put place push pull")
)
LIMBS = {
    "arm": "arm", "arms": "arm", "hand": "arm", "hands": "arm", "elbow": "arm", "elbows": "arm", "wrist": "arm",
    "wrists": "arm", "fist": "arm", "fists": "arm", "palm": "arm", "palms": "arm", "finger": "arm", "fingers": "arm",
    "forearm": "arm", "forearms": "arm", "thumb": "arm",
    "leg": "leg", "legs": "leg", "foot": "leg", "feet": "leg", "knee": "leg", "knees": "leg", "ankle": "leg",
    "ankles": "leg", "heel": "leg", "heels": "leg", "thigh": "leg", "thighs": "leg", "toe": "leg", "toes": "leg",
    "head": "head", "neck": "head", "torso": "torso", "waist": "torso", "body": "torso", "hips": "torso",
    "hip": "torso", "shoulder": "arm", "shoulders": "arm",
}  # fmt: skip
OTHERS = listed("""
    someone somebody partner partners opponent opponents crowd people friend enemy another audience child baby dog
    kid woman man person persons others group team teacher pet cat horse they he she
""")
"""Other bodies: what needs them is no motion of one person."""
NO_ANTECEDENT = listed("""
    it this these those that they he she one other another same there such which what who whom where when so back
    again more also still
""")
"""Words that point back to what a meta-motion alone no longer says."""
NEEDS_OBJECT = listed("""
    raise lower lift throw catch hold grab pick put place push pull touch open close bring carry lay set swat hit
    press cover spread cross uncross extend drop flap flex fold shake stir pour eat wash wipe rub scratch
    stroke pet brush play strum row scrub clean sweep pump toss dribble fling grasp juggle massage scoop hang tie
    comb aim thrust tap pat straighten outstretch wiggle hug elevate shoot mix unscrew clasp cup rock slam saw swing
    draw write dial type conduct
""")
"""Verbs that say nothing without what they are done to."""
