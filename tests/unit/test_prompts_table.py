"""The pool on disk: what is written is read; what is damaged or foreign is refused, and the row named."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from rl_motion.config import UserError
from rl_motion.prompts import table as pool_table
from rl_motion.prompts.pool import prompt_id
from rl_motion.prompts.table import (
    BUILD,
    FILE,
    Decision,
    Overtaken,
    is_pool,
    pool_sha256,
    prompts_of,
    read_table,
    schema,
    standing,
    write_table,
)
from tests.pools import TEXTS, pool_in, pool_row

KEY = b"rl_motion.pool"
ACCEPTED = Decision(decision="accepted", who="Ann", when="2026-01-31T12:00:00Z")
EDITED = Decision(decision="edited", who="Ann", when="2026-01-31T12:00:00Z", before="a person walks")
UNDONE = Decision(decision="undone", who="Ben", when="2026-01-31T12:00:00+00:00")


def damaged(folder: Path, row: int = 1, **changes: Any) -> Path:
    """A pool of three, one row of which was changed by other hands."""
    written = pool_in(folder)
    columns = written.columns.to_pydict()
    for name, value in changes.items():
        columns[name][row] = value
    put(folder, pa.table(columns, schema=schema()))
    return folder


def put(folder: Path, table: pa.Table, about: object = None) -> None:
    metadata = {KEY: json.dumps({"schema_version": 1} if about is None else about).encode()}
    folder.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), folder / FILE)


def test_what_is_written_is_read_by_us_and_by_arrow(tmp_path: Path) -> None:
    rows = [pool_row(TEXTS[0], review="accepted", history=(ACCEPTED,)), pool_row(TEXTS[1], split="val", difficulty=0.1)]
    info = {"settings": {"seed": 7, "ünï": [1.5, None]}, "counts": {"captions": 3}}
    written = write_table(tmp_path / "pool", rows, info)
    read = read_table(tmp_path / "pool")
    assert (read.rows, read.info) == (rows, info)
    assert (read.stamp, pool_sha256(read)) == (written.stamp, pool_sha256(written))
    assert read_table(tmp_path / "pool" / FILE).rows == rows
    foreign = pq.read_table(tmp_path / "pool")  # the folder, with _build in it
    assert foreign.schema.equals(schema()) and foreign.num_rows == 2
    assert json.loads(foreign.schema.metadata[KEY])["schema_version"] == 1


def test_same_content_same_bytes_however_it_came_about(tmp_path: Path) -> None:
    rows = [pool_row(f"a person walks {n} steps") for n in range(300)]
    known = write_table(tmp_path / "a", rows, {"n": 1})
    changed = [pool_row(row.text, review="accepted", history=(ACCEPTED,)) if n in {0, 7, 299} else row
               for n, row in enumerate(rows)]  # fmt: skip
    known = write_table(tmp_path / "a", changed, {"n": 1}, known)  # three rows are put between the others
    write_table(tmp_path / "a", changed, {"n": 1}, read_table(tmp_path / "a"))
    write_table(tmp_path / "b", changed, {"n": 1})
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()
    assert read_table(tmp_path / "a").rows == changed
    assert pool_sha256(known) != pool_sha256(write_table(tmp_path / "c", rows, {"n": 1}))


def test_a_split_is_drawn_without_what_was_rejected(tmp_path: Path) -> None:
    rejected = Decision(decision="rejected", who="Ann", when="2026-01-31T12:00:00Z")
    pool_in(
        tmp_path,
        pool_row(TEXTS[0], length=40),
        pool_row(TEXTS[1], review="rejected", history=(rejected,)),
        pool_row(TEXTS[2], split="val"),
    )
    table = read_table(tmp_path)
    assert [(p.id, p.text, p.length) for p in prompts_of(table, "train")] == [(prompt_id(TEXTS[0], 40), TEXTS[0], 40)]
    assert [p.text for p in prompts_of(table, "val")] == [TEXTS[2]]
    assert prompts_of(table, "held_out_metas") == []


def test_what_is_a_pool(tmp_path: Path) -> None:
    pool_in(tmp_path / "pool")
    (tmp_path / "other.parquet").write_bytes(b"")
    assert is_pool(tmp_path / "pool") and is_pool(str(tmp_path / "pool" / FILE))
    assert not any(map(is_pool, (tmp_path, tmp_path / "other.parquet", tmp_path / FILE, "zoo", "a\0b")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": "0" * 16}, "want the id"),
        ({"text": "another text"}, "want the id"),
        ({"text": "a\x1b[31m person"}, "printable"),
        ({"text": " two  spaces "}, "without spaces around"),
        ({"text": "x" * 1001}, "want 1 to 1000 printable"),
        ({"text": ""}, "want 1 to 1000 printable"),
        ({"length": 0}, "length = '0'"),
        ({"length": 2001}, "length = '2001'"),
        ({"fps": 0.0}, "fps = "),
        ({"fps": float("nan")}, "fps = 'nan'"),
        ({"difficulty": 1.5}, "difficulty = "),
        ({"plausibility": float("inf")}, "plausibility = "),
        ({"tokens": []}, "tokens = "),
        ({"tokens": ["walk"]}, "tokens.0 = 'walk'"),
        ({"tokens": ["walk/VERB", "\x07/VERB"]}, "tokens.1 = "),
        ({"metas": []}, "metas = "),
        ({"metas": ["a", "b", "c"]}, "metas = "),
        ({"operation": "dance"}, "operation = 'dance'"),
        ({"author": "somebody"}, "author = 'somebody'"),
        ({"language": "e\nn"}, "language = "),
        ({"split": "test"}, "split = 'test'"),
        ({"review": "perhaps"}, "review = 'perhaps'"),
        ({"review": "accepted"}, "want the review state 'unreviewed'"),
        ({"history": [ACCEPTED.model_dump()]}, "want the review state 'accepted'"),
        ({"history": [UNDONE.model_dump()]}, "undoes what was decided before"),
        ({"review": "accepted", "history": [ACCEPTED.model_dump() | {"who": ""}]}, "history.0.who"),
        ({"review": "accepted", "history": [ACCEPTED.model_dump() | {"when": "yesterday"}]}, "history.0.when"),
        ({"review": "accepted", "history": [ACCEPTED.model_dump() | {"when": "2026-01-31T12:00:00"}]}, "in UTC"),
        ({"review": "accepted", "history": [ACCEPTED.model_dump() | {"decision": "liked"}]}, "history.0.decision"),
        ({"review": "accepted", "history": [ACCEPTED.model_dump() | {"before": None}]}, "history.0.before"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match="row 2") as refused:
        read_table(damaged(tmp_path / "pool", **changes))
    assert said in str(refused.value) and str(refused.value).isprintable()


def test_a_prompt_that_comes_twice_is_refused_by_both_sides(tmp_path: Path) -> None:
    twice = [pool_row(TEXTS[0]), pool_row(TEXTS[1]), pool_row(TEXTS[0])]
    with pytest.raises(UserError, match="rows 1 and 3"):
        write_table(tmp_path / "new", twice, {})
    assert not (tmp_path / "new").exists()
    columns = pa.concat_tables([pool_in(tmp_path / "pool").columns] * 2)
    put(tmp_path / "pool", columns)
    with pytest.raises(UserError, match="rows 1 and 4"):
        read_table(tmp_path / "pool")


def test_what_is_no_pool_is_refused(tmp_path: Path) -> None:
    table = pool_in(tmp_path / "whole").columns
    whole = (tmp_path / "whole" / FILE).read_bytes()
    file = tmp_path / "pool" / FILE
    file.parent.mkdir()
    for content in (b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", whole[:-9], whole[: len(whole) // 2] + b"PAR1"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="want a pool in Parquet"):
            read_table(tmp_path / "pool")
    for said, columns, about in [
        ("want \\['id', 'text'", table.drop_columns(["fps"]), None),
        ("want \\['id', 'text'", table.append_column("more", table["text"]), None),
        ("int64 in the column 'length'", table.set_column(3, "length", table["length"].cast(pa.int64())), None),
        ("schema version 2; want 1; install a newer", table, {"schema_version": 2}),
        ("schema version None; want 1", table, {}),
        ("without the metadata", table, [1]),
        ("without the metadata", table, {"schema_version": 1, "share": float("nan")}),
        ("`excluded` is no list of strings", table, {"schema_version": 1, "excluded": [3]}),
        ("got no prompts", table.slice(0, 0), None),
    ]:
        put(tmp_path / "pool", columns, about)
        with pytest.raises(UserError, match=said):
            read_table(tmp_path / "pool")
    deep = table.replace_schema_metadata({KEY: b"[" * 100_000 + b"]" * 100_000})
    for foreign in (table, deep, table.replace_schema_metadata({KEY: b'{"share": 1e999, "schema_version": 1}'})):
        pq.write_table(foreign, file)
        with pytest.raises(UserError, match="without the metadata"):
            read_table(tmp_path / "pool")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / FILE)
    for missing in (tmp_path / "nothing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(UserError, match="want a pool; see rl-motion prompts build"):
            read_table(missing)
    (tmp_path / "begun" / BUILD).mkdir(parents=True)
    with pytest.raises(UserError, match="run the same command again"):
        read_table(tmp_path / "begun")


def test_nulls_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    columns = pool_in(tmp_path).columns
    for values in ([None, "a", "b"], ["a", None, "b"]):
        put(tmp_path, columns.set_column(1, "text", pa.array(values, pa.string())))
        with pytest.raises(UserError, match=r"row \d: |row \d; want"):
            read_table(tmp_path)
    latin = pa.array([b"caf\xe9"] * 3, pa.binary()).view(pa.string())
    put(tmp_path, columns.set_column(1, "text", latin))
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path)


def test_a_flipped_bit_is_never_read_as_something_else(tmp_path: Path) -> None:
    rows = pool_in(tmp_path).rows
    whole = (tmp_path / FILE).read_bytes()
    refused = 0
    for at in range(0, len(whole), 11):
        (tmp_path / FILE).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            assert read_table(tmp_path).rows == rows  # statistics and offsets that nobody reads
        except UserError:
            refused += 1
    assert refused > len(whole) / 11 / 4


def test_too_much_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool_in(tmp_path)
    monkeypatch.setattr(pool_table, "_MAX_ROWS", 2)
    with pytest.raises(UserError, match="got 3 rows"):
        read_table(tmp_path)


def test_a_file_that_grows_when_it_is_unpacked_is_refused_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = pool_in(tmp_path).columns.take([0] * 5_000)
    put(tmp_path, columns.set_column(1, "text", pa.array(["x" * 10_000] * 5_000)))  # 50 MB that are there once
    monkeypatch.setattr(pool_table, "_MAX_BYTES", 10_000_000)
    with pytest.raises(UserError, match="got more than 10000000 bytes"):
        read_table(tmp_path)


def test_a_pool_that_is_there_is_not_overwritten_unread(tmp_path: Path) -> None:
    first = pool_in(tmp_path)
    with pytest.raises(UserError, match="where a pool is already"):
        pool_in(tmp_path, pool_row("a person runs"))
    second = write_table(tmp_path, [*first.rows, pool_row("a person runs")], {}, first)
    with pytest.raises(Overtaken):
        write_table(tmp_path, first.rows, {}, first)
    assert read_table(tmp_path).rows == second.rows
    assert sorted(path.name for path in (tmp_path / BUILD).iterdir()) == ["lock"]


def test_a_full_disk_leaves_the_pool_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pool_in(tmp_path)

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pool_table, "write_synced", full)
    with pytest.raises(OSError, match="No space"):
        write_table(tmp_path, [*first.rows, pool_row("a person runs")], {}, first)
    assert read_table(tmp_path).rows == first.rows
    assert sorted(path.name for path in (tmp_path / BUILD).iterdir()) == ["lock"]


def _add(folder: Path, name: str, times: int) -> None:
    done = 0
    while done < times:
        table = read_table(folder)
        try:
            write_table(folder, [*table.rows, pool_row(f"{name} walks {done} steps")], table.info, table)
        except Overtaken:
            continue
        done += 1


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    pool_in(tmp_path)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add, args=(tmp_path, name, 15)) for name in ("Ann", "Ben")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(read_table(tmp_path).rows) == 3 + 2 * 15


def test_what_stands_is_what_was_not_undone() -> None:
    assert standing([ACCEPTED, EDITED, UNDONE]) == [ACCEPTED]
    assert standing([ACCEPTED, UNDONE, EDITED]) == [EDITED]
    assert standing([]) == []
    with pytest.raises(ValueError, match="undoes what was decided before"):
        standing([ACCEPTED, UNDONE, UNDONE])


def test_a_row_is_valid_or_is_not_made() -> None:
    row = pool_row(difficulty=0.1)
    assert row.difficulty == pytest.approx(0.1) and row == pool_row(difficulty=row.difficulty)
    for wrong in ({"id": "0"}, {"length": 60.0}, {"unknown": 1}, {"review": "edited"}):
        with pytest.raises(ValidationError):
            pool_row(**wrong)


def test_one_decision_in_twenty_thousand_is_written_while_nobody_notices(tmp_path: Path) -> None:
    rows = [pool_row(f"a person walks {n} steps and then turns") for n in range(20_000)]
    table = write_table(tmp_path, rows, {})
    took = []
    for n in (0, 9_999, 19_999):
        rows = list(table.rows)
        rows[n] = pool_row(rows[n].text, review="accepted", history=(ACCEPTED,))
        start = time.perf_counter()
        table = write_table(tmp_path, rows, {}, table)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.5  # 0.06 s on two quiet cores
