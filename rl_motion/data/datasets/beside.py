"""Captions that lie beside motion files: NAME.txt, and captions.jsonl or clips.jsonl in their folder or above it.

NAME.txt has a caption a line, or HumanML3D's lines: caption#word/POS word/POS#start#end. Of those, captions of a part
of the motion are left out: a file is one clip.
A .jsonl has an object a line: name (of a file below, with or without its folder and suffix), captions, and where there
is more to tell trial and captions_mirrored. What is wrong with a line never loses the others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rl_motion.data import folder as real
from rl_motion.data.datasets.clips import Caption, FileReport, caption_fault
from rl_motion.motion.formats.recording import shown
from rl_motion.tracking.files import read_whole

LINES = ("captions.jsonl", "clips.jsonl")
_MOST_TEXT, _MOST_LINES = 1 << 20, 1 << 28
"""Bytes of a text file, and of a file of lines."""
_UNREAD = "a line of captions that cannot be read"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class _Line:
    """Of a .jsonl: what it says of one file."""

    captions: tuple[str, ...]
    mirrored: tuple[str, ...]
    trial: str


class Beside:
    """What is told of each of some files.

    reports: lines that cannot be read, and names of no file.
    """

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        """Read all .jsonl files in the folders of these files, and above up to `root`."""
        self.reports: list[FileReport] = []
        self._root = root
        self._lines: dict[Path, _Line] = {}
        by_name = _by_name(root, files)
        folders = {
            above for file in files for above in (file.parent, *file.parent.parents) if above.is_relative_to(root)
        }
        for folder in sorted(folders):
            for name in LINES:
                if (folder / name).is_file():
                    self._read(folder / name, by_name)

    def trial(self, file: Path) -> str:
        """The recording that a file is of: its own name where nobody tells."""
        line = self._lines.get(file)
        return line.trial if line and line.trial else file_id(file, self._root)

    def captions(self, file: Path) -> tuple[tuple[Caption, ...], tuple[str, ...]]:
        """Captions of a file, each text once, and what is wrong with others."""
        text = file.with_suffix(".txt")
        found, wrong = _text_captions(text) if text.is_file() else ([], [])
        line = self._lines.get(file)
        for said in line.captions if line else ():
            caption = Caption(" ".join(said.split()))
            if fault := caption_fault(caption):
                wrong.append(f"{fault}: {shown(said)}")
            else:
                found.append(caption)
        unique = dict[str, Caption]()
        for caption in found:
            unique.setdefault(caption.text, caption)
        return tuple(unique.values()), tuple(wrong)

    def mirrored(self, file: Path, captions: Sequence[Caption]) -> tuple[Caption, ...]:
        """Captions of its mirror image: those told, or the same where none speaks of a side; else none."""
        line = self._lines.get(file)
        told = (Caption(" ".join(text.split())) for text in (line.mirrored if line else ()))
        usable = tuple(caption for caption in told if not caption_fault(caption))
        if usable or any(real.SIDED.search(caption.text) for caption in captions):
            return usable
        return tuple(captions)

    def _read(self, path: Path, by_name: Mapping[str, Path | None]) -> None:
        name = path.relative_to(self._root).as_posix()
        try:
            content = read_whole(path, _MOST_LINES).decode("utf-8-sig")
        except OSError as error:
            self.reports.append(
                FileReport(name, (error.strerror or str(error),), left_out="captions that cannot be read")
            )
            return
        except UnicodeDecodeError as error:
            wrong = (f"not UTF-8 at byte {error.start}",)
            self.reports.append(FileReport(name, wrong, left_out="captions that cannot be read"))
            return
        lost = list[str]()
        for number, line in enumerate(content.splitlines(), start=1):
            if not line.strip():
                continue
            row = _row(line)
            if row is None:
                wrong = (f"line {number}: {shown(line)}; want name and captions, texts",)
                self.reports.append(FileReport(name, wrong, left_out=_UNREAD))
                continue
            file = _named(row["name"], path.parent.relative_to(self._root), by_name)
            if file is None:
                lost.append(row["name"])
            elif file in self._lines:
                self.reports.append(
                    FileReport(name, (f"line {number}: {shown(row['name'])} comes twice",), left_out=_UNREAD)
                )
            else:
                self._lines[file] = _Line(
                    tuple(row["captions"]), tuple(row.get("captions_mirrored", ())), row.get("trial", "")
                )
        if lost:
            some = ", ".join(map(shown, lost[:_SHOWN]))
            self.reports.append(FileReport(name, (f"{len(lost)} names of no one file, such as {some}",)))


def file_id(file: Path, root: Path) -> str:
    """Its path below the root, without the suffix."""
    return file.relative_to(root).with_suffix("").as_posix()


def _by_name(root: Path, files: Sequence[Path]) -> dict[str, Path | None]:
    """Files by their id, and by their bare name; None where several share it."""
    ids = {file_id(file, root): file for file in files}
    bare = Counter(file.stem for file in files)
    names: dict[str, Path | None] = {file.stem: file if bare[file.stem] == 1 else None for file in files}
    return names | ids


def _named(name: str, folder: Path, by_name: Mapping[str, Path | None]) -> Path | None:
    """The file that a line means. Names are looked up, never opened: they lead nowhere else."""
    given = PurePosixPath(name)
    for tried in (PurePosixPath(folder) / given, given):
        for spelt in (tried.as_posix(), tried.with_suffix("").as_posix() if tried.name else ""):
            if (file := by_name.get(spelt)) is not None:
                return file
    return None


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not isinstance(row.get("trial", ""), str):
        return None
    lists = (row.get("captions"), row.get("captions_mirrored", []))
    fits = all(isinstance(many, list) and all(isinstance(one, str) for one in many) for many in lists)
    return row if fits else None


def _text_captions(path: Path) -> tuple[list[Caption], list[str]]:
    try:
        content = read_whole(path, _MOST_TEXT).decode("utf-8-sig")
    except OSError as error:
        return [], [f"{path.name}: {error.strerror or error}"]
    except UnicodeDecodeError as error:
        return [], [f"{path.name}: not UTF-8 at byte {error.start}"]
    found, wrong = list[Caption](), list[str]()
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        caption, fault = _text_caption(line)
        if fault:
            wrong.append(f"{path.name}, line {number}: {fault}")
        else:
            found.append(caption)
    return found, wrong


def _text_caption(line: str) -> tuple[Caption, str]:
    """The caption of a line, and why it cannot be used; empty if it can."""
    text, *more = line.split("#")
    caption = Caption(" ".join(text.split()), tuple(more[0].split()) if len(more) == 3 else ())
    if caption_fault(caption) and not caption_fault(Caption(caption.text)):
        caption = Caption(caption.text)
    if len(more) == 3 and not all(map(_is_no_time, more[1:])):
        return caption, f"of a part alone, {shown('#'.join(more[1:]))} s"
    return caption, caption_fault(caption)


def _is_no_time(text: str) -> bool:
    """HumanML3D writes 0.0 and nan for a caption of the whole motion."""
    try:
        return float(text) == 0 or float(text) != float(text)
    except ValueError:
        return not text.strip()
