"""Reviews by spreadsheet: a pool's prompts go out as CSV, people fill in `decision`, and all of it comes in or nothing.

A spreadsheet runs cells that look like formulas and rounds cells that look like numbers: those leave with a `'` before
them, which is taken off when they come back; one that comes in bare is refused.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from rl_motion.config import UserError
from rl_motion.prompts.decisions import By, clashes, edited, former_ids, judged, now
from rl_motion.prompts.table import Decision, Overtaken, Row, pool_folder, read_table, write_table
from rl_motion.tracking.files import read_whole, write_atomic

COLUMNS = ("id", "text", "decision", "edited_text", "who", "when", "operation", "length", "split", "seen")
_NEEDED = ("id", "decision", "edited_text")
_MOST_BYTES = 500_000_000
_SHOWN = 20
_VERDICTS: dict[str, Literal["accepted", "rejected", "edited"]] = {
    "accept": "accepted",
    "reject": "rejected",
    "edit": "edited",
}
_WORDS = {verdict: word for word, verdict in _VERDICTS.items()} | {"unreviewed": ""}
_FORMULA = re.compile(r"[=+\-@\t\r＝＋－＠]")
_NUMBER = re.compile(r"\d{12,}|\d+e\d+", re.IGNORECASE)
"""Ids of digits alone, or with one `e` among them: a spreadsheet takes them for numbers and rounds them."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did: prompts that it decided about, and lines that said what was known or nothing."""

    decided: int
    known: int
    empty: int


def export(path: Path, rows: Sequence[Row]) -> None:
    """Write prompts as CSV: UTF-8 with a byte order mark, so that spreadsheets read it right.

    Raises:
        UserError: the file is there already: it may hold decisions.
        OSError: no room, or no right to write.
    """
    if path.exists():
        raise UserError(f"got --export {path}, which is there already; want a new file; choose another name")
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows:
        last = row.history[-1] if row.review != "unreviewed" else None
        writer.writerow(
            _defused(cell)
            for cell in (
                row.id,
                row.text,
                _WORDS[row.review],
                row.text if row.review == "edited" else "",
                last.who if last else "",
                last.when if last else "",
                row.operation,
                str(row.length),
                row.split,
                str(len(row.history)),
            )
        )
    write_atomic(path, text.getvalue().encode("utf-8-sig"))


def take_in(path: Path, pool: str | Path, who: str, clock: Callable[[], str] = now) -> Imported:
    """Apply the decisions of a CSV to a pool: all of them, or none where a line is not right.

    A decision that the pool knows already, as it is when a file comes twice, is not recorded again.

    Args:
        path: with columns `id`, `decision` (accept, reject, edit or nothing) and `edited_text`; others may be
            there. `seen`, which the export writes, is the length of a prompt's history: where it has grown, or is not
            told and there is a decision, the line is refused, so that nobody overrides what they have not seen.
        pool: its folder, or its prompts.parquet.
        who: decided where a line names nobody.
        clock: the time of a decision where a line has none (UTC, ISO 8601).

    Raises:
        UserError: the file or a line cannot be taken; the notes say which lines, and why.
        OSError: the pool could not be written.
    """
    lines = _lines(path)
    while True:
        table = read_table(pool)
        batch = _Batch(table.rows, who, clock())
        for number, line in lines:
            batch.take(number, line)
        batch.conclude(path, len(lines), set(table.info.get("excluded", [])))
        if not batch.decided:
            return batch.imported
        try:
            write_table(pool_folder(pool), batch.rows, table.info, table)
        except Overtaken:
            continue
        return batch.imported


class _Batch:
    """The lines of one file against the rows of one pool."""

    def __init__(self, rows: Sequence[Row], who: str, when: str) -> None:
        self._before, self.rows = rows, list(rows)
        self.decided = self._known = self._empty = 0
        self._by = By(who, when)
        self._mistakes: list[tuple[int, str]] = []
        self._at = {row.id: index for index, row in enumerate(rows)}
        self._formerly = {name: index for index, row in enumerate(rows) for name in former_ids(row)}
        self._line_of: dict[int, int] = {}

    @property
    def imported(self) -> Imported:
        return Imported(self.decided, self._known, self._empty)

    def take(self, number: int, line: Mapping[str, str]) -> None:
        """Apply a line, or note what is wrong with it."""
        try:
            self._apply(number, {name: _bare(name, cell) for name, cell in line.items()})
        except UserError as error:
            self._mistakes.append((number, str(error)))

    def conclude(self, path: Path, lines: int, excluded: Collection[str]) -> None:
        """Refuse the whole where a line was wrong, or where the texts of all lines together do not go."""
        changes = {index: self.rows[index] for index in self._line_of}
        for index, clash in clashes(self._before, changes, excluded).items():
            self._mistakes.append((self._line_of[index], clash))
        if not self._mistakes:
            return
        error = UserError(
            f"{path}: got {len(self._mistakes)} of {lines} lines that cannot be taken; want every one right; mend "
            "them and import again: nothing was changed"
        )
        for number, mistake in sorted(self._mistakes)[:_SHOWN]:
            error.add_note(f"line {number}: {mistake}")
        if len(self._mistakes) > _SHOWN:
            error.add_note(f"and {len(self._mistakes) - _SHOWN} more")
        raise error

    def _apply(self, number: int, line: Mapping[str, str]) -> None:
        word, text = line["decision"].strip().lower(), line["edited_text"]
        index = self._at.get(line["id"], self._formerly.get(line["id"]))
        if index is None:
            raise UserError(
                f"got the id {line['id'][:40]!r}, which no prompt has; want one of this pool; export it again"
            )
        if word and word not in _VERDICTS:
            raise UserError(f"got the decision {word[:40]!r}; want accept, reject, edit or nothing; change it")
        if word == "edit" and not text.strip():
            raise UserError("got the decision 'edit' without edited_text; want the new text; write it")
        if word != "edit" and text.strip():
            raise UserError(f"got edited_text with the decision {word!r}; want 'edit'; change one of them")
        row = self.rows[index]
        if line.get("text", row.text) not in {row.text, *(decision.before for decision in row.history)}:
            raise UserError("got another text in the column `text`; want it unchanged; put the new one in edited_text")
        if not word:
            self._empty += 1
            return
        first = self._line_of.setdefault(index, number)
        if first != number:
            raise UserError(f"got a prompt about which line {first} decides; want one line for each; remove one")
        self._decide(index, _VERDICTS[word], line)

    def _decide(self, index: int, verdict: Literal["accepted", "rejected", "edited"], line: Mapping[str, str]) -> None:
        row, text = self.rows[index], " ".join(line["edited_text"].split())
        known = {(past.decision, past.who, past.when) for past in row.history}
        stated = (verdict, line.get("who", "").strip(), line.get("when", "").strip())
        texts = {row.text, *(past.before for past in row.history)}
        told = stated in known and (verdict != "edited" or text in texts)
        if told or (row.review == verdict and (verdict != "edited" or row.text == text)):
            self._known += 1
            return
        if line["id"] != row.id:
            raise UserError(
                f"got a prompt that was edited since, to {row.text[:60]!r}; want it as it is; export it again"
            )
        _refuse_unseen(row, line.get("seen"))
        by = self._author(row, stated)
        self.rows[index] = edited(row, text, by) if verdict == "edited" else judged(row, verdict, by)
        self.decided += 1

    def _author(self, row: Row, stated: tuple[str, str, str]) -> By:
        """Who decides, and when: as the line says, or whoever imports it, now.

        What an export said of the decision before is no statement about the one that replaced it.
        """
        _, who, when = stated
        if any((who, when) == (past.who, past.when) for past in row.history):
            return self._by
        by = By(who or self._by.who, when or self._by.when)
        try:
            Decision(decision="accepted", who=by.who, when=by.when)
        except ValidationError as error:
            field = error.errors()[0]["loc"][0]
            want = "1 to 100 printable characters" if field == "who" else "a time in UTC, such as 2026-01-31T12:00:00Z"
            raise UserError(
                f"got {field} = {getattr(by, str(field))[:60]!r}; want {want}, or nothing; change it"
            ) from None
        return by


def _refuse_unseen(row: Row, seen: str | None) -> None:
    """Refuse to override a decision that whoever filled in the line has not seen (None: there is no such column)."""
    if seen is None and row.review == "unreviewed":
        return
    if seen is None:
        last = row.history[-1]
        raise UserError(
            f"got a prompt that {last.who} {last.decision}, in a file without the column `seen`; want one that is "
            "unreviewed, or a file that tells what was seen; export it again"
        )
    if seen.strip() == str(len(row.history)):
        return
    if row.history and seen.strip().isdecimal():
        last = row.history[-1]
        raise UserError(
            f"got a prompt that {last.who} {last.decision} since the export; want it as it is; export it again"
        )
    raise UserError(f"got seen = {seen[:20]!r}; want {len(row.history)}, as --export writes it; export it again")


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines with their numbers in the file, cells as they are there."""
    try:
        content = read_whole(path, _MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UserError(
            f"got --import {path}, which cannot be read ({error.strerror}); want a CSV; check the path"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: got bytes that are not UTF-8 (at {error.start}); want `CSV UTF-8`; save it as that"
        ) from None
    head = content.split("\n", 1)[0]
    # Where a comma is the decimal sign, spreadsheets write semicolons.
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=";" if ";" in head and "," not in head else ",")
    lines = []
    try:
        names = next(reader, [])
        if not set(_NEEDED) <= set(names) or len(set(names)) != len(names):
            raise UserError(
                f"{path}: got the columns {', '.join(names)[:200] or 'of an empty file'}; want {', '.join(_NEEDED)} "
                "among them, each once; take the file that --export writes"
            )
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(names):
                raise UserError(
                    f"{path}, line {reader.line_num}: got {len(cells)} cells; want {len(names)}; mend the quotes"
                )
            lines.append((reader.line_num, dict(zip(names, cells, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: got {error}; want CSV; mend it, or export again") from None
    return lines


def _looks_active(cell: str) -> bool:
    return bool(_FORMULA.match(cell) or _NUMBER.fullmatch(cell))


def _defused(cell: str) -> str:
    """The cell with a `'` before it where a spreadsheet would run or round it, or where it begins with one itself."""
    return f"'{cell}" if _looks_active(cell) or cell.startswith("'") else cell


def _bare(name: str, cell: str) -> str:
    """The cell as it was before `_defused`; raises UserError where it is a formula."""
    if cell.startswith("'") and (_looks_active(cell[1:]) or cell[1:].startswith("'")):
        return cell[1:]
    if _FORMULA.match(cell):
        raise UserError(
            f"got a cell in {name} that begins with {cell[0]!r}, as a formula does; want text; write ' before it"
        )
    return cell
