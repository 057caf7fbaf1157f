"""`rl-motion report` as users type it: files, exit codes, what is left behind, MLflow."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rl_motion.cli import app
from rl_motion.evaluation.ab import read_key
from tests.report_runs import PROMPTS, job, make_run


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, words)])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "toy")


def test_one_run_gets_its_page_and_table_beside_it(toy: Path) -> None:
    before = files(toy)
    ended = run(toy)
    assert ended.exit_code == 0, ended.output
    assert files(toy.parent) == ["toy", "toy-report.html", "toy-report.md"]
    assert files(toy) == before
    assert "toy: held-out success, %: 50.0 before, 60.0 after, +10.0 points" in ended.stdout


def test_several_runs_get_theirs_where_it_was_asked(toy: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "runs" / "toy-2", job(seed=1), gain=-0.1)
    ended = run(toy, other, "--out", tmp_path / "new" / "place", "--json")
    assert ended.exit_code == 0, ended.output
    assert files(tmp_path / "new" / "place") == ["report.html", "report.md"]
    found = json.loads(ended.stdout)
    (row,) = found["jobs"]
    assert [one["seed"] for one in row["runs"]] == [0, 1]
    line = next(one for one in row["lines"] if (one["split"], one["metric"]) == ("held_out", "oracle_success"))
    assert line["words"] == "no difference that 2 runs can show"
    assert len(line["within"]) == 2
    assert found["files"]["page"].endswith("report.html")


def test_an_old_run_is_reported_and_says_what_it_lacks(tmp_path: Path) -> None:
    old = make_run(tmp_path / "old", kept=False, field=False)
    ended = run(old)
    assert ended.exit_code == 0
    assert f"rl-motion resume {old}" in ended.stdout
    refused(run("--ab", old), ["motions", "rl-motion resume"])


def refused(ended: Result, words: list[str]) -> None:
    assert ended.exit_code == 2, ended.output
    assert "Traceback" not in ended.stderr
    for word in ("got", "want", *words):
        assert word in ended.stderr
    assert ";" in ended.stderr


def spoil(path: Path, content: str | None) -> None:
    path.unlink()
    if content is not None:
        path.write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("report.json", None, ["report.json", "rl-motion resume"]),
        ("report.json", "{", ["report.json", "no JSON"]),
        ("report.json", "[" * 100_000, ["report.json", "no JSON"]),
        ("report.json", "[]", ["report.json", "`base`"]),
        ("report.json", '{"base": 1}', ["report.json"]),
        ("job.yaml", None, ["job.yaml", "runs/demo"]),
        ("job.yaml", "name: [", ["job.yaml"]),
        ("evaluation/records.parquet", "no", ["records.parquet"]),
        ("evaluation/motions.npz", None, ["motions.npz"]),
    ],
)
def test_a_broken_run_is_refused_and_nothing_is_written(toy: Path, name: str, content: str, words: list[str]) -> None:
    spoil(toy / name, content)
    refused(run(toy), words)
    assert files(toy.parent) == ["toy"]


DAMAGES = {
    "no base": lambda found: found.update(base=None),
    "a split of the base that is a number": lambda found: found["base"].update(held_out=3),
    "an end that is no number": lambda found: found["tuned"]["held_out"]["reward"].update(low="x"),
    "sentinels without a split": lambda found: found["sentinels"].pop("held_out"),
    "a sentinel without a base": lambda found: found["sentinels"]["held_out"]["jerk"].pop("base"),
    "a ratio in words": lambda found: found["sentinels"]["held_out"]["jerk"].update(ratio={"value": "much"}),
    "a band without ends": lambda found: found["sentinels"]["held_out"]["jerk"].pop("low"),
    "no diversity": lambda found: found.update(diversity={}),
    "classes without held-out": lambda found: found["classes"].pop("held_out"),
    "a class in words": lambda found: found["classes"]["held_out"]["walk"].update(base="half"),
    "an evaluation without rewards": lambda found: found["evaluation"].pop("rewards"),
    "an evaluation without samples": lambda found: found["evaluation"].pop("samples_per_prompt"),
    "a weight in words": lambda found: found["evaluation"].update(rewards={"tmr": "one"}),
    "no conventions": lambda found: found.update(conventions=None),
    "a convention that is a number": lambda found: found.update(conventions=[1]),
    "no warnings": lambda found: found.update(warnings=None),
    "a field that is a list": lambda found: found.update(field=[]),
    "a number beyond all": lambda found: found["sentinels"]["held_out"]["jerk"].update(base=10**400),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_report_is_named_and_nothing_is_written(toy: Path, tmp_path: Path, damage: str) -> None:
    found = json.loads((toy / "report.json").read_text())
    DAMAGES[damage](found)
    (toy / "report.json").write_text(json.dumps(found))
    refused(run(toy), [str(toy / "report.json"), f"rl-motion resume {toy}"])
    # Beside another job it is found too.
    other = make_run(tmp_path / "runs" / "sound", job(learning_rate=0.5))
    refused(run(other, toy), [str(toy / "report.json")])
    assert files(toy.parent) == ["sound", "toy"]


def test_mistakes_on_the_command_line(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(run(tmp_path / "nowhere"), ["nowhere", "job.yaml"])
    refused(run(toy, toy), ["twice", "drop"])
    refused(run(toy, "--out", tmp_path / "file" / "x"), ["file", "choose another"])
    refused(run("--ab", toy, toy), ["2 runs", "--against"])
    refused(run("--ab", toy, "--against", toy), ["against itself"])
    refused(run("--ab", toy, "--pairs", PROMPTS + 1), [f"{PROMPTS} prompts", "lower --pairs"])
    refused(run(toy, "--against", toy), ["--against", "drop"])
    refused(run(toy, "--pairs", 3), ["--pairs"])
    refused(run(toy, "--ab-key", toy), ["--ab-key"])
    refused(run("--ab", "--ab-answers", toy), ["--ab"])
    refused(run("--ab-answers", toy), ["--ab-key", "add it"])
    assert files(tmp_path) == ["file", "runs"]
    assert files(toy.parent) == ["toy"]


def test_a_full_disk_leaves_nothing_behind(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from rl_motion.tracking import files as module

    real = module.write_synced

    def full(path: Path, content: bytes, *more: object) -> None:
        real(path, content[:10], *more)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(module, "write_synced", full)
    refused(run(toy, "--out", tmp_path / "new"), ["room"])
    refused(run("--ab", toy, "--pairs", 3, "--out", tmp_path / "new"), ["room"])
    assert files(tmp_path) == ["runs"]


# --- a comparison ------------------------------------------------------------


def test_a_comparison_has_its_key_beside_it_for_its_owner_alone(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "ab"
    ended = run("--ab", toy, "--pairs", 4, "--out", out)
    assert ended.exit_code == 0, ended.output
    assert files(out) == ["toy-ab.html", "toy-ab.key.json"]
    assert (out / "toy-ab.key.json").stat().st_mode & 0o777 == 0o600
    key = read_key(out / "toy-ab.key.json")
    assert (key.first, key.second, len(key.pairs)) == ("base of toy", "tuned of toy", 5)
    page = (out / "toy-ab.html").read_text()
    assert str(key.seed) not in page
    for word in ("base", "tuned", "toy"):
        # `base64` and CSS know the word; no text of the page names an arm.
        assert f">{word}" not in page
        assert f"{word} of" not in page
    # A second one would make answers to the first worthless.
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    refused(run("--ab", toy, "--pairs", 4, "--out", out), ["answering"])
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_two_runs_are_compared_on_the_prompts_that_both_have(toy: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "runs" / "b", job(seed=1), shift=0.5)
    ended = run("--ab", toy, "--against", other, "--pairs", PROMPTS, "--seed", 1)
    assert ended.exit_code == 0, ended.output
    key = read_key(toy.parent / "toy-ab.key.json")
    assert (key.first, key.second, key.seed) == ("tuned of b", "tuned of toy", 1)


def test_answers_come_back_as_a_table(toy: Path, tmp_path: Path) -> None:
    run("--ab", toy, "--pairs", 6)
    key_file = toy.parent / "toy-ab.key.json"
    key = read_key(key_file)
    paths = []
    for name in ("Ann", "Ben \x1b[31m"):
        answers = {pair.id: {"realism": "A" if pair.a == "second" else "B", "adherence": "same"} for pair in key.pairs}
        content = {"format": 1, "page": key.page, "rater": name, "saved": "2026", "answers": answers}
        paths.append(tmp_path / f"{len(paths)}.json")
        paths[-1].write_text(json.dumps(content))
    ended = run("--ab-answers", *paths, "--ab-key", key_file)
    assert ended.exit_code == 0, ended.output
    assert "realism: tuned of toy is preferred" in ended.stdout
    assert "adherence: nobody saw a difference" in ended.stdout
    assert "\x1b" not in ended.stdout
    found = json.loads(run("--ab-answers", *paths, "--ab-key", key_file, "--json").stdout)
    assert found["questions"]["realism"]["overall"]["second"] == 12
    refused(run("--ab-answers", paths[0], paths[0], "--ab-key", key_file), ["2 files", "Ann"])
    refused(run("--ab-answers", paths[0], "--ab-key", paths[0]), ["no key"])
    refused(run("--ab-answers", key_file, "--ab-key", key_file), ["no answers"])
    refused(run("--ab-answers", tmp_path, "--ab-key", key_file), ["cannot be read"])


# --- MLflow ------------------------------------------------------------


def with_mlflow(folder: Path, uri: str) -> Path:
    from rl_motion.config import Job, TrackingConfig

    return make_run(folder, Job(**(job().model_dump() | {"tracking": TrackingConfig(mlflow_uri=uri)})))


def commit(folder: Path, run_id: str, pool: str = "", model: str = "") -> None:
    from rl_motion.runtime.commit import ADAPTER_FILES, LEARNER_FILE, LEDGER_FILE, Commits, Manifest

    manifest = Manifest(
        iteration=1, adapter_sha256="", pool_sha256=pool, weights_sha256={"model": model}, job={}, threads=1,
        cpu_capability="", torch="", run_id=run_id, mlflow_run_id=None, wall_s=0.0, metrics=None,
    )  # fmt: skip
    Commits(folder / "commits", 1).write(manifest, dict.fromkeys((LEARNER_FILE, LEDGER_FILE, *ADAPTER_FILES), b"x"))


def test_runs_whose_commits_name_other_files_are_not_averaged(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs" / f"toy{seed}", job(seed=seed)) for seed in range(2)]

    def sizes(*files: tuple[str, str]) -> list[int]:
        for folder, (pool, model) in zip(runs, files, strict=True):
            commit(folder, "f" * 32, pool, model)
        ended = run(*runs, "--json")
        assert ended.exit_code == 0, ended.output
        return [len(row["runs"]) for row in json.loads(ended.stdout)["jobs"]]

    assert sizes(("a", "b"), ("a", "b")) == [2]
    assert sizes(("a", "b"), ("c", "b")) == [1, 1]
    assert sizes(("a", "b"), ("a", "c")) == [1, 1]


def test_a_report_reaches_the_runs_mlflow(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from rl_motion.tracking.mlflow_tracker import KEY_TAG, make_database

    uri = f"sqlite:///{tmp_path}/runs/mlflow.db"
    folder = with_mlflow(tmp_path / "runs" / "toy", "sqlite:///{out}/mlflow.db")
    commit(folder, "f" * 32)
    make_database(uri)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("rl_motion", artifact_location=(tmp_path / "artifacts").as_uri())
    logged = client.create_run(experiment, tags={KEY_TAG: "f" * 32}).info.run_id
    ended = run(folder)
    assert ended.exit_code == 0, ended.output
    assert "MLflow: toy" in ended.stdout
    found = [artifact.path for artifact in client.list_artifacts(logged, "report")]
    assert found == ["report/toy-report.html", "report/toy-report.md"]
    # A run that MLflow does not have is said, and is no fault.
    commit(folder, "e" * 32)
    ended = run(folder)
    assert ended.exit_code == 0
    assert "does not have the run" in ended.stderr
    assert "MLflow:" not in ended.stdout


@pytest.mark.parametrize("uri", ["sqlite:///{out}/mlflow.db", "http://127.0.0.1:9"])
def test_an_mlflow_that_is_away_fails_no_report(tmp_path: Path, uri: str) -> None:
    folder = with_mlflow(tmp_path / "runs" / "toy", uri)
    commit(folder, "f" * 32)
    ended = run(folder)
    assert ended.exit_code == 0, ended.output
    assert files(folder.parent) == ["toy", "toy-report.html", "toy-report.md"]
    assert "MLflow does not get the report" in ended.stderr
