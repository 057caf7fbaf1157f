"""An official checkpoint becomes the project's own: whole and tried out, or not there at all."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rl_motion.config import UserError
from rl_motion.models.official import layout_of
from rl_motion.models.official.layout import Inspection, Sources, absolute
from rl_motion.models.official.reading import read_json
from rl_motion.models.zoo import DENOISERS, EVALUATORS, RETRIEVAL, load_denoiser, load_evaluator, load_tmr
from rl_motion.tracking.files import missing_folders, remove_empty

_READ = {".json", ".safetensors", ".txt", ".model"}
"""What a text encoder is read from; its directory may hold the same weights in other forms."""
_MOST_LAYERS = 1000
"""Of a text encoder."""


@dataclass(frozen=True, slots=True)
class Converted:
    """Where a conversion went."""

    folder: Path
    text_encoder: Path | None
    inspection: Inspection


def convert(path: Path, sources: Sources, out: Path) -> Converted:
    """Write the project's own checkpoint of an official one, with its text encoder's directory beside it.

    Args:
        path: the official checkpoint's folder, or its file of weights.
        sources: what it is read with.
        out: the directory to make; it must not be there. What a run that was killed left half done is removed.

    Raises:
        UserError: the checkpoint is broken or incomplete, something it needs was not given, or `out` is taken. Nothing
            is left behind then.
    """
    layout = layout_of(path)
    out = absolute(out)
    if os.path.lexists(out):
        raise UserError(
            f"got --out {out}, which is there already; want a new directory; remove it or choose another name"
        )
    if sources.text_encoder is not None:
        _refuse_no_encoder(sources.text_encoder, out)
    made, partial = missing_folders(out.parent), out.with_name(f".{out.name}.partial")
    placed: Path | None = None
    try:
        _make(out.parent)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        layout.convert(path, partial, sources)
        inspection = layout.inspect(path)
        (partial / "README.md").write_text(_card(path, inspection), encoding="utf-8")
        encoder = None
        if sources.text_encoder is not None:
            encoder, placed = _place(absolute(sources.text_encoder), out.parent)
        _load(partial, {partial: out} | ({encoder: sources.text_encoder} if encoder and sources.text_encoder else {}))
        partial.rename(out)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        if placed is not None:
            shutil.rmtree(placed, ignore_errors=True)
        remove_empty(made)
        raise
    return Converted(out, encoder, inspection)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"got --out below {error.filename}, which is a file; want a new directory; choose another place"
        ) from None


def _load(folder: Path, known_as: Mapping[Path, Path]) -> None:
    """Load it as everything else will, which tries it on a text too.

    Raises:
        UserError: it does not load; the message has the paths by which the user knows them, as these go.
    """
    kind = read_json(folder / "config.json")["kind"]
    loaders: Mapping[str, Callable[[Path], object]] = {
        **dict.fromkeys(DENOISERS, load_denoiser),
        **dict.fromkeys(RETRIEVAL, load_tmr),
        **dict.fromkeys(EVALUATORS, load_evaluator),
    }
    try:
        loaders[kind](folder)
    except UserError as error:
        said = str(error)
        for path, known in known_as.items():
            said = said.replace(str(path), str(known))
        raise UserError(said) from error


def _refuse_no_encoder(directory: Path, out: Path) -> None:
    if not (directory / "config.json").is_file():
        raise UserError(
            f"got --text-encoder {directory}, which has no config.json; want a local Hugging Face directory "
            "(config.json, model.safetensors, tokenizer files); save one with save_pretrained and give its path"
        )
    _refuse_endless(directory)
    if absolute(directory).name == out.name:
        raise UserError(
            f"got --out {out}, the name of the text encoder's directory; want two names, as they lie side by side; "
            "choose another"
        )


def _refuse_endless(directory: Path) -> None:
    """Refuse a text encoder of more layers than any has: the library would build them one by one, for hours."""
    settings = read_json(directory / "config.json")
    for part in (settings, settings.get("text_config")):
        for name, value in part.items() if isinstance(part, dict) else ():
            if "layers" in name and isinstance(value, int) and value > _MOST_LAYERS:
                raise UserError(
                    f"got {name} {value:.3g} in {directory / 'config.json'}; want at most {_MOST_LAYERS}; copy the "
                    "file again from where the weights are from"
                )


def _place(directory: Path, beside: Path) -> tuple[Path, Path | None]:
    """The text encoder's directory beside the checkpoint, and the same if it was made: hard links, copies elsewhere.

    Raises:
        UserError: another directory has its name.
    """
    target = beside / directory.name
    if os.path.lexists(target):
        if not _same(directory, target):
            raise UserError(
                f"got {target}, which is there and is not --text-encoder {directory}; want the same files, or no such "
                "directory; remove it, or choose another --out"
            )
        return target, None
    partial = beside / f".{directory.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        for file in _read_files(directory):
            _link(file.resolve(), partial / file.name)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target, target


def _read_files(directory: Path) -> list[Path]:
    return sorted(file for file in directory.iterdir() if file.suffix in _READ and file.is_file())


def _same(directory: Path, target: Path) -> bool:
    if not target.is_dir():
        return False
    if directory.resolve() == target.resolve():
        return True
    names = [file.name for file in _read_files(directory)]
    if names != [file.name for file in _read_files(target)]:
        return False
    return all(filecmp.cmp(directory / name, target / name, shallow=False) for name in names)


def _link(source: Path, target: Path) -> None:
    with suppress(OSError):  # another disk, or one without links
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def _card(path: Path, inspection: Inspection) -> str:
    """The model card."""
    rows = [f"| {label} | {value} |" for label, value in inspection.facts.items()]
    rows.append(f"| parameters | {inspection.parameters:,} |")
    table = "\n".join(["| | |", "|---|---|", *rows])
    notes = "".join(f"\n{note}\n" for note in inspection.notes)
    return f"# {inspection.what}\n\nConverted by `rl-motion model convert` from `{path.name}`.\n\n{table}\n{notes}"
