"""The scripts in jobs/: they import, explain themselves, and do nothing until told to."""

import importlib.util
import json
import re
import sys
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from rl_motion.config import UserError

HELP = {
    "build_zoo": {"all", "text", "tmr", "denoiser", "target/train"},
    "zoo_cards": {"--only", "model cards"},
    "experiments/ablations": {"--table", "--model", "--out", "--iterations", "--seeds", "--parallel", "validation"},
    "experiments/tables": {"--rows", "--seeds", "--out", "--set", "--parallel", "--smoke", "leave-one-out"},
    "experiments/real_motion": {"--out", "--target", "--seeds", "--smoke", "captions alone", "held-out trials"},
    "sentinels": {"calibrate", "honest", "hacks", "a quarter of that range"},
    "landing": {"--iterations", "--seeds", "--steps", "under three minutes", "a coin that the text says nothing about"},
    "pictures": {"--set", "--out", "chromium", "selenium"},
    "prompt_quality": {"--source", "--prompts", "labelled one by one", "near-duplicates"},
    "full_size": {"--out", "--model", "--tiny", "full fine-tuning", "VmHWM"},
    "bench/bench": {"--only", "--again", "--join", "--quick", "goes on where it stopped"},
    "bench/limits": {"--out", "--quick", "reads memory", "not of its weights"},
    "bench/stages": {"--seconds", "--quick", "ratio within a round"},
    "bench/compare": {"--models", "--precision", "--quick", "one process"},
    "bench/memory": {"--out", "--quick", "a process of its own"},
    "bench/scale": {"--out", "--predict", "--quick", "1024 rollout workers", "Simulated"},
    "bench/ray_overhead": {"--out", "--quick", "one step off", "What Ray adds"},
    "bench/ray_sync": {"--out", "--quick", "nothing but the adapter travels", "sixteen workers"},
    "bench/ray_memory": {"--out", "--quick", "stays flat", "200 iterations"},
    "bench/startup": {"--out", "--quick", "first rollout", "successor"},
    "bench/table": {"--into", "--against", "never seconds"},
    "more_prompts": {"--out", "--iterations", "--parallel", "figure 5b", "held-out combination"},
    "close_the_gap": {"--family", "--out", "--set", "--parallel", "upper bound"},
}


def load(root, name):
    """A script of jobs/ as a module, its `__main__` part not run."""
    path = root / "jobs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"jobs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:  # where a script finds what lies beside it
        sys.path.append(str(path.parent))
    sys.modules[spec.name] = module  # where dataclasses look for what annotations mean
    spec.loader.exec_module(module)
    return module


def application(module):
    """The module's commands, or its `main` as one."""
    if hasattr(module, "app"):
        return module.app
    app = typer.Typer(add_completion=False)
    app.command(help=module.__doc__)(module.main)
    return app


def plain(text):
    """Words of a help page without its frames and line breaks."""
    return " ".join(text.translate(str.maketrans("│╭╮╰╯─", "      ")).split())


def ask(app, *words):
    return CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"})


def test_every_script_is_tried(root):
    jobs = root / "jobs"
    scripts = [
        path for path in jobs.rglob("*.py") if re.search(r"^    (typer\.run|app)\(", path.read_text("utf-8"), re.M)
    ]
    assert {path.relative_to(jobs).with_suffix("").as_posix() for path in scripts} == HELP.keys()


@pytest.mark.parametrize("name", HELP)
def test_a_script_explains_itself(name, root):
    ended = ask(application(load(root, name)))
    assert ended.exit_code == 0, ended.output
    for words in HELP[name]:
        assert words in plain(ended.output)


@pytest.mark.parametrize("other", ["pool_sha256", "weights_sha256", None])
def test_a_run_on_other_prompts_or_weights_is_not_counted(other, root, tmp_path, monkeypatch):
    """Weights are rebuilt under their names; a finished run in the folder may be of the older ones."""
    from rl_motion.config.load import dump_job, load_job

    gap = load(root, "close_the_gap")
    seed, base = gap.RUNS["mdm"][0]
    folder = tmp_path / f"{base}-seed{seed}"
    folder.mkdir()
    job = load_job("first-light", gap._sets(folder.name, base, []), seed)
    (folder / "job.yaml").write_text(dump_job(job), encoding="utf-8")
    (folder / "report.json").write_text("{}", encoding="utf-8")
    manifest = {"pool_sha256": "pool", "weights_sha256": {"model": "weights"}}
    monkeypatch.setattr(gap, "build_pool", lambda _: SimpleNamespace(sha256="pool"))
    monkeypatch.setattr(gap, "find_weights", lambda _: {"model": "weights"})
    commit = SimpleNamespace(manifest=SimpleNamespace(**manifest | ({other: "another"} if other else {})))
    monkeypatch.setattr(gap, "Commits", lambda *_: SimpleNamespace(newest=lambda: commit))
    if other is None:  # control: the same inputs are found again
        assert gap._run(*gap._command(seed, base, tmp_path, [])) == folder
        return
    with pytest.raises(UserError, match="a run on other prompts or weights"):
        gap._command(seed, base, tmp_path, [])


def test_every_variant_of_the_ablation_is_a_job_of_its_own(root):
    from rl_motion.config.load import load_job

    for table in load(root, "experiments/ablations").TABLES.values():
        jobs = [load_job("demo", sets) for sets in table.values()]
        assert all(one != other for number, one in enumerate(jobs) for other in jobs[:number])


@pytest.mark.parametrize("other", ["job", "pool_sha256", "weights_sha256", "inputs", None])
def test_a_result_on_other_prompts_or_weights_is_not_put_into_the_table(other, root, tmp_path, monkeypatch):
    ablate = load(root, "experiments/ablations")
    inputs = {"job": {"name": "demo"}, "pool_sha256": "pool", "weights_sha256": {"model": "weights"}}
    monkeypatch.setattr(ablate, "_inputs", lambda *_: inputs)
    monkeypatch.setattr(ablate, "lines", lambda rows: [f"{len(rows)} rows"])
    folder = tmp_path / "mdm-embedded"
    folder.mkdir()
    for name in ablate.TABLES["settings"]:
        row = {"inputs": inputs | ({other: "another"} if other else {})} if other != "inputs" else {}
        (folder / f"{'-'.join(name.split())}-80-seed0.json").write_text(json.dumps(row))
    ended = CliRunner().invoke(application(ablate), ["--table", "settings", "--out", str(tmp_path)])
    if other is None:  # control: the same inputs are found again
        assert (ended.exit_code, ended.stdout) == (0, "7 rows\n"), ended.output
        return
    assert ended.exit_code == 2
    assert f"a result of other {other if other != 'inputs' else 'job, pool_sha256, weights_sha256'}" in ended.stderr


@pytest.mark.parametrize("name", ["experiments/ablations", "build_zoo", "close_the_gap", "zoo_cards"])
def test_packaged_models_that_a_script_names_exist(name, root):
    from rl_motion.models.zoo import DENOISERS, names

    script = (root / "jobs" / f"{name}.py").read_text(encoding="utf-8")
    named = set(re.findall(r"--model (mdm-embedded[\w-]*)", script))
    assert named <= set(names(DENOISERS))


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("text", {"--zoo", "--steps"}),
        ("tmr", {"--zoo", "--steps", "--seed"}),
        ("denoiser", {"--zoo", "--kind", "--predicts", "--name", "--seed", "--steps", "--upper-bound"}),
        ("all", {"--zoo"}),
    ],
)
def test_the_commands_that_build_weights_say_what_they_take(command, options, root):
    app = load(root, "build_zoo").app
    ended = ask(app, command)
    assert ended.exit_code == 0, ended.output
    assert all(option in ended.output for option in options)
    assert CliRunner().invoke(app, [command, "--no-such-option"]).exit_code == 2


@pytest.fixture(scope="module")
def landing(root):
    return load(root, "landing")


@pytest.fixture(scope="module")
def bases(landing):
    """The toy's world and its two bases, trained for seconds."""
    world = landing.World()
    return world, {kind: landing.pretrain(world, kind, 0, 800) for kind in landing.PREDICTIONS}


FIRST = ("frozen, last timestep", "snr")


@pytest.mark.parametrize("kind", ["sample", "epsilon"])
def test_a_base_of_the_toy_hits_modes_and_does_not_mind_the_word(kind, landing, bases):
    world, networks = bases
    policy = landing.DiffusionPolicy(landing.ToyDenoiser(networks[kind], kind), landing.PolicyConfig())
    assert 0.35 < landing.measure(world, policy, 0).success < 0.65
    # Negative control: what it predicts, taken for the other thing, hits nothing.
    other = "epsilon" if kind == "sample" else "sample"
    policy = landing.DiffusionPolicy(landing.ToyDenoiser(networks[kind], other), landing.PolicyConfig())
    assert landing.measure(world, policy, 0).success < 0.1


def test_post_training_of_the_toy_moves_what_it_rewards(landing, bases, monkeypatch):
    world, networks = bases
    variant = landing.Variant(*FIRST)
    run = landing.post_train(world, networks["sample"], "sample", variant, 0, 20)
    assert run.tuned.success > run.base.success + 0.15
    assert run.metrics["policy/kl"] > 0.01
    # Negative control: the word taken for its opposite.
    judge = landing.World.judge
    monkeypatch.setattr(landing.World, "judge", lambda *parts: (~judge(*parts)[0], judge(*parts)[1]))
    contrary = landing.post_train(world, networks["sample"], "sample", variant, 0, 20)
    assert contrary.tuned.success > contrary.base.success + 0.15


def test_every_variant_of_the_toy_runs_and_has_its_row(landing, bases, monkeypatch, capsys):
    _, networks = bases
    monkeypatch.setattr(landing, "pretrain", lambda world, kind, seed, steps: networks[kind])
    monkeypatch.setattr(landing, "measure", lambda *_: landing.Found(success=0.5, distance=1.0))
    landing.main(iterations=1, seeds=1, steps=1)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| frozen", "| stop"))]
    assert len(rows) == 2 * len(landing.LANDINGS) * len(landing.BALANCES)
    assert all(len(row.split("|")) == 12 for row in rows)


def test_what_is_held_out_reaches_no_pool(root, tmp_path):
    """Prompts are excluded by meaning; the oracle's own reader, which knows no such key, finds none left."""
    more = load(root, "more_prompts")
    assert more._pool(tmp_path, 300).name == "pool-300"
    with pytest.raises(UserError, match="a held-out combination"):
        more._pool(tmp_path / "careless", 300, exclude=("source/test",))
