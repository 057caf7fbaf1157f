"""What every official layout answers: is this mine, what is it, and the project's own checkpoint from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rl_motion.config import UserError


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a checkpoint is, in words.

    Attributes:
        what: one line: the model, whose code wrote it, with or without averaged weights.
        facts: label -> value, in the order of the page: widths, data set, normalisation, schedule, sampler ...
        parameters: of the network, without text encoder, tables of positions and schedules.
        missing: names of tensors that the network needs and the file lacks.
        extra: names of tensors that the file has and nobody reads; what is known to be left out (CLIP, optimiser,
            tables) is no extra.
        notes: whole sentences: what to look out for.
        options: what `rl-motion model convert` must be given for it.
    """

    what: str
    facts: Mapping[str, str]
    parameters: int
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    options: tuple[str, ...] = ("--text-encoder",)


@dataclass(frozen=True, slots=True)
class Sources:
    """What a conversion reads beside the checkpoint itself; each layout asks for what it needs.

    Attributes:
        text_encoder: a local Hugging Face directory; the converted `config.json` names it by its last component.
        stats: a folder with the mean and deviation that the model's data were normalised with.
        glove: the folder of word vectors of Guo et al.'s evaluator.
    """

    text_encoder: Path | None = None
    stats: Path | None = None
    glove: Path | None = None

    def text_encoder_name(self, wanted: str) -> str:
        """The name of the text encoder's directory, for `CheckpointConfig.text_encoder`.

        Raises:
            UserError: none was given; `wanted` says which model it must be.
        """
        if self.text_encoder is None:
            raise UserError(
                f"got no text encoder; want the Hugging Face directory of {wanted}, with which this model was trained; "
                "add --text-encoder DIR"
            )
        return absolute(self.text_encoder).name


def absolute(path: Path) -> Path:
    """The path from the root; unlike `resolve`, it follows no links: the name that the user gave stays its last."""
    return Path(os.path.abspath(path))


@dataclass(frozen=True, slots=True)
class Layout:
    """One official layout. What is broken is a UserError; none of the three changes anything but `folder`.

    Attributes:
        files: what one looks like, in a few words: "opt.txt, meta/ and model/latest.tar (StableMoFusion)".
        recognise: whether a path looks like this layout: by names of files, and keys where names do not tell; it
            never raises, and reads little.
        inspect: read it all and say what it is.
        convert: (path, folder, sources) write the project's own checkpoint (`rl_motion.models.zoo`) into `folder`, an
            empty directory that becomes the checkpoint if all goes well. Where the text encoder goes, and
            whether what was written loads, is seen to by the caller.
    """

    files: str
    recognise: Callable[[Path], bool]
    inspect: Callable[[Path], Inspection]
    convert: Callable[[Path, Path, Sources], None]
