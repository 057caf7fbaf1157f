"""Reviews by spreadsheet: what goes out comes back; formulas do not run; a wrong line changes nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rl_motion.cli_review import review
from rl_motion.config import UserError
from rl_motion.prompts import spreadsheet
from rl_motion.prompts.decisions import excluded_key
from rl_motion.prompts.pool import MAX_TEXT, prompt_id
from rl_motion.prompts.reading import meaning
from rl_motion.prompts.review import Asked, ReviewDesk
from rl_motion.prompts.spreadsheet import COLUMNS, Imported, export, take_in
from rl_motion.prompts.table import FILE, Row, read_table, write_table
from tests.pools import TEXTS, decided, pool_in, pool_row

WALK, WAVE, SIT = (prompt_id(text, 96) for text in TEXTS)
NOW = "2026-02-01T08:00:00Z"
Cells = dict[str, str]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    rows = [pool_row(text) for text in TEXTS]
    write_table(tmp_path / "pool", rows, {"excluded": [excluded_key(meaning("a person is running in a circle"))]})
    return tmp_path / "pool"


def out(pool: Path, name: str = "team.csv") -> list[Cells]:
    """What --export writes, as a spreadsheet that changes nothing reads it."""
    path = pool.parent / name
    path.unlink(missing_ok=True)
    export(path, read_table(pool).rows)
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")))


def back(pool: Path, lines: list[Cells], delimiter: str = ",", encoding: str = "utf-8-sig") -> Path:
    """The file that a spreadsheet saves."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(lines)
    path = pool.parent / "back.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    return path


def come_in(pool: Path, lines: list[Cells], who: str = "Cleo", **how: str) -> Imported:
    return take_in(back(pool, lines, **how), pool, who, lambda: NOW)


def refused(pool: Path, lines: list[Cells]) -> list[str]:
    """The notes about the lines; nothing was changed."""
    content = (pool / FILE).read_bytes()
    with pytest.raises(UserError, match="nothing was changed") as error:
        come_in(pool, lines)
    assert (pool / FILE).read_bytes() == content
    return error.value.__notes__


def test_what_goes_out(pool: Path) -> None:
    desk = ReviewDesk(pool, "Ann", lambda: "2026-01-31T12:00:00Z")
    desk.decide(Asked(id=WAVE, seen=0, decision="reject"))
    desk.decide(Asked(id=SIT, seen=0, decision="edit", text="a man, “häñ” said, hops"))
    lines = out(pool)
    content = (pool.parent / "team.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf") and content.count(b"\r\n") == 4
    assert tuple(lines[0]) == COLUMNS
    assert lines[0] == dict(zip(COLUMNS, (WALK, TEXTS[0], "", "", "", "", "sequence", "96", "train", "0"), strict=True))
    assert [lines[1][name] for name in ("decision", "who", "when")] == ["reject", "Ann", "2026-01-31T12:00:00Z"]
    assert [line["seen"] for line in lines] == ["0", "1", "1"]
    assert (lines[2]["decision"], lines[2]["edited_text"]) == ("edit", "a man, “häñ” said, hops")
    with pytest.raises(UserError, match="there already"):
        export(pool.parent / "team.csv", desk.rows)


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8-sig"), (",", "utf-8"), (";", "utf-8-sig")])
def test_what_comes_back_is_decided_once(pool: Path, delimiter: str, encoding: str) -> None:
    lines = out(pool)
    lines[0] |= {"decision": "accept"}
    lines[1] |= {"decision": " Reject ", "who": "Ben", "when": "2026-01-30T10:00:00Z"}
    lines[2] |= {"decision": "edit", "edited_text": "  a man hops häufig "}
    how = {"delimiter": delimiter, "encoding": encoding}
    assert come_in(pool, lines, **how) == Imported(decided=3, known=0, empty=0)
    rows = read_table(pool).rows
    assert [decided(row) for row in rows] == [
        [("accepted", "Cleo", "")],
        [("rejected", "Ben", "")],
        [("edited", "Cleo", TEXTS[2])],
    ]
    assert [row.history[0].when for row in rows] == [NOW, "2026-01-30T10:00:00Z", NOW]
    assert (rows[2].text, rows[2].id) == ("a man hops häufig", prompt_id("a man hops häufig", 96))
    content = (pool / FILE).read_bytes()
    assert come_in(pool, lines, "Dora", **how) == Imported(decided=0, known=3, empty=0)
    assert come_in(pool, out(pool), "Dora", **how) == Imported(decided=0, known=3, empty=0)
    assert (pool / FILE).read_bytes() == content


def test_an_old_file_does_not_bring_back_what_was_decided_otherwise_since(pool: Path) -> None:
    desk = ReviewDesk(pool, "Ann", lambda: "2026-01-31T12:00:00Z")
    desk.decide(Asked(id=WALK, seen=0, decision="accept"))
    edited = desk.decide(Asked(id=SIT, seen=0, decision="edit", text="a man hops"))
    lines = out(pool)
    desk.decide(Asked(id=WALK, seen=1, decision="reject"))
    desk.decide(Asked(id=edited.id, seen=1, decision="undo"))
    assert come_in(pool, [lines[0], lines[1]]) == Imported(decided=0, known=1, empty=1)
    assert [row.review for row in read_table(pool).rows] == ["rejected", "unreviewed", "unreviewed"]


def test_a_decision_that_somebody_changed_in_the_sheet_is_theirs(pool: Path) -> None:
    ReviewDesk(pool, "Ann", lambda: "2026-01-31T12:00:00Z").decide(Asked(id=WALK, seen=0, decision="accept"))
    lines = out(pool)
    lines[0]["decision"] = "reject"  # who and when are still those of the acceptance
    assert come_in(pool, lines).decided == 1
    entry = read_table(pool).rows[0].history[-1]
    assert (entry.decision, entry.who, entry.when) == ("rejected", "Cleo", NOW)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "0" * 15 + "f", "decision": "accept"}, "no prompt has"),
        ({"decision": "maybe"}, "want accept, reject, edit or nothing"),
        ({"decision": "edit"}, "without edited_text"),
        ({"decision": "edit", "edited_text": "  "}, "without edited_text"),
        ({"decision": "edit", "edited_text": TEXTS[0]}, "the text of row 1 too"),
        ({"decision": "edit", "edited_text": TEXTS[0].upper()}, f"means the same as {TEXTS[0]!r} in row 1"),
        ({"decision": "edit", "edited_text": "a man runs in a circle"}, "told to --exclude"),
        ({"decision": "edit", "edited_text": TEXTS[1]}, "the text as it was"),
        ({"decision": "accept", "seen": "1"}, "got seen = '1'; want 0"),
        ({"decision": "accept", "seen": ""}, "got seen = ''; want 0"),
        ({"decision": "edit", "edited_text": "x" * 1001}, "printable"),
        ({"decision": "edit", "edited_text": "a \x07 man"}, "printable"),
        ({"decision": "edit", "edited_text": "?!"}, "no word"),
        ({"decision": "edit", "edited_text": "=1+1"}, "begins with '='"),
        ({"decision": "edit", "edited_text": "@SUM(A1)"}, "begins with '@'"),
        ({"decision": "edit", "edited_text": "\tman"}, "begins with '\\t'"),
        ({"decision": "accept", "edited_text": "a man hops"}, "want 'edit'"),
        ({"edited_text": "a man hops"}, "want 'edit'"),
        ({"text": "a man hops"}, "put the new one in edited_text"),
        ({"decision": "accept", "who": "a\nb"}, "got who = "),
        ({"decision": "accept", "who": "x" * 101}, "got who = "),
        ({"decision": "accept", "when": "31.01.2026"}, "a time in UTC"),
        ({"decision": "accept", "when": "2026-01-31T12:00:00+02:00"}, "a time in UTC"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_changes(pool: Path, change: Cells, said: str) -> None:
    lines = out(pool)
    lines[0]["decision"] = "reject"
    lines[1] |= change
    [note] = refused(pool, lines)
    assert said in note and note.startswith("line 3" if "\n" not in change.get("who", "") else "line 4")


def test_lines_that_contradict_one_another(pool: Path) -> None:
    lines = out(pool)
    lines[0]["decision"] = "accept"
    [note] = refused(pool, [*lines, lines[0] | {"decision": "reject"}])
    assert note.startswith("line 5: got a prompt about which line 2 decides")
    for line, text in zip(lines[1:], ("a man hops", "a man  hops"), strict=True):
        line |= {"decision": "edit", "edited_text": text}
    [note] = refused(pool, lines)
    assert note.startswith("line 4") and "the text of row 2 too" in note


def test_a_prompt_that_was_edited_since_is_not_decided_by_an_old_line(pool: Path) -> None:
    lines = out(pool)
    ReviewDesk(pool, "Ann").decide(Asked(id=WALK, seen=0, decision="edit", text="a man hops"))
    lines[0]["decision"] = "accept"
    [note] = refused(pool, lines)
    assert "edited since, to 'a man hops'" in note


def test_a_decision_that_the_line_does_not_know_of_is_not_overridden(pool: Path) -> None:
    lines = out(pool)
    lines[0]["decision"] = "accept"
    ReviewDesk(pool, "Ann").decide(Asked(id=WALK, seen=0, decision="reject"))
    [note] = refused(pool, lines)
    assert note.startswith("line 2: got a prompt that Ann rejected since the export")
    by_hand = [{name: line[name] for name in ("id", "decision", "edited_text")} for line in lines]
    [note] = refused(pool, by_hand)
    assert note.startswith("line 2: got a prompt that Ann rejected, in a file without the column `seen`")
    by_hand[0]["decision"], by_hand[1]["decision"] = "reject", "accept"  # known already; nobody decided yet
    assert come_in(pool, by_hand) == Imported(decided=1, known=1, empty=1)
    lines = out(pool)
    lines[0]["decision"] = "accept"
    assert come_in(pool, lines).decided == 1


@pytest.mark.parametrize("order", [1, -1])
def test_a_text_that_another_line_gives_up_is_free(pool: Path, order: int) -> None:
    lines = out(pool)
    lines[0] |= {"decision": "edit", "edited_text": TEXTS[1]}
    lines[1] |= {"decision": "edit", "edited_text": TEXTS[0]}
    assert come_in(pool, lines[::order]).decided == 2
    assert [row.text for row in read_table(pool).rows] == [TEXTS[1], TEXTS[0], TEXTS[2]]


def test_a_word_as_long_as_a_text_is_taken(pool: Path) -> None:
    lines = out(pool)
    lines[0] |= {"decision": "edit", "edited_text": "x" * MAX_TEXT}
    assert come_in(pool, lines).decided == 1
    assert read_table(pool).rows[0].text == "x" * MAX_TEXT


def test_many_mistakes_are_counted(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool_in(pool, *(pool_row(f"a person walks {n} steps") for n in range(50)))
    notes = refused(pool, [line | {"decision": "so so"} for line in out(pool)])
    assert (len(notes), notes[-1]) == (21, "and 30 more")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "of an empty file"),
        (b"id,text\r\n1,2\r\n", "want id, decision, edited_text among"),
        (b"id,decision,edited_text,id\r\n", "each once"),
        (b"id,decision,edited_text\r\na,b\r\n", "line 2: got 2 cells; want 3"),
        (b"id,decision,edited_text\r\ncaf\xe9,,\r\n", "not UTF-8"),
        (b"\xff\xfei\0d\0", "not UTF-8"),
        (b'id,decision,edited_text\r\n"' + b"x" * 140_000 + b'",,', "field larger"),
    ],
)
def test_what_is_no_csv(pool: Path, content: bytes, said: str) -> None:
    path = pool.parent / "back.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        take_in(path, pool, "Cleo")
    with pytest.raises(UserError, match="cannot be read"):
        take_in(pool, pool, "Cleo")


def test_a_file_without_decisions_changes_nothing(pool: Path) -> None:
    content = (pool / FILE).read_bytes()
    assert come_in(pool, out(pool)) == Imported(decided=0, known=0, empty=3)
    assert (pool / FILE).read_bytes() == content


def test_what_looks_like_a_formula_or_a_number_goes_out_defused_and_comes_back(tmp_path: Path) -> None:
    texts = ("=HYPERLINK(walk)", "+walk", "-walk", "@walk", "'=walk", "'tis a walk", "a;=walk", "＝walk", "1e5 walks")
    rows = [pool_row(text) for text in texts]
    numeric = next(row for n in range(10**6) if (row := pool_row(f"walk {n}")).id.isdecimal())
    exponent = next(row for n in range(10**6) if (row := pool_row(f"run {n}")).id.replace("e", "", 1).isdecimal())
    pool = tmp_path / "pool"
    pool_in(pool, *rows, numeric, exponent)
    lines = out(pool)
    assert not any(cell[:1] in tuple("=+-@\t\r＝＋－＠") for line in lines for cell in line.values() if cell)
    assert [line["id"] for line in lines[-2:]] == [f"'{numeric.id}", f"'{exponent.id}"]
    assert {line["length"] for line in lines} == {"96"}
    for line in lines:
        line["decision"] = "accept"
    lines[0] |= {"decision": "edit", "edited_text": "'=walk twice"}
    assert come_in(pool, lines).decided == len(lines)
    assert read_table(pool).rows[0].text == "=walk twice"


@given(st.text(max_size=20) | st.sampled_from(["'", "''=", "'''", "'1e5", "=", "123456789012"]))
def test_every_cell_comes_back_as_it_went(cell: str) -> None:
    assert spreadsheet._bare("text", spreadsheet._defused(cell)) == cell
    assert not spreadsheet._looks_active(spreadsheet._defused(cell))


def test_somebody_who_decides_during_an_import_is_not_overwritten(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = out(pool)
    lines[0]["decision"] = "accept"
    real = write_table
    meanwhile: list[Callable[[], Row]] = [
        lambda: ReviewDesk(pool, "Ann").decide(Asked(id=SIT, seen=0, decision="reject"))
    ]

    def late(*args: object) -> object:
        while meanwhile:
            meanwhile.pop()()
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(spreadsheet, "write_table", late)
    assert come_in(pool, lines).decided == 1
    assert [row.review for row in read_table(pool).rows] == ["accepted", "unreviewed", "rejected"]


def command(*words: str | Path) -> tuple[int, str, str]:
    app = typer.Typer()
    app.command()(review)
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def test_the_command(pool: Path) -> None:
    file = pool.parent / "team.csv"
    code, said, _ = command(pool, "--export", file, "--sample", "2", "--seed", "1")
    assert (code, said.splitlines()[0]) == (0, f"{file}: 2 prompts")
    text = file.read_text("utf-8-sig").replace('"",""', '"accept",""', 1)
    file.write_text(text, "utf-8-sig")
    code, said, _ = command(pool, "--import", file, "--who", "Cleo")
    assert (code, said.splitlines()) == (
        0,
        [f"{file}: decisions recorded: 1; known before: 0; lines without one: 1",
         "reviewed 1 of 3: 1 accepted, 0 edited, 0 rejected"],
    )  # fmt: skip
    file.write_text(text.replace("accept", "like"), "utf-8-sig")
    code, _, said = command(pool, "--import", file, "--who", "Cleo")
    assert code == 2 and said.startswith("error: ") and "\nline 2: got the decision 'like'" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--import", "a.csv", "--export", "b.csv"], "want --import alone"),
        (["--import", "a.csv", "--only-unreviewed"], "want --import alone"),
        (["--import", "a.csv", "--who", "Cleo"], "cannot be read"),
        (["--export", ".", "--who", "Cleo"], "there already"),
        (["--who", " "], "give --who NAME"),
    ],
)
def test_mistakes_on_the_command_line(pool: Path, words: list[str], said: str) -> None:
    code, _, error = command(pool, *words)
    assert code == 2 and said in error and "Traceback" not in error


def test_there_is_nothing_left_to_review(pool: Path) -> None:
    desk = ReviewDesk(pool, "Ann")
    for prompt in (WALK, WAVE, SIT):
        desk.decide(Asked(id=prompt, seen=0, decision="accept"))
    code, _, error = command(pool, "--only-unreviewed", "--who", "Ann")
    assert code == 2 and "no prompt that is unreviewed" in error
    code, _, error = command(pool.parent, "--who", "Ann")
    assert code == 2 and "want a pool" in error
