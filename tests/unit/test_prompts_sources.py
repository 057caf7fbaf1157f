"""Captions from files, folders and splits: a bad line is set aside with its reason and takes no other with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_motion.config import UserError
from rl_motion.data import embedded
from rl_motion.prompts import sources
from rl_motion.prompts.sources import Captions, read_captions

GOOD = "a person walks"


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(folder: Path, name: str, content: str | bytes) -> Captions:
    return read_captions([written(folder, name, content)])


def texts(found: Captions) -> list[str]:
    return [caption.text for caption in found.captions]


def reasons(found: Captions) -> list[str]:
    return [line.reason for line in found.bad]


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_jsonl_in_its_three_forms(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "mine.jsonl",
        jsonl(
            {"id": "000016", "split": "val", "n_frames": 135, "captions": [" a person\twalks ", "a man jumps"]},
            {"id": 7, "duration_s": 3.78, "text": "someone waves"},
            {"caption": "a person sits"},
        ),
    )
    assert [(c.ids, c.text, c.frames) for c in found.captions] == [
        (("mine.jsonl/000016/0",), "a person walks", 135),
        (("mine.jsonl/000016/1",), "a man jumps", 135),
        (("mine.jsonl/7",), "someone waves", 76),
        (("mine.jsonl/3",), "a person sits", None),
    ]
    assert found.bad == () and found.repeats == 0


def test_an_id_that_repeats_is_told_apart_by_its_line(tmp_path: Path) -> None:
    records = [{"id": 7, "text": "a"}, {"id": 7, "text": "b"}, {"id": "7:2", "text": "c"}, {"id": 7, "captions": ["d"]}]
    found = read(tmp_path, "x.jsonl", jsonl(*records, {"id": "6", "text": "e"}, {"text": "f"}))
    assert [c.ids for c in found.captions] == [
        ("x.jsonl/7",),
        ("x.jsonl/7:2",),
        ("x.jsonl/7:2:3",),
        ("x.jsonl/7:4/0",),
        ("x.jsonl/6",),
        ("x.jsonl/6:6",),
    ]
    found = read(tmp_path, "x.csv", "id,text\n7,a\n7,b\n")
    assert [c.ids for c in found.captions] == [("x.csv/7",), ("x.csv/7:3",)]


def test_ids_stay_short_whatever_a_file_is_called(tmp_path: Path) -> None:
    found = read(tmp_path, "\u3000" * 70 + ".txt", "a person walks\n")
    assert len(found.captions[0].ids[0]) <= 200


BAD_OBJECTS = [
    (b"not json", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"n": ' + b"9" * 10_000 + b"}", "not JSON"),
    (b'{"text": "caf\xe9"}', "not UTF-8"),
    (b'{"text": "\\ud800"}', "not UTF-8"),
    (b"\xff\xfe", "not UTF-8"),
    (b"[1]", "not an object"),
    (b'"a person walks"', "not an object"),
    (b'{"words": "a"}', "no captions, text or caption"),
    (b'{"text": 5}', "not text"),
    (b'{"text": " \\t "}', "empty"),
    (b'{"text": "a\\u0007b"}', "control characters"),
    (b'{"text": "a\\u001b[31mb"}', "control characters"),
    (b'{"text": "' + b"x" * 1001 + b'"}', "over 1000 characters"),
    (b'{"captions": "a person"}', "captions that are no list, or an empty one"),
    (b'{"captions": []}', "captions that are no list, or an empty one"),
    (b'{"id": [], "text": "a"}', "an id that is no short text"),
    (b'{"id": true, "text": "a"}', "an id that is no short text"),
    (b'{"id": "' + b"7" * 101 + b'", "text": "a"}', "an id that is no short text"),
    (b'{"id": "a\\u001b", "text": "a"}', "an id that is no short text"),
    (b'{"n_frames": "many", "text": "a"}', "n_frames that is no positive number"),
    (b'{"n_frames": true, "text": "a"}', "n_frames that is no positive number"),
    (b'{"n_frames": 0, "text": "a"}', "n_frames that is no positive number"),
    (b'{"duration_s": NaN, "text": "a"}', "duration_s that is no positive number"),
    (b'{"duration_s": Infinity, "text": "a"}', "duration_s that is no positive number"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_OBJECTS)
def test_a_bad_object_is_set_aside_alone(tmp_path: Path, line: bytes, reason: str) -> None:
    found = read(tmp_path, "x.jsonl", b'{"text": "first"}\n' + line + b'\n{"text": "last"}')
    assert texts(found) == ["first", "last"]
    assert reasons(found) == [reason]
    assert found.bad[0].where == "x.jsonl/2"
    assert found.bad[0].text.isprintable() and len(found.bad[0].text) <= 2000


def test_a_bad_caption_leaves_its_neighbours(tmp_path: Path) -> None:
    found = read(tmp_path, "x.jsonl", jsonl({"id": "a", "captions": ["one", None, "", "two", {"text": "three"}]}))
    assert texts(found) == ["one", "two"]
    assert [(b.where, b.reason) for b in found.bad] == [
        ("x.jsonl/a/1", "not text"),
        ("x.jsonl/a/2", "empty"),
        ("x.jsonl/a/4", "not text"),
    ]


def test_text_with_lengths(tmp_path: Path) -> None:
    content = "\ufeffa person walks\r\n\n a person runs #60\nno length#\nwrong#ten\n#40\nbad\x00\nno#-3\n".encode()
    found = read(tmp_path, "x.txt", content + b"caf\xe9 \n")
    assert [(c.text, c.frames, c.ids) for c in found.captions] == [
        ("a person walks", None, ("x.txt/1",)),
        ("a person runs", 60, ("x.txt/3",)),
    ]
    number = "frames that is no positive number"
    assert reasons(found) == [number, number, "empty", "control characters", number, "not UTF-8"]


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    found = read(tmp_path, "x.jsonl", '{"text": "a\u2028person"}\n{"text": "b"}\n')
    assert texts(found) == ["a person", "b"]


def test_csv(tmp_path: Path) -> None:
    rows = [
        b'\xef\xbb\xbfId , Caption,n_frames,note\r\n7,"a person walks, then stops",40,x\r\n\r\n,a man jumps,,\r\n',
        b'8,"never closed,1,x\r\n9,a person sits,2\r\n10,,3,x\r\n11,caf\xe9,4,x\r\n12,a person kneels,no,x\r\n',
        b"13,last one,5,x",
    ]
    found = read(tmp_path, "x.csv", b"".join(rows))
    assert [(c.text, c.frames, c.ids) for c in found.captions] == [
        ("a person walks, then stops", 40, ("x.csv/7",)),
        ("a man jumps", None, ("x.csv/4",)),
        ("last one", 5, ("x.csv/13",)),
    ]
    assert reasons(found) == [
        "not CSV, such as a quote that its line does not close",
        "not as many fields as columns",
        "no captions, text or caption",
        "not UTF-8",
        "n_frames that is no positive number",
    ]


@pytest.mark.parametrize("header", ["name,words", 'text,"', ""])
def test_csv_without_its_column(tmp_path: Path, header: str) -> None:
    with pytest.raises(UserError, match="want text or caption among them"):
        read(tmp_path, "x.csv", f"{header}\na,b\n")


def test_a_folder_of_humanml3d(tmp_path: Path) -> None:
    line = "a person walks#a/DET person/NOUN walk/VERB#{}\n"
    written(tmp_path, "texts/000002.txt", line.format("0.0#0.0") + "a man runs#run/VERB#1.0#3.5\n")
    written(tmp_path, "texts/000001.txt", "he sits#sit/VERB#nan#nan\nhe lies down\nhe jumps#x#one#two\na#b#c#1#2\n")
    written(tmp_path, "texts/notes.md", "nothing of ours")
    found = read_captions([str(tmp_path / "texts")])
    assert [(c.text, c.frames, c.ids) for c in found.captions] == [
        ("he sits", None, ("texts/000001/1",)),
        ("a person walks", None, ("texts/000002/1",)),
        ("a man runs", 50, ("texts/000002/2",)),
    ]
    assert reasons(found) == ["not caption#tokens#start#end"] * 3


def test_a_file_of_a_folder_that_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    written(tmp_path, "texts/1.txt", "he sits#sit/VERB#0#0\n")
    (tmp_path / "texts/2.txt").mkdir()
    found = read_captions([str(tmp_path / "texts")])
    assert texts(found) == ["he sits"]
    assert [(b.where, b.reason) for b in found.bad] == [("texts/2", "a file that cannot be read")]


def test_repeats_are_merged_and_their_ids_kept(tmp_path: Path) -> None:
    one = written(tmp_path, "a/x.jsonl", jsonl({"id": 1, "captions": ["A person  walks", "b"], "n_frames": 50}))
    two = written(tmp_path, "b/x.jsonl", jsonl({"id": 1, "captions": ["a person walks"], "n_frames": 30}))
    text = written(tmp_path, "b/y.txt", "a PERSON walks\n")
    found = read_captions([one, two, text])
    first = found.captions[0]
    assert first.text == "A person walks"
    assert first.ids == ("a/x.jsonl/1/0", "b/x.jsonl/1/0", "b/y.txt/1")
    assert first.frames == 30, "the lower median of those that are told"
    assert (found.repeats, found.found) == (2, 4)


def test_splits_of_the_embedded_world() -> None:
    found = read_captions(["target/train"])
    assert {c.text for c in found.captions} <= {p.text for p in embedded.prompts("target/train")}
    assert found.found == len(embedded.prompts("target/train"))
    assert all(one.startswith("target/train/") and c.frames for c in found.captions for one in c.ids)


@pytest.mark.parametrize("split", [s for s in embedded.SPLITS if not s.endswith("/train")])
def test_what_is_kept_for_evaluation_is_no_source(split: str) -> None:
    with pytest.raises(UserError, match="kept for evaluation"):
        read_captions([split])
    assert read_captions([split], "--exclude").captions


NO_SOURCES: Sequence[tuple[str, str, str | bytes]] = [
    ("empty.jsonl", "no caption can be read", ""),
    ("utf16.txt", "no caption can be read", "a person walks\n".encode("utf-16")),
    ("bad.jsonl", "2 x not an object", "1\n2\n"),
    ("captions.json", "want .jsonl, .txt", "{}"),
    ("noending", "want .jsonl, .txt", "x"),
]


@pytest.mark.parametrize(("name", "words", "content"), NO_SOURCES)
def test_sources_without_captions(tmp_path: Path, name: str, words: str, content: str | bytes) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path, name, content)


def test_sources_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "odd.txt").mkdir()
    for name, words in (
        (str(tmp_path / "missing.jsonl"), "cannot be read \\(No such file"),
        ("nul\0.txt", "cannot be read"),
        (str(tmp_path / "none"), "without .txt files"),
        (str(tmp_path / "odd.txt"), "without .txt files"),
        ("/dev/zero", "want .jsonl"),
        ("target/trian", "did you mean 'target/train'"),
    ):
        with pytest.raises(UserError, match=words):
            read_captions([name])
    monkeypatch.setattr(sources, "_MAX_BYTES", 10)
    with pytest.raises(UserError, match="more than 10 bytes"):
        read(tmp_path, "large.txt", "a person walks")


@given(st.binary(max_size=200), st.sampled_from(["x.jsonl", "x.csv", "x.txt", "texts/x.txt"]))
def test_any_bytes_between_two_good_lines(tmp_path_factory: pytest.TempPathFactory, junk: bytes, name: str) -> None:
    lines = {"x.jsonl": b'{"text": "%b"}', "x.csv": b"%b", "x.txt": b"%b", "texts/x.txt": b"%b#a/b#0#0"}[name]
    first = b"text\n" if name == "x.csv" else b""
    content = first + b"\n".join([lines % b"a person walks", junk, lines % b"a person sits"])
    folder = tmp_path_factory.mktemp("any")
    path = written(folder, name, content)
    found = read_captions([str(Path(path).parent) if name.startswith("texts") else path])
    assert {"a person walks", "a person sits"} <= set(texts(found))
    assert all(caption.text.isprintable() and len(one) <= 200 for caption in found.captions for one in caption.ids)
    json.dumps([line.text for line in found.bad], ensure_ascii=False).encode()  # writable, whatever came
