"""The page of a comparison and its key on disk: both or neither, and no key is ever replaced."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from rl_motion.config import UserError
from rl_motion.evaluation.ab import Key
from rl_motion.tracking.files import missing_folders, remove_empty, sync_folder, write_atomic


def write_comparison(folder: Path, name: str, page: str, key: Key) -> tuple[Path, Path]:
    """Write NAME.html, and NAME.key.json for its owner's eyes alone (mode 600).

    Raises:
        UserError: one of them is there: people may be answering that page.
        OSError: there is no room, or no right to write; nothing is left behind.
    """
    paths = folder / f"{name}.html", folder / f"{name}.key.json"
    made = missing_folders(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if paths[0].exists():
            raise FileExistsError
        _write_private(paths[1], key.model_dump_json(indent=1).encode() + b"\n")
    except FileExistsError:
        raise UserError(
            f"got {folder}, which has a comparison {name} that people may be answering; want a new place; choose "
            "another --out, or move the page and its key away together"
        ) from None
    except BaseException:
        remove_empty(made)
        raise
    try:
        write_atomic(paths[0], page.encode())
    except BaseException:  # Ctrl-C too
        paths[1].unlink(missing_ok=True)
        remove_empty(made)
        raise
    return paths


def _write_private(path: Path, content: bytes) -> None:
    """A new file that only its owner reads, there as a whole or not at all; raises FileExistsError."""
    partial = path.with_name(f"{path.name}.partial")
    with suppress(FileNotFoundError):
        partial.unlink()
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)  # unlike a rename it replaces nothing
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)
