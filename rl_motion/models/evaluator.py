"""An evaluator: Guo et al.'s networks with statistics and words of their own. It judges, and is never a reward.

Its normalisation is the evaluator's, the fourth of the field's conventions, so motions come in un-normalised.
Words are lemmas of the project's own tagger with their part of speech; their vectors are learned with the networks.

Legend: B batch, F frames, D features, L words, K parts of speech, C co-embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from rl_motion.config import UserError
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.guo import SEGMENT, Guo
from rl_motion.models.layers import check_statistics, valid_mask
from rl_motion.motion.convert import converted, convertible
from rl_motion.prompts.words import parse
from rl_motion.types import Motions, Normalisation

UNKNOWN, START, END = "unk", "sos", "eos"
"""The official evaluator's names of a word that it does not know and of a text's two ends."""
POS = ("VERB", "NOUN", "DET", "ADP", "NUM", "AUX", "PRON", "ADJ", "ADV", "CCONJ", "SCONJ", "PART", "OTHER")
"""Parts of speech by column: the tagger's, and one for the rest."""
_ROWS = 256
"""Motions of one forward pass, which bounds memory."""


class Vocabulary:
    """Lemmas by number. Every text starts and ends with a mark, so that the empty one has two words.

    Attributes:
        pos: parts of speech by column.
    """

    pos: ClassVar[tuple[str, ...]] = POS

    def __init__(self, words: Sequence[str]) -> None:
        """Number the words, which begin with `UNKNOWN`, `START` and `END`.

        Raises:
            ValueError: they do not, or a word is there twice.
        """
        if tuple(words[:3]) != (UNKNOWN, START, END) or len(set(words)) != len(words):
            raise ValueError(
                f"got words that begin with {list(words[:3])}, {len(words) - len(set(words))} of them repeated; want "
                f"{[UNKNOWN, START, END]} first, each word once; take the vocabulary of this evaluator's training"
            )
        self.words = tuple(words)
        self._number = {word: number for number, word in enumerate(words)}

    @classmethod
    def of(cls, texts: Iterable[str]) -> Vocabulary:
        """All lemmas of some texts, sorted."""
        found = {word.lemma for text in texts for word in parse(text) if word.tag != "PUNCT"}
        return cls((UNKNOWN, START, END, *sorted(found - {UNKNOWN, START, END})))

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Word numbers [B, L] and numbers of parts of speech [B, L], 0 beyond the length, and lengths [B].

        Raises:
            ValueError: no texts, or a single one that is not in a list.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"got {texts!r}; want a list of at least one text; wrap a single text in a list")
        other = self.pos.index("OTHER")
        numbers, tags = [], []
        for text in texts:
            words = self._words(text)
            numbers.append([1, *(number for number, _ in words), 2])
            tags.append([other, *(tag for _, tag in words), other])
        length_B = torch.tensor([len(row) for row in numbers])
        word_BL, tag_BL = (
            nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True) for rows in (numbers, tags)
        )
        return word_BL, tag_BL, length_B

    def _words(self, text: str) -> list[tuple[int, int]]:
        """Numbers of a text's words and of their parts of speech."""
        other = POS.index("OTHER")
        words = [word for word in parse(text) if word.tag != "PUNCT"]
        tags = (POS.index(word.tag) if word.tag in POS else other for word in words)
        return [(self._number.get(word.lemma, 0), tag) for word, tag in zip(words, tags, strict=True)]


class Evaluator(nn.Module):
    """Motions and texts to points of one Euclidean space: near where they fit.

    Attributes:
        fps: frames per second of the motion that it reads; other motion is converted first.
        representation: of the motion that it reads.
        vocabulary: the words that it knows; the others share one vector.
        sha256: hash of the weights file that it was loaded from; empty before it is saved.
        own_heading: whether the features that it was trained on take the body's own heading (ADR 3).
    """

    own_heading: ClassVar[bool] = True
    mean_D: Tensor
    std_D: Tensor

    def __init__(self, guo: Guo, vocabulary: Vocabulary, words_VW: Tensor, space: MotionSpace) -> None:
        """Combine networks with their words, a vector each, and the space that they were trained in.

        Raises:
            ValueError: statistics or vectors of another shape, a deviation that is not positive, or another tagger's
                classes.
        """
        super().__init__()
        check_statistics(space.mean_D, space.std_D, guo.config.features)
        want = (len(vocabulary.words), guo.config.word_size)
        if tuple(words_VW.shape) != want:
            raise ValueError(f"got word vectors {tuple(words_VW.shape)}; want {want}; take those of this vocabulary")
        if guo.config.pos_size != len(vocabulary.pos):
            raise ValueError(
                f"got an evaluator of {guo.config.pos_size} parts of speech; want the {len(vocabulary.pos)} of its "
                "vocabulary; train it on these"
            )
        self.guo, self.vocabulary = guo, vocabulary
        self.vectors = nn.Embedding.from_pretrained(words_VW.detach().clone(), freeze=False)
        self.register_buffer("mean_D", space.mean_D.detach().clone())
        self.register_buffer("std_D", space.std_D.detach().clone())
        self.fps, self.representation, self.sha256 = space.fps, space.representation, ""

    @torch.no_grad()
    def embed_motions(self, motions: Motions) -> Tensor:
        """Points [B, C] of un-normalised motions, in the order given; without gradient, as it is never a reward.

        Motion of another representation or frame rate is converted. A row depends on itself alone.

        Raises:
            UserError: normalised features, a form that cannot be converted, motion that is not finite, shorter than
                a segment or longer than the canvas.
        """
        motions = self._own(motions)
        self._check(motions)
        points = []
        for rows in torch.arange(len(motions.length_B)).split(_ROWS):
            length_B = motions.length_B[rows]
            points.append(self.guo.encode_motion(self.normalised(motions.features_BFD[rows], length_B), length_B))
        return torch.cat(points)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Points [B, C] of texts, in the order given."""
        word_BL, tag_BL, length_B = (part.to(self.mean_D.device) for part in self.vocabulary.read(texts))
        return self.encode_words(word_BL, tag_BL, length_B)

    def normalised(self, features_BFD: Tensor, length_B: Tensor) -> Tensor:
        """Features by the evaluator's statistics on its canvas [B, max_frames, D], exactly 0 beyond the length.

        The canvas is the same for every motion: its padding enters the convolutions, as in the official code, where
        an embedding would otherwise depend on the longest motion of its batch.
        """
        canvas = self.guo.config.max_frames
        frames = min(features_BFD.shape[1], canvas)
        scaled_BFD = (features_BFD[:, :frames] - self.mean_D) / self.std_D
        valid_BF1 = valid_mask(length_B, frames)[..., None]
        kept_BFD = torch.where(valid_BF1, scaled_BFD, torch.zeros_like(scaled_BFD))
        return functional.pad(kept_BFD, (0, 0, 0, canvas - frames))

    def encode_words(self, word_BL: Tensor, tag_BL: Tensor, length_B: Tensor) -> Tensor:
        """Points [B, C] of word numbers and numbers of parts of speech."""
        pos_BLK = functional.one_hot(tag_BL, len(self.vocabulary.pos)).to(self.mean_D.dtype)
        return self.guo.encode_text(self.vectors(word_BL), pos_BLK, length_B)

    def _own(self, motions: Motions) -> Motions:
        """The motions in the evaluator's own representation and frame rate, on its device."""
        if motions.normalisation != Normalisation.NONE:
            raise UserError(
                f"got motion as {motions.form}; want it un-normalised, as an evaluator has statistics of its own; "
                "decode it first"
            )
        if not convertible(motions.representation, self.representation):
            raise UserError(
                f"got {motions.representation} motion; want {self.representation} or what can be converted to it; "
                "choose an evaluator of that representation"
            )
        own = converted(motions, self.representation, self.fps, own_heading=self.own_heading)
        return own.to(self.mean_D.device)

    def _check(self, motions: Motions) -> None:
        shape, canvas = self.guo.config, self.guo.config.max_frames
        valid_BF = valid_mask(motions.length_B, motions.features_BFD.shape[1])
        width, shortest = motions.features_BFD.shape[-1], int(motions.length_B.min())
        longest = int(motions.length_B.max())
        if width != shape.features or not bool(motions.features_BFD[valid_BF].isfinite().all()):
            raise UserError(
                f"got motion of {width} features, or with NaN or infinities; want {shape.features} finite ones; look "
                "at what made it"
            )
        if shortest < SEGMENT or longest > canvas:
            raise UserError(
                f"got motions of {shortest} to {longest} frames at {self.fps:g} fps; want {SEGMENT} to {canvas}; cut "
                "them, or choose an evaluator of longer motion"
            )
