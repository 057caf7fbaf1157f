"""Guo et al.'s evaluator as they publish it: GloVe words with 15 parts of speech, and motion in whole segments.

The networks are those of `guo.py`. What their own data loader does to captions and to motion is here, since an
embedding depends on it (EricGuo5513/text-to-motion: utils/word_vectorizer.py, data/dataset.py).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from rl_motion.models.evaluator import Evaluator, Vocabulary
from rl_motion.models.guo import SEGMENT
from rl_motion.prompts.words import tokens
from rl_motion.types import Motions

POS = (
    "VERB", "NOUN", "DET", "ADP", "NUM", "AUX", "PRON", "ADJ", "ADV",
    "Loc_VIP", "Body_VIP", "Obj_VIP", "Act_VIP", "Desc_VIP", "OTHER",
)  # fmt: skip
"""Parts of speech by column, and five classes of words that matter to motion, which come before a word's own."""
_CLASSES = {
    "Loc_VIP": "left right clockwise counterclockwise anticlockwise forward back backward up down straight curve",
    "Body_VIP": "arm chin foot feet face hand mouth leg waist eye knee shoulder thigh",
    "Obj_VIP": "stair dumbbell chair window floor car ball handrail baseball basketball",
    "Act_VIP": "walk run swing pick bring kick put squat throw hop dance jump turn stumble stop sit lift lower raise "
    "wash stand kneel stroll rub bend balance flap jog shuffle lean rotate spin spread climb",
    "Desc_VIP": "slowly carefully fast careful slow quickly happy angry sad happily angrily sadly",
}
CLASS_OF: Mapping[str, str] = {word: name for name, words in _CLASSES.items() for word in words.split()}
"""The class of a word that has one, whatever its tag."""
MOST_WORDS = 20
"""Words of a caption that are read; its two ends are marked beside them."""
_TAGGED = re.compile(r"[^/\s]+/[A-Z]+")
_SHOWN = 6
_log = logging.getLogger(__name__)


class GloveVocabulary(Vocabulary):
    """The words of a GloVe file, read as the official evaluator reads them.

    A text is `word/POS` tokens, separated by spaces, as HumanML3D's text files have them, or a plain caption: then the
    project's tagger makes the tokens (`rl_motion.prompts.words`), which are not always those of HumanML3D's. A word
    that the file lacks is `unk`, of no part of speech, and is told of once.
    """

    pos: ClassVar[tuple[str, ...]] = POS

    def __init__(self, words: Sequence[str]) -> None:
        """Number the words, as `Vocabulary` does; raises what it does."""
        super().__init__(words)
        self._strange: set[str] = set()

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """As `Vocabulary` does, with a warning that names the words that it lacks, each once."""
        known = set(self._strange)
        found = super().read(texts)
        if new := sorted(self._strange - known):
            named = ", ".join(map(ascii, new[:_SHOWN])) + (", ..." if len(new) > _SHOWN else "")
            _log.warning("the evaluator lacks %d words of these captions, and reads unk: %s", len(new), named)
        return found

    def _words(self, text: str) -> list[tuple[int, int]]:
        found = []
        for token in tokens_of(text)[:MOST_WORDS]:
            word, _, tag = token.partition("/")
            if word not in self._number:
                self._strange.add(word)
            column = CLASS_OF.get(word, tag) if word in self._number else "OTHER"
            found.append((self._number.get(word, 0), POS.index(column if column in POS else "OTHER")))
        return found


class PublishedEvaluator(Evaluator):
    """The evaluator with the official loader's motion: whole segments, counted from the first frame.

    The official loader cuts a random stretch out, as many segments as there are or, for every third motion, one less:
    augmentation, which is left out here.
    """

    own_heading: ClassVar[bool] = False

    def _own(self, motions: Motions) -> Motions:
        motions = super()._own(motions)
        return replace(motions, length_B=motions.length_B // SEGMENT * SEGMENT)


def tokens_of(text: str) -> list[str]:
    """The `word/POS` tokens of a text: itself, where it is written in them, else the tagger's."""
    written = text.split()
    return written if written and all(map(_TAGGED.fullmatch, written)) else tokens(text)
