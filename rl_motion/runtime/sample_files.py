"""Sampled motions as files: what can be refused is refused before anything is sampled, and no file is ever half.

`--out walks` or `walks.html` gives `walks.html`, `walks.npy` and `walks.npz` with all motions, and in the folder
`walks` a file per motion of the other formats: `01-a-person-waves-2.bvh` is prompt 1, sample 2.
Legend: B motions, F frames, J joints (22).
"""

from __future__ import annotations

import io
import logging
import os
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from rl_motion.config import UserError
from rl_motion.motion.formats.exports import OF_ALL, WITH_SKELETON, Export
from rl_motion.motion.rotations import FloatArray
from rl_motion.runtime.progress import counting
from rl_motion.runtime.sampling import Sampled
from rl_motion.tracking.files import missing_folders, write_atomic, write_together

if TYPE_CHECKING:
    from rl_motion.motion.viewer import Row

_log = logging.getLogger(__name__)
_SLUG = 48
"""Most characters of a prompt in a file's name."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is to be written.

    Attributes:
        stem: where, without an ending; also the folder of what has a file per motion.
        formats: which.
        lengths_J: lengths of the bones into joints 1 to 21 in metres, for BVH and GLB; None keeps each motion's own.
        ffmpeg: the program for MP4, if asked for.
    """

    stem: Path
    formats: tuple[Export, ...]
    lengths_J: FloatArray | None = None
    ffmpeg: str | None = None

    def of_all(self, kind: Export) -> Path:
        """The file with all motions in that format."""
        return self.stem.with_name(f"{self.stem.name}.{kind}")


def wanted(out: Path, formats: Collection[Export], skeleton: Path | None) -> Wanted:
    """Check what was asked for.

    Args:
        out: a name without an ending, or one that ends in .html.
        formats: which; at least one.
        skeleton: a BVH file whose proportions BVH and GLB get.

    Raises:
        UserError: another ending, a place where nothing can be written, no ffmpeg for MP4, or a skeleton that nobody
            asked for or that cannot be read.
    """
    if out.suffix not in {"", ".html"} or out.name in {"", ".."}:
        raise UserError(f"got --out {out}; want a name that ends in .html or has no ending; rename it")
    stem = out.with_suffix("")
    chosen = tuple(kind for kind in Export if kind in formats)
    apart = [kind for kind in chosen if kind not in OF_ALL]
    _check_place(stem if apart else stem.parent, out)
    if skeleton is not None and not set(chosen) & set(WITH_SKELETON):
        raise UserError(
            f"got --skeleton {skeleton} for {', '.join(chosen)}; want a format that has a skeleton; add --format bvh "
            "or --format glb, or leave it out"
        )
    lengths_J = None if skeleton is None else read_lengths(skeleton)
    ffmpeg = None
    if Export.MP4 in chosen:
        from rl_motion.motion.formats.video import find_ffmpeg

        ffmpeg = find_ffmpeg()
    return Wanted(stem, chosen, lengths_J, ffmpeg)


def read_lengths(skeleton: Path) -> FloatArray:
    """Lengths [J - 1] in metres of the bones into joints 1 to 21 of a BVH file's body, as they are in its motion.

    What the file lacks is placed as an import places it; what is odd about it is logged.

    Raises:
        UserError: it cannot be read, has another skeleton, or a bone without a length.
    """
    from rl_motion.motion.formats.bvh import read_bvh
    from rl_motion.motion.formats.retarget import to_body
    from rl_motion.motion.inverse import bone_lengths
    from rl_motion.motion.skeleton import JOINT_NAMES

    try:
        body = to_body(read_bvh(skeleton))
    except UserError as error:
        said = str(error).removeprefix("got ")
        said = said if said.startswith(str(skeleton)) else f"{skeleton}: {said}"
        raise UserError(f"got --skeleton {said}; give another file where this one cannot be mended") from None
    for odd in body.wrong:
        _log.warning("--skeleton %s: %s", skeleton, odd)
    finite_F = np.isfinite(body.joints_FJ3).all(axis=(1, 2))
    lengths_J = bone_lengths(body.joints_FJ3[finite_F])
    if not (lengths_J > 1e-4).all():
        joint = JOINT_NAMES[int(np.argmin(lengths_J)) + 1]
        raise UserError(
            f"got --skeleton {skeleton} with {joint} where its parent is; want bones with a length; choose another file"
        )
    return lengths_J


def write_files(sampled: Sampled, want: Wanted, console: Console) -> list[tuple[str, Path]]:
    """Write what was asked for: each file as a whole or not at all, those of all motions last and together.

    Returns:
        What was written where, in words: a file, or a folder of files.

    Raises:
        UserError: a motion is not finite (nothing is written then), or there is no room or no right to write.
    """
    apart = [kind for kind in want.formats if kind not in OF_ALL]
    if set(want.formats) - {Export.NPY, Export.NPZ}:
        _refuse_not_finite(sampled)
    try:
        with counting(console, "writing motions", len(sampled) if apart else 0) as count:
            for row, name in enumerate(names(sampled)) if apart else ():
                _write_motion(sampled, row, want, want.stem / name)
                count(row + 1)
        together = {want.of_all(kind): _content(sampled, kind) for kind in want.formats if kind in OF_ALL}
        if together:
            write_together(together)
    except OSError as error:
        place = want.of_all(Export.HTML) if Export.HTML in want.formats else want.stem
        raise UserError(
            f"got --out {place}, where files cannot be written ({error.strerror}); want room and the right to write; "
            "choose another place"
        ) from None
    says = {Export.HTML: "motions", Export.NPY: "joints", Export.NPZ: "arrays"}
    written = [(says[kind], want.of_all(kind)) for kind in OF_ALL if kind in want.formats]
    return [*written, *((kind.upper(), want.stem / f"*.{kind}") for kind in apart)]


def names(sampled: Sampled) -> list[str]:
    """A file's name without an ending for each motion: unique, of small ASCII letters, figures and hyphens."""
    digits = max(2, len(str(len(sampled.prompts))))
    made = []
    for number, prompt in enumerate(sampled.prompts, start=1):
        stem = f"{number:0{digits}}-{slug(prompt.text)}"
        made += [f"{stem}-{one}" for one in range(1, sampled.samples + 1)] if sampled.samples > 1 else [stem]
    return made


def slug(text: str) -> str:
    """Foreign text as part of a file's name: `a-person-waves`, `motion` where no letter is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_SLUG].strip("-") or "motion"


def _check_place(folder: Path, out: Path) -> None:
    """Refuse a folder that can neither be made nor be written to; raises UserError."""
    missing = missing_folders(folder)
    there = missing[-1].parent if missing else folder
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        why = "may not be written to" if there.is_dir() else "is no folder"
        raise UserError(f"got --out {out}, for which {there} {why}; want a place to write to; choose another")


def _refuse_not_finite(sampled: Sampled) -> None:
    for row in range(len(sampled)):
        if not np.isfinite(sampled.clip(row)).all():
            prompt = sampled.prompts[row // sampled.samples]
            raise UserError(
                f"got motion that is not finite for the prompt {prompt.text!r}, sample {row % sampled.samples + 1}; "
                "want numbers; check the adapter and the model, or leave that prompt out"
            )


def _write_motion(sampled: Sampled, row: int, want: Wanted, stem: Path) -> None:
    from rl_motion.motion.formats.bvh_write import bvh_text
    from rl_motion.motion.formats.glb import glb_bytes
    from rl_motion.motion.inverse import solve

    prompt, fps, joints_FJ3 = sampled.prompts[row // sampled.samples].text, sampled.motions.fps, sampled.clip(row)
    made = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in want.formats}
    if set(want.formats) & set(WITH_SKELETON):
        rotations = solve(joints_FJ3, fps, want.lengths_J)
        if Export.BVH in want.formats:
            write_atomic(made[Export.BVH], bvh_text(rotations).encode())
        if Export.GLB in want.formats:
            write_atomic(made[Export.GLB], glb_bytes(rotations, stem.name, prompt))
    if {Export.GIF, Export.MP4} & set(want.formats):
        from rl_motion.motion.formats.drawing import Film
        from rl_motion.motion.formats.video import gif_bytes, write_mp4

        film = Film(joints_FJ3, fps, prompt)
        if Export.GIF in want.formats:
            write_atomic(made[Export.GIF], gif_bytes(film))
        if want.ffmpeg is not None:
            write_mp4(made[Export.MP4], film, want.ffmpeg)


def _content(sampled: Sampled, kind: Export) -> bytes:
    content = io.BytesIO()
    if kind is Export.HTML:
        from rl_motion.motion.viewer import motion_page

        return motion_page("Samples", _rows(sampled), f"seed {sampled.seed}").encode()
    if kind is Export.NPY:
        np.save(content, sampled.joints_BFJ3, allow_pickle=False)
        return content.getvalue()
    motions = sampled.motions
    np.savez_compressed(
        content,
        allow_pickle=False,
        joints=sampled.joints_BFJ3,
        features=motions.features_BFD.numpy(),
        lengths=motions.length_B.numpy(),
        prompts=np.array([prompt.text for prompt in sampled.prompts for _ in range(sampled.samples)]),
        fps=np.float64(motions.fps),
        representation=np.array(str(motions.representation)),
        seed=np.int64(sampled.seed),
    )
    return content.getvalue()


def _rows(sampled: Sampled) -> list[Row]:
    from rl_motion.motion.viewer import Panel, Row

    fps, samples = sampled.motions.fps, sampled.samples
    return [
        Row(
            prompt.text,
            [Panel(f"sample {one + 1}", sampled.clip(number * samples + one), fps=fps) for one in range(samples)],
        )
        for number, prompt in enumerate(sampled.prompts)
    ]
