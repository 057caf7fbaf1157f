"""What reports of runs say: intervals over runs, words, rows by job, which prompts changed most, page and table."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from rl_motion.config import UserError
from rl_motion.evaluation import runs_page as page_module
from rl_motion.evaluation.changed import Kept, Measured, changes, ends
from rl_motion.evaluation.charts import curve_charts, intervals_svg
from rl_motion.evaluation.kept import read_kept, trained_texts
from rl_motion.evaluation.lines import in_words, lines_of
from rl_motion.evaluation.markdown import markdown
from rl_motion.evaluation.over_runs import student_mean, student_quantile
from rl_motion.evaluation.runs_page import runs_page, written
from rl_motion.evaluation.statistics import Estimate
from rl_motion.evaluation.summary import read_runs, summarise
from tests.report_runs import HOSTILE, PROMPTS, job, make_run, motions, report

# --- over runs ------------------------------------------------------------


def test_students_quantiles_are_scipys() -> None:
    t = pytest.importorskip("scipy.stats").t
    for degrees in (1, 2, 3, 4, 9, 10, 99):
        assert student_quantile(degrees) == pytest.approx(t.ppf(0.975, degrees), rel=1e-12)


def test_students_interval_holds_what_it_promises() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(3.0, 2.0, size=(4000, 5))
    found = [student_mean(row) for row in draws.tolist()]
    held = np.mean([one.low <= 3.0 <= one.high for one in found])
    assert held == pytest.approx(0.95, abs=0.012)
    # Negative control: with the normal quantile five runs promise too much.
    narrow = 1.96 / student_quantile(4)
    held = np.mean([abs(one.value - 3.0) <= narrow * (one.high - one.low) / 2 for one in found])
    assert held < 0.9


def test_one_run_has_no_interval_over_runs() -> None:
    assert student_mean([0.5]) == Estimate(0.5, None, None, 1)
    with pytest.raises(ValueError, match="finite"):
        student_mean([0.5, float("nan")])


# --- words ------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "better", "words"),
    [
        (Estimate(0.1, 0.05, 0.15, 8), 1, "better"),
        (Estimate(0.1, 0.05, 0.15, 8), -1, "worse"),
        (Estimate(-0.1, -0.15, -0.05, 8), 1, "worse"),
        (Estimate(-0.1, -0.15, -0.05, 8), 0, "lower"),
        (Estimate(0.1, -0.05, 0.25, 8), 1, "no difference that 128 prompts can show"),
        (Estimate(0.1, 0.0, 0.2, 8), 1, "no difference that 128 prompts can show"),
        (Estimate(0.0, 0.0, 0.0, 8), 1, "no difference that 128 prompts can show"),
        (Estimate(0.1, None, None, 1), 1, "no interval from 128 prompts"),
    ],
)
def test_an_interval_says_in_words_what_it_allows(change: Estimate, better: int, words: str) -> None:
    assert in_words(change, better, "128 prompts") == words


def line(reports: list[dict], metric: str, split: str = "held_out"):
    return next(one for one in lines_of(reports) if (one.split, one.metric.name) == (split, metric))


def test_a_line_of_one_run_is_the_reports() -> None:
    found = line([report(0.1)], "oracle_success")
    assert (found.base.value, found.tuned.value, found.change) == (
        0.5,
        0.6,
        Estimate(0.1, 0.05, pytest.approx(0.15), 16),
    )
    assert found.words == "better"
    assert line([report(0.1)], "fid").words == "better over 2 replications of these prompts"  # lower is better
    assert line([report(0.1)], "fid").real.value == 0.1
    assert line([report(0.1)], "diversity").words == "higher over 2 replications of these prompts"
    assert line([report(0.01)], "fid").words == "no difference that 2 replications can show"
    assert line([report(0.01)], "reward").words == f"no difference that {PROMPTS} prompts can show"


def test_lines_of_several_runs_are_over_runs_with_each_beside() -> None:
    gains = [0.10, 0.12, 0.14]
    found = line([report(gain, 0.11) for gain in gains], "oracle_success")
    assert found.change == student_mean(gains)
    assert [one.value for one in found.within] == gains
    # The base is the same in all runs, and keeps its interval over prompts.
    assert found.base == Estimate(0.5, 0.39, 0.61, 16)
    assert found.words == f"better; within 1 of 3 runs no difference that {PROMPTS} prompts can show"
    far = line([report(gain, 0.01) for gain in (-0.1, 0.3)], "oracle_success")
    assert far.words == "no difference that 2 runs can show"
    assert far.tuned.high == 1.0 and far.tuned.low == 0.0  # Student's would leave what a share can be


def test_equal_runs_promise_no_certainty() -> None:
    found = line([report(0.03), report(0.03)], "oracle_success")
    assert found.words == f"no difference that {PROMPTS} prompts can show"
    assert found.change.low < 0 < found.change.high


def test_what_one_run_lacks_is_no_line() -> None:
    assert not any(one.metric.field for one in lines_of([report(), report(field=False)]))


def test_a_number_that_is_none_is_refused() -> None:
    broken = report()
    broken["tuned"]["held_out"]["reward"]["value"] = "much"
    with pytest.raises(ValueError, match=r"tuned\.held_out\.reward"):
        lines_of([broken])


# --- folders and jobs ------------------------------------------------------------


def test_runs_that_differ_in_their_seed_are_one_row(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path / f"toy-seed{seed}", job(f"toy-seed{seed}", seed))
    make_run(tmp_path / "other", job(seed=5, learning_rate=0.5))
    rows = summarise(read_runs([tmp_path / name for name in ("toy-seed0", "other", "toy-seed1")]), {})
    assert [(row.label, [run.seed for run in row.runs]) for row in rows] == [("toy (2 runs)", [0, 1]), ("other", [5])]


def test_a_copy_is_no_second_run(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b")
    with pytest.raises(UserError, match="seed 0"):
        summarise(read_runs([tmp_path / "a", tmp_path / "b"]), {})


def test_runs_on_other_files_are_other_jobs_and_sentinels_decide_no_number(tmp_path: Path) -> None:
    judged = job(seed=1)
    judged = judged.model_copy(update={"sentinels": judged.sentinels.model_copy(update={"bands": None})})
    runs = read_runs([make_run(tmp_path / "toy0"), make_run(tmp_path / "toy1", judged)])
    same = {"prompts": "a" * 64, "model": "b" * 64}

    def sizes(rests_on: dict) -> list[int]:
        return [len(row.runs) for row in summarise(runs, rests_on)]

    assert sizes({}) == sizes({"toy0": same, "toy1": dict(reversed(same.items()))}) == [2]
    for key in same:
        assert sizes({"toy0": same, "toy1": same | {key: "c" * 64}}) == [1, 1]
    # What one run rested on is not known to be what the other did.
    assert sizes({"toy0": same}) == [1, 1]


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / place / "toy", job(seed=seed)) for seed, place in enumerate("xy")]
    assert [run.name for run in read_runs(runs)] == ["x/toy", "y/toy"]


# --- prompts that changed ------------------------------------------------------------


def test_prompts_are_ordered_by_their_paired_change(tmp_path: Path) -> None:
    kept = read_kept(make_run(tmp_path / "a"))
    found = changes([kept], "held_out")
    assert [one.prompt_id for one in found] == [f"id{n}" for n in reversed(range(PROMPTS))]
    assert [one.success for one in found] == [(n - 4) / 8 for n in reversed(range(PROMPTS))]
    assert [one.reward for one in found] == [n / 8 for n in reversed(range(PROMPTS))]
    best, worst = ends(found, 3)
    assert [one.prompt_id for one in best] == ["id7", "id6", "id5"]
    assert [one.prompt_id for one in worst] == ["id0", "id1", "id2"]
    assert [len(part) for part in ends(found[:3], 4)] == [1, 1]
    assert [len(part) for part in ends(found[:1], 4)] == [1, 0]
    # Negative control: pair the samples wrongly and the reward's change is another.
    wrong = [row._replace(prompt_id="id0") if row.prompt_id == "id7" else row for row in kept.rows]
    assert changes([replace(kept, rows=wrong)], "held_out") != found


def test_without_verdicts_the_reward_decides() -> None:
    rows = [
        Measured("held_out", arm, name, name, "", 0, None, reward)
        for name, gain in (("a", -1.0), ("b", 1.0))
        for arm, reward in (("base", 0.0), ("tuned", gain))
    ]
    found = changes([Kept(rows, {}, {})], "held_out")
    assert [(one.prompt_id, one.success) for one in found] == [("b", None), ("a", None)]
    assert "success" not in found[0].words


def test_what_an_evaluation_kept_comes_back(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    kept = read_kept(folder)
    assert kept.fps == {"held_out": 12.5}
    for motion in motions():
        for arm, joints in motion.joints_by_arm.items():
            assert np.array_equal(kept.joints["held_out", arm, motion.prompt_id], joints)
    assert read_kept(make_run(tmp_path / "b", kept=False)) is None
    (folder / "evaluation" / "motions.npz").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(UserError, match=r"motions\.npz"):
        read_kept(folder)
    assert trained_texts(folder) is None


# --- pages ------------------------------------------------------------


class Tags(HTMLParser):
    """Open tags, in order; fails on a tag that is closed out of order."""

    void = frozenset({"meta", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.seen = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def made(folders: list[Path], lacks: tuple[str, ...] = ()) -> tuple[str, str]:
    runs = read_runs(folders)
    kept = {run.name: found for run in runs if (found := read_kept(run.folder)) is not None}
    rows = summarise(runs, {})
    return runs_page(rows, kept, lacks, "Report"), markdown(rows, "Report")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / f"toy-{seed}", job(seed=seed), gain=gain) for seed, gain in enumerate((-0.3, 0.4))]


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(folders: list[Path]) -> None:
    text, _ = made(folders)
    tags = Tags(text)
    assert tags.open == []
    assert not any(name in attrs for _, attrs in tags.seen for name in ("src", "href"))
    assert "url(" not in text
    # Four prompts that gained, four that lost; each with the base and both runs' own.
    assert [tag for tag, _ in tags.seen].count("section") == 8
    assert [tag for tag, _ in tags.seen].count("canvas") == 24


def test_the_page_says_what_it_shows(folders: list[Path]) -> None:
    text, table = made(folders, ("nothing is lacking",))
    for words in (
        "no difference that 2 runs can show",
        "held-out prompts that gained most",
        "were picked",
        "nothing is lacking",
        "target/test",
        "r precision was not measured",
        "toy-0",
        "validation/reward",
        "floor",
        "AUC for the oracle",
    ):
        assert words in text
    assert "no difference that 2 runs can show" in table
    assert "floor 0.100" in table
    assert '"fps":12.5' in text


def test_several_jobs_stand_beside_one_another(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", gain=0.1)
    two = make_run(tmp_path / "two", job(learning_rate=0.5), gain=0.001, kept=False)
    text, table = made([one, two])
    assert "Held-out prompts, job by job" in text
    assert [tag for tag, _ in Tags(text).seen].count("section") == 4
    beside = next(part for part in table.split("\n\n") if part.startswith("| job |"))
    assert [row.split("|")[1].strip() for row in beside.splitlines()[2:]] == ["one", "two"]


def test_foreign_text_is_text(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    text, table = made(folders)
    assert "<script>alert" not in text
    assert "<script>" not in table
    assert not any(HOSTILE in row for row in table.splitlines())
    # Negative control: a page that forgets to escape is noticed.
    monkeypatch.setattr(page_module, "items", "".join)
    assert "<script>alert" in made(folders)[0]


def test_numbers_of_a_report_that_are_text_are_text(tmp_path: Path) -> None:
    """What should be a number comes from a file too."""
    found = report()
    found["classes"]["held_out"]["walk"] |= {"n": HOSTILE, "prompts": HOSTILE}
    found["evaluation"] |= {"samples_per_prompt": HOSTILE, "seed": HOSTILE}
    found |= {"adapter_sha256": HOSTILE}
    found["field"]["held_out"]["not_measured"] = {HOSTILE: HOSTILE}
    folders = [make_run(tmp_path / name, job(seed=seed)) for seed, name in enumerate("ab")]
    for folder in folders:
        (folder / "report.json").write_text(json.dumps(found))
    for several in (folders, folders[:1]):
        text, table = made(several)
        assert HOSTILE.split("|")[0].replace("<", "&lt;").replace(">", "&gt;").strip() in text
        assert "<script>alert" not in text
        assert "<script>" not in table


def test_what_is_wrong_with_motions_is_not_blamed_on_the_report(tmp_path: Path) -> None:
    runs = read_runs([make_run(tmp_path / "a")])
    with pytest.raises(AttributeError):
        written(runs, {}, {"a": None}, ())
    # Negative control: with its motions it is written.
    found = written(runs, {}, {"a": read_kept(tmp_path / "a")}, ())
    assert "Report: a" in found.page and "# Report: a" in found.table


def test_runs_without_motions_have_a_page_without(tmp_path: Path) -> None:
    text, _ = made([make_run(tmp_path / "old", kept=False, field=False)])
    assert [tag for tag, _ in Tags(text).seen].count("section") == 0
    assert '<div class="bar" hidden>' in text


def test_all_runs_are_in_one_picture() -> None:
    rows = [{"iteration": float(i), "reward/total": float(i)} for i in range(3)]
    text = curve_charts({"a": rows, "<b>": rows})
    assert text.count("<svg") == 1
    assert text.count("<polyline") == 2
    assert "&lt;b&gt;" in text
    assert curve_charts({"a": rows[:1]}) == ""


def test_a_validations_interval_is_a_band_of_its_curve() -> None:
    row = {"validation/reward": 1.0, "validation/reward_low": 0.5, "validation/reward_high": 1.5}
    text = curve_charts({"a": [row | {"iteration": float(i)} for i in range(3)]})
    assert text.count("<svg") == text.count("<polygon") == 1


def test_intervals_are_drawn_to_one_scale() -> None:
    text = intervals_svg([Estimate(0.5, 0.0, 1.0, 4)], Estimate(-1.0, None, None, 2))
    assert 'x1="60.0" x2="116.0"' in text
    assert 'cx="4.0"' in text


def test_reports_of_a_build_are_read(tmp_path: Path) -> None:
    """What `build_report` writes is what is read here."""
    from rl_motion.evaluation.evaluate import Evaluation
    from rl_motion.evaluation.report import build_report
    from tests.report_runs import records

    of = job()
    every = [replace(one, split=split) for split in ("held_out", "original", "train") for one in records()]
    built = build_report(Evaluation(records=every, adapter_sha256={"base": "a", "tuned": "b"}), of, wall_s=1.0)
    folder = make_run(tmp_path / "a", of)
    (folder / "report.json").write_text(json.dumps(built))
    (row,) = summarise(read_runs([folder]), {})
    assert row.line("held_out", "reward").change.value == pytest.approx(3.5 / 8)
    assert "<svg" in made([folder])[0]
