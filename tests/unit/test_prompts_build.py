"""The pipeline: nothing lost, nothing twice, nothing that is there already; interrupted or not, the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rl_motion.config import UserError
from rl_motion.prompts import planner, reading, stages
from rl_motion.prompts.author import (
    Answer,
    Author,
    Compose,
    Composition,
    Decompose,
    Decomposition,
    Judge,
    Question,
    Refused,
    Unanswered,
    Verdict,
)
from rl_motion.prompts.build import ANSWERS, CAPTIONS, METAS, SET_ASIDE, Built, Settings, build
from rl_motion.prompts.grammar import GrammarAuthor
from rl_motion.prompts.splits import split_of
from rl_motion.prompts.table import BUILD, FILE, Decision, read_table, write_table

CAPTIONS_HERE = [
    "a person walks forward, then waves with the right hand",
    "a man jumps twice and then sits down",
    "a woman raises both arms",
    "a person turns around and then runs backward",
    "a person kicks with the left leg, then claps their hands",
    "someone spins in place",
    "a person bends down and picks up a box",
    "A  person bends down and picks up a BOX",
    "a person squats, then stretches their arms",
    "a person shakes their head",
    "the person marches in place",
    "a man nods his head and then steps to the left",
]
Twist = Callable[[Question, Answer | Refused], Answer | Refused]


class Twisted:
    """The grammar, whose answers a test may change; records what it was asked, and may end early."""

    name = "grammar"
    model = "twisted"

    def __init__(self, twist: Twist = lambda question, answer: answer, end: BaseException | None = None) -> None:
        self.fingerprint = "0" * 64
        self.asked: list[Question] = []
        self.end_at = -1
        self._twist, self._end, self._grammar = twist, end, GrammarAuthor()

    def answer(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer | Refused]]:
        # Not in the order asked: nobody may count on it.
        for index in reversed(range(len(questions))):
            if self._end and len(self.asked) == self.end_at:
                raise self._end
            question = questions[index]
            self.asked.append(question)
            ((_, answer),) = self._grammar.answer([question])
            yield index, self._twist(question, answer)


def captions(folder: Path, name: str = "captions.jsonl", texts: Sequence[object] = CAPTIONS_HERE) -> str:
    path = folder / name
    path.write_text("".join(json.dumps({"id": f"{n:06}", "captions": [text]}) + "\n" for n, text in enumerate(texts)))
    return str(path)


def quiet(stage: str, done: int, total: int) -> None:
    assert 0 <= done <= max(total, done)


def made(folder: Path, out: str = "pool", author: Author | None = None, **settings: Any) -> Built:
    given = Settings(sources=(captions(folder),), prompts=60)
    return build(replace(given, **settings), folder / out, author or Twisted(), quiet)


def rows_of(folder: Path, name: str, out: str = "pool") -> list[dict[str, Any]]:
    return pq.read_table(folder / out / BUILD / name).to_pylist()


def pool_bytes(folder: Path, out: str = "pool") -> bytes:
    return (folder / out / FILE).read_bytes()


def test_a_pool_of_captions(tmp_path: Path) -> None:
    built = made(tmp_path)
    table = read_table(tmp_path / "pool")
    assert table.rows == built.table.rows and 20 < len(table.rows) <= 60
    assert len({row.operation for row in table.rows}) >= 4
    known = {row["id"]: row for row in rows_of(tmp_path, METAS)}
    ids = {row["id"] for row in rows_of(tmp_path, CAPTIONS)}
    assert ids == {f"captions.jsonl/{n:06}/0" for n in range(len(CAPTIONS_HERE))}
    for row in table.rows:
        metas = [known[meta] for meta in row.metas]
        assert set(row.sources) <= {one for meta in metas for one in meta["sources"]} <= ids
        assert row.length <= 196 and row.fps == 20.0 and row.author == "grammar" and row.model == "twisted"
        held_out = any(meta["split"] == "held_out_metas" for meta in metas)
        assert (row.split == "held_out_metas") == held_out
    assert table.info["settings"]["prompts"] == 60 and table.info["counts"]["captions"] == len(CAPTIONS_HERE)


def test_novel_means_novel(tmp_path: Path) -> None:
    first = made(tmp_path)
    there = [row.text for row in first.table.rows[:5]]
    # The one is a caption of the sources, the other a part of one.
    alone = ["a person shakes their head", "a man jumps twice"]
    excluded = captions(tmp_path, "held_out.jsonl", [*there, *alone])
    author = Twisted()
    second = made(tmp_path, "other", author, exclude=(excluded,))
    keys = [reading.meaning(row.text) for row in second.table.rows]
    metas = [row["key"] for row in rows_of(tmp_path, METAS, "other")]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set(map(reading.meaning, [*there, *CAPTIONS_HERE])) and not set(keys) & set(metas)
    assert not {reading.meaning(text) for text in alone} & set(metas)
    reasons = {(row["stage"], row["reason"]) for row in rows_of(tmp_path, SET_ASIDE, "other")}
    assert {("read", "an excluded caption"), ("meta-motion", "an excluded caption")} <= reasons
    judged = {reading.meaning(question.text) for question in author.asked if isinstance(question, Judge)}
    assert not judged & set(map(reading.meaning, [*there, *CAPTIONS_HERE])), "nobody is paid to judge what is known"


def test_three_prompts_of_a_pair_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def insistent(metas: Sequence[planner.Meta], *_: object) -> Iterator[planner.Order]:
        for details in (["twice", "slowly", "quickly", "three times"], ["again"]):
            for detail in details:
                question = Compose(operation="speed", meta_motions=(metas[0].text,), detail=detail)
                yield planner.Order(question, (metas[0],), 60, 0.5)
        question = Compose(operation="sequence", meta_motions=(metas[0].text, metas[1].text))
        yield planner.Order(question, (metas[0], metas[1]), 60, 0.5)

    def numbered(question: Question, answer: Answer | Refused) -> Answer | Refused:
        texts = {"twice": "a person walks", "slowly": "a person runs", "quickly": "a person hops"}
        if isinstance(question, Compose):
            return Composition(text=texts.get(question.detail, "a person crawls") + " around a tree")
        return answer

    monkeypatch.setattr(planner, "orders", insistent)
    built = made(tmp_path, author=Twisted(numbered))
    of_pair = Counter(tuple(sorted(row.metas)) for row in built.table.rows)
    assert sorted(of_pair.values()) == [1, 3]
    assert built.tally and built.tally.by_stage()["combine"] == 2
    # Control: more than three pass where more are allowed.
    monkeypatch.setattr(planner, "PER_PAIR", 4)
    assert len(made(tmp_path, "control", Twisted(numbered)).table.rows) == 4


TROUBLE: dict[tuple[str, str], Answer | Refused] = {
    ("decompose", "raises"): Refused(reason="no idea"),
    ("decompose", "spins"): Decomposition(decomposable=False, meta_motions=()),
    ("decompose", "marches"): Verdict(plausible=True),
    ("decompose", "shakes"): Decomposition(decomposable=True, meta_motions=("they do it again", "a person jumps")),
    ("compose", "turns"): Refused(reason="no idea"),
    ("compose", "kicks"): Composition(text="a person \x1b[31mwalks"),
    ("compose", "claps"): Composition(text="a person stretches their arms and then jumps"),
    ("compose", "runs"): Composition(text="..."),
    ("judge", "sits"): Verdict(plausible=False, reason="not today"),
    ("judge", "squats"): Refused(reason="no idea"),
}
"""Everything that an author may do wrong, by the question's kind and a word in it."""


def trouble(question: Question, answer: Answer | Refused) -> Answer | Refused:
    asked = question.model_dump_json()
    return next((wrong for (kind, word), wrong in TROUBLE.items() if kind == question.kind and word in asked), answer)


def test_everything_is_accounted_for_once(tmp_path: Path) -> None:
    lines = [*CAPTIONS_HERE, "", 7, "a person\x07walks", "a person shakes his head"]
    source = captions(tmp_path, "bad.jsonl", lines)
    excluded = captions(tmp_path, "held_out.jsonl", ["a man nods his head and then steps to the left"])
    built = made(tmp_path, sources=(source,), exclude=(excluded,), author=Twisted(trouble), prompts=30)
    assert built.tally
    counts, aside = built.table.info["counts"], Counter(built.tally.by_stage())
    assert counts["captions"] == len(lines)
    assert aside["read"] == 4 and aside["decompose"] == 3
    assert (
        len(lines)
        == counts["repeated"] + counts["decomposable"] + counts["single"] + aside["read"] + aside["decompose"]
    )
    of_meta = [row["sources"] for row in rows_of(tmp_path, METAS)]
    twice = sum("bad.jsonl/000007/0" in ids for ids in of_meta)  # a caption with two ids
    assert twice and counts["parts"] == sum(map(len, of_meta)) - twice + aside["meta-motion"]
    assert counts["meta_motions"] == len(of_meta) and aside["meta-motion"] >= 1
    after = sum(aside[stage] for stage in ("combine", "compose", "check", "judge", "novel", "enough"))
    assert counts["orders"] == len(built.table.rows) + after
    assert {"compose", "check", "judge", "novel"} <= set(aside)
    kept = [(row["stage"], row["reason"], row["text"]) for row in rows_of(tmp_path, SET_ASIDE)]
    assert kept == [(one.stage, one.reason, one.text) for one in built.tally.set_aside]
    assert not any("\x1b" in row.text for row in built.table.rows)
    table = built.tally.by_reason()
    assert sum(count for _, _, count, _ in table) == len(kept)


def test_it_stops_at_the_number_and_asks_for_little_more(tmp_path: Path) -> None:
    author = Twisted()
    assert len(made(tmp_path, author=author, prompts=8).table.rows) == 8
    assert sum(isinstance(question, Compose) for question in author.asked) <= 30


def test_the_same_bytes_again_and_others_with_another_seed(tmp_path: Path) -> None:
    for out, seed in (("one", 0), ("two", 0), ("three", 1)):
        made(tmp_path, out, seed=seed, prompts=25)
    assert pool_bytes(tmp_path, "one") == pool_bytes(tmp_path, "two")
    for name in (CAPTIONS, METAS, SET_ASIDE):
        assert (tmp_path / "one" / BUILD / name).read_bytes() == (tmp_path / "two" / BUILD / name).read_bytes()
    assert pool_bytes(tmp_path, "one") != pool_bytes(tmp_path, "three")


@pytest.mark.parametrize("end", [KeyboardInterrupt(), UserError("got no endpoint; want one; start it")])
@pytest.mark.parametrize("after", [0, 3, 14, 30, 60])
def test_interrupted_it_goes_on_with_what_was_answered(tmp_path: Path, end: BaseException, after: int) -> None:
    whole = Twisted()
    made(tmp_path, "straight", whole)
    first = Twisted(end=end)
    first.end_at = after
    with pytest.raises(type(end)) as caught:
        made(tmp_path, author=first)
    if isinstance(end, KeyboardInterrupt):
        assert "the same command" in caught.value.__notes__[0]
        del end.__notes__
    assert not (tmp_path / "pool" / FILE).exists()
    second = Twisted()
    made(tmp_path, author=second)
    assert pool_bytes(tmp_path) == pool_bytes(tmp_path, "straight")
    assert len(first.asked) == after
    assert len(first.asked) + len(second.asked) == len(whole.asked), "none is asked twice"


def test_what_is_built_is_left_with_its_reviews(tmp_path: Path) -> None:
    table = made(tmp_path).table
    decision = Decision(decision="rejected", who="eva", when="2026-01-31T12:00:00Z")
    first = table.rows[0].model_copy(update={"review": "rejected", "history": (decision,)})
    write_table(tmp_path / "pool", [first, *table.rows[1:]], table.info, replaces=table)
    before = pool_bytes(tmp_path)
    author = Twisted()
    again = made(tmp_path, author=author)
    assert again.tally is None and not author.asked
    assert again.table.rows[0].review == "rejected"
    assert pool_bytes(tmp_path) == before


def test_a_pool_that_was_made_otherwise_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    before = pool_bytes(tmp_path)
    other = captions(tmp_path, "other.jsonl", CAPTIONS_HERE[1:])
    stranger = Twisted()
    stranger.fingerprint = "1" * 64
    for words, author, settings in (
        ("seed", Twisted(), {"seed": 5}),
        ("prompts", Twisted(), {"prompts": 5}),
        ("max_frames", Twisted(), {"max_frames": 150}),
        ("sources_sha256", Twisted(), {"sources": (other,)}),
        ("exclude_sha256", Twisted(), {"exclude": (other,)}),
        ("fingerprint", stranger, {}),
    ):
        with pytest.raises(UserError, match=f"made otherwise .*{words}"):
            made(tmp_path, author=author, **settings)
    assert pool_bytes(tmp_path) == before


def test_a_pool_that_does_not_say_how_it_was_made_is_refused(tmp_path: Path) -> None:
    table = made(tmp_path).table
    info = dict(table.info)
    for odd in ({}, {"counts": 5}, {"counts": {}}, {"counts": {"unanswered": "0"}}, {"settings": ["seed"]}):
        spoilt = {name: info[name] for name in info if name != "counts"} | {"counts": info["counts"]} | odd
        if not odd:
            del spoilt["counts"]
        write_table(tmp_path / "pool", table.rows, spoilt, replaces=read_table(tmp_path / "pool"))
        with pytest.raises(UserError, match="does not say how it was made"):
            made(tmp_path)


def test_the_pool_keeps_what_is_excluded_as_hashes_of_meanings(tmp_path: Path) -> None:
    texts = ["a person shakes their head", "a man shakes his head", "a man jumps twice"]
    table = made(tmp_path, exclude=(captions(tmp_path, "held_out.jsonl", texts),)).table
    wanted = sorted({hashlib.sha256(reading.meaning(text).encode()).hexdigest()[:16] for text in texts})
    assert len(wanted) == 2 and table.info["excluded"] == wanted
    assert read_table(tmp_path / "pool").info["excluded"] == wanted
    assert made(tmp_path, "other").table.info["excluded"] == []


def test_what_is_to_be_excluded_has_to_be_read_as_a_whole(tmp_path: Path) -> None:
    excluded = captions(tmp_path, "held_out.jsonl", ["a person shakes their head", "", 7])
    with pytest.raises(UserError, match=r"2 lines that cannot be read, the first held_out.jsonl/000001/0 \(empty\)"):
        made(tmp_path, exclude=(excluded,))
    assert not (tmp_path / "pool").exists()


def test_an_excluded_caption_teaches_no_length(tmp_path: Path) -> None:
    def told(name: str, frames: int) -> str:
        lines = [{"text": "a person walks"}, {"text": "a person jumps", "n_frames": frames}]
        more = [{"text": text} for text in CAPTIONS_HERE]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in [*lines, *more]))
        return str(tmp_path / name)

    excluded = captions(tmp_path, "held_out.jsonl", ["a person jumps"])
    lengths = []
    for out, frames in (("short", 20), ("long", 190)):
        made(tmp_path, out, sources=(told(f"{out}.jsonl", frames),), exclude=(excluded,))
        lengths.append([row["frames"] for row in rows_of(tmp_path, METAS, out)])
    assert lengths[0] == lengths[1]


def test_two_builds_do_not_meet(tmp_path: Path) -> None:
    seen = []

    def second(question: Question, answer: Answer | Refused) -> Answer | Refused:
        if not seen:
            with pytest.raises(UserError, match="another build") as caught:
                made(tmp_path)
            seen.append(caught)
        return answer

    made(tmp_path, author=Twisted(second))
    assert seen


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run" / "logs").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    for out in ("run", "file"):
        with pytest.raises(UserError, match="holds something else"):
            made(tmp_path, out)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["logs"]
    (tmp_path / "empty").mkdir()
    made(tmp_path, "empty")


def test_files_and_links_in_the_way_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "pool" / BUILD / "building").mkdir(parents=True)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / BUILD).write_text("mine")
    for out in ("file/x", "file/x/y", "dangling", "circle", "circle/x", "pool", "odd"):
        with pytest.raises(UserError, match="holds something else"):
            made(tmp_path, out)
    assert not (tmp_path / "nothing").exists() and (tmp_path / "file").read_text() == "mine"


def test_captions_that_come_to_nothing(tmp_path: Path) -> None:
    source = captions(tmp_path, "sky.jsonl", ["the sky is blue", "nothing at all"])
    with pytest.raises(UserError, match="no prompt could be made"):
        made(tmp_path, sources=(source,))
    assert rows_of(tmp_path, SET_ASIDE) and not (tmp_path / "pool" / FILE).exists()


def test_a_mistake_in_a_source_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        made(tmp_path, sources=(str(tmp_path / "missing.jsonl"),))
    assert not (tmp_path / "pool").exists()


def test_a_motion_that_everybody_tells_names_a_few_of_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"{who} walks forward and then {what}" for who in ("a person", "a man", "a woman", "someone", "the man")
             for what in ("jumps", "sits down", "claps their hands", "turns around")]  # fmt: skip
    built = made(tmp_path, sources=(captions(tmp_path, "many.jsonl", texts),))
    assert max(len(row["sources"]) for row in rows_of(tmp_path, METAS)) == 20
    assert max(len(row.sources) for row in built.table.rows) <= 2 * stages.MOST_SOURCES


def test_splits_follow_from_meta_motions(tmp_path: Path) -> None:
    built = made(tmp_path)
    keys = {row["id"]: row["key"] for row in rows_of(tmp_path, METAS)}
    of_pair: dict[tuple[str, ...], set[str]] = {}
    for row in built.table.rows:
        if len(row.metas) == 2:
            assert row.split == split_of([keys[meta] for meta in row.metas], row.operation, "")
            of_pair.setdefault(tuple(sorted(row.metas)), set()).add(row.split)
    assert of_pair and all(len(splits) == 1 for splits in of_pair.values())
    assert (tmp_path / "pool" / BUILD / ANSWERS).is_file()


def test_what_did_not_get_through_is_asked_by_the_next_build(tmp_path: Path) -> None:
    def lose_some(question: Question, answer: Answer | Refused) -> Answer | Refused:
        lost = isinstance(question, Decompose) and question.caption in CAPTIONS_HERE[:3]
        return Unanswered(reason="no answer within 60 s") if lost else answer

    undisturbed = made(tmp_path, "undisturbed")
    first = made(tmp_path, "pool", Twisted(lose_some))
    assert first.table.info["counts"]["unanswered"] == 3 and undisturbed.table.info["counts"]["unanswered"] == 0
    author = Twisted()
    made(tmp_path, "pool", author)
    assert pool_bytes(tmp_path) == pool_bytes(tmp_path, "undisturbed")
    asked = [question.caption for question in author.asked if isinstance(question, Decompose)]
    assert sorted(asked) == sorted(CAPTIONS_HERE[:3]), "all others were kept"
    assert made(tmp_path, "pool", author).tally is None, "now it is whole"


def reviewed(pool: Path) -> None:
    table = read_table(pool)
    decision = Decision(decision="rejected", who="eva", when="2026-01-31T12:00:00Z")
    first = table.rows[0].model_copy(update={"review": "rejected", "history": (decision,)})
    write_table(pool, [first, *table.rows[1:]], table.info, replaces=table)


def lost(question: Question, answer: Answer | Refused) -> Answer | Refused:
    away = isinstance(question, Decompose) and question.caption == CAPTIONS_HERE[0]
    return Unanswered(reason="no answer within 60 s") if away else answer


def test_a_review_during_a_build_wins(tmp_path: Path) -> None:
    made(tmp_path, author=Twisted(lost))

    def review_meanwhile(question: Question, answer: Answer | Refused) -> Answer | Refused:
        if isinstance(question, Decompose):
            reviewed(tmp_path / "pool")
        return answer

    with pytest.raises(UserError, match=r"reviewed meanwhile.*run again"):
        made(tmp_path, author=Twisted(review_meanwhile))
    assert read_table(tmp_path / "pool").rows[0].review == "rejected"
    known = {row["id"] for row in rows_of(tmp_path, METAS)}
    there = {meta for row in read_table(tmp_path / "pool").rows for meta in row.metas}
    assert there <= known, "the texts of the pool that is there"


def test_a_reviewed_pool_is_left_and_says_what_it_lacks(tmp_path: Path) -> None:
    made(tmp_path, author=Twisted(lost))
    reviewed(tmp_path / "pool")
    author = Twisted()
    built = made(tmp_path, author=author)
    assert built.tally is None and built.unanswered == 1 and not author.asked
