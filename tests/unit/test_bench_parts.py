"""The benchmark's parts: what operations are counted, what a ratio is, which cases there are, what the guard says."""

import itertools
import json
import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from rl_motion.config import AdapterConfig, RunFault, UserError
from rl_motion.models.mdm import MDM, MDMConfig
from rl_motion.models.product import product
from tests.unit.test_jobs import application, load


@pytest.fixture(scope="module")
def limits(root):
    return load(root, "bench/limits")


@pytest.fixture(scope="module")
def timing(root):
    return load(root, "bench/timing")


@pytest.fixture(scope="module")
def table(root):
    return load(root, "bench/table")


@pytest.fixture(scope="module")
def cases(root):
    return load(root, "bench/cases")


@pytest.fixture(scope="module")
def bench(root):
    return load(root, "bench/bench")


@pytest.fixture(scope="module")
def goals(root):
    return load(root, "bench/goals")


# Counting: against hands.


def test_the_operations_of_a_transformers_call_are_counted(limits):
    """Projections, both products of attention, feed-forward, embeddings: 2 for each product of two numbers."""
    width, ff, layers, frames, rows, features, text = 16, 32, 3, 10, 2, 263, 8
    network = MDM(MDMConfig(features, width, ff, layers, 2, text, mask_frames=True, pos_embed_max_len=50)).eval()
    given = torch.zeros(rows, frames, features), torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, text)
    counted = limits.forward_operations(lambda: network(*given, torch.full((rows,), frames)))
    seen = frames + 1  # the token of time and text
    layer = 2 * seen * width * (3 * width + width + 2 * ff) + 2 * 2 * seen * seen * width
    time_and_text = 2 * (2 * width * width + text * width)
    outer = 2 * features * width * frames
    both_outer = (2 * outer, 2 * outer + 2 * features * width)  # the token in front may be projected too
    assert counted in {rows * (layers * layer + time_and_text + ends) for ends in both_outer}


class Two(nn.Module):
    """Two linear layers."""

    adapter_targets = {"mlp": ("first", "second")}  # noqa: RUF012

    def __init__(self, frozen_before=0):
        super().__init__()
        self.before = nn.Linear(6, 6) if frozen_before else nn.Identity()
        self.first, self.second = nn.Linear(6, 10), nn.Linear(10, 4)

    def forward(self, x):
        return self.second(self.first(self.before(x)))


def adapters(root, network):
    load(root, "bench/straightforward").library_adapter(network, AdapterConfig(rank=3, targets=("mlp",)))
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def test_learning_needs_no_gradient_of_frozen_weights_and_none_before_the_first_adapter(root, limits):
    rows, rank = 5, 3
    x = torch.ones(rows, 6)
    network = Two(frozen_before=1)
    parameters = adapters(root, network)
    first, second = 2 * rows * 6 * 10, 2 * rows * 10 * 4
    thin = [2 * rows * rank * (6 + 10), 2 * rows * rank * (10 + 4)]
    forward = 2 * rows * 6 * 6 + first + second + sum(thin)
    # Of each layer the gradients of A and B, as much again as A and B themselves; through B on the way to A; and in the
    # second layer alone those of its input, through the frozen weight and through A.
    backward = sum(thin) + 2 * rows * rank * (10 + 4) + second + 2 * rows * rank * 10
    assert limits.learning_operations(lambda: network(x), parameters) == forward + backward
    # Negative control: where the whole network is trained, frozen weights have gradients as well.
    network.requires_grad_(True)
    whole = limits.learning_operations(lambda: network(x), [*network.parameters()])
    assert whole > forward + backward + first + second


def test_attention_counts_alike_in_one_kernel_and_in_two_products(limits):
    query, key = torch.ones(2, 3, 5, 8, requires_grad=True), torch.ones(2, 3, 7, 8, requires_grad=True)

    def products():
        return torch.softmax(query @ key.transpose(-2, -1), dim=-1) @ key

    def kernel():
        return torch.nn.functional.scaled_dot_product_attention(query, key, key)

    one, two = (limits.forward_operations(call) for call in (kernel, products))
    assert one == two == 2 * 2 * 2 * 3 * 5 * 7 * 8
    one, two = (limits.learning_operations(call, [query, key]) for call in (kernel, products))
    assert one == two == 3 * 2 * 2 * 2 * 3 * 5 * 7 * 8


def test_rates_are_positive_and_threads_come_back(limits):
    before = torch.get_num_threads()
    with limits.threads(1):
        assert limits.matmul_rate((8, 8, 8), torch.float32, 0.0) > 0
    assert torch.get_num_threads() == before


def test_a_profile_counts_the_products_of_both_libraries(root):
    compare = load(root, "bench/compare")
    x, weight = torch.randn(64, 32), torch.randn(16, 32)
    with torch.profiler.profile(with_flops=True, record_shapes=True) as profiler:
        for _ in range(3):
            product(x, weight)
            torch.nn.functional.linear(x, weight)
            x.exp()
    events = profiler.key_averages(group_by_input_shape=True)
    assert sum(compare._operations(event) for event in events) == 6 * 2 * 64 * 32 * 16
    assert "matrix products: 0 GFLOP" in compare.products(events, 1e9) and "1 GFLOP/s" in compare.products(events, 1e9)


# Timing.


def test_arms_take_turns_forwards_and_backwards(timing):
    order = []
    arms = {name: lambda name=name: order.append(name) for name in "abc"}
    times = timing.interleaved(arms, seconds=0.0, least=3)
    assert "".join(order) == "abccbaabc"
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_no_round_begins_when_the_time_is_up(timing):
    times = timing.interleaved({"a": lambda: time.sleep(0.03)}, seconds=0.05, least=1, most=9)
    assert len(times["a"]) == 2
    assert all(0.02 < seconds < 1.0 for seconds in times["a"])


def test_a_ratio_is_of_each_round_so_a_machine_that_slows_down_changes_none(timing):
    found = timing.ratio([2.0, 4.0, 8.0, 16.0], [1.0, 2.0, 4.0, 8.0])
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 2.0, 2.0, 4)
    # Negative control: medians of all rounds, taken apart, would be moved by one slow round of one arm alone.
    assert timing.ratio([2.0, 20.0, 2.0], [1.0, 1.0, 1.0]).high == 20.0


# Cases.


def test_lengths_are_those_of_humanml3d(cases):
    stored = json.loads((cases.Path(cases.__file__).with_name("lengths.json")).read_text())["motions"]
    assert sum(stored.values()) == 11_818
    mean = sum(int(frames) * motions for frames, motions in stored.items()) / 11_818
    chosen = cases.real_lengths(100)
    assert abs(sum(chosen) / 100 - mean) < 2
    assert max(chosen) == cases.FULL
    # Four prompts: the straightforward loop pads them to the full length, which is what its time stands for.
    assert max(cases.real_lengths(4)) == cases.FULL > min(cases.real_lengths(4))


def test_models_have_the_sizes_that_the_table_says(cases):
    with torch.device("meta"):
        mdm, unet = cases.MDM(cases._mdm_shape(512, False)), cases.T2MUnet(cases._unet_shape(512, False))
    millions = [sum(parameter.numel() for parameter in network.parameters()) / 1e6 for network in (mdm, unet)]
    assert [round(number, 1) for number in millions] == [17.9, 31.4]
    assert [cases.Case(kind).unit.batch for kind in ("embedded", "mdm", "unet")] == [32, 8, 4]


# Table and guard.


@pytest.fixture
def content(goals):
    found = [
        goals.Goal("rollout/mdm", 1.5, 1.3, True, "x", "8 motions"),
        goals.Goal("rollout/over_bare", 1.2, 1.15, False, "x", "8 motions"),
        goals.Goal("startup/help", 0.4, 0.5, False, "s", "median of 3"),
    ]
    return goals.joined([goals.Part("mdm", found, {}, 1.0, machine=goals.machine())], "f" * 40)


def test_the_table_has_a_row_a_goal_and_says_what_is_missed(table, content):
    text = table.markdown(content)
    assert "| `rollout/mdm` | 1.5 | ≥ 1.3 | yes | 8 motions |" in text
    assert "| `rollout/over_bare` | 1.2 | ≤ 1.15 | **no** | 8 motions |" in text
    assert "| `startup/help` | 0.4 s | ≤ 0.5 s | yes | median of 3 |" in text
    assert f"commit {'f' * 18}" in text


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rollout/mdm", 1.3, None),
        ("rollout/mdm", 1.2, "25 % worse"),
        ("rollout/over_bare", 1.4, None),
        ("rollout/over_bare", 1.5, "25 % worse"),
        ("startup/help", 40.0, None),  # seconds are never compared
        ("rollout/mdm", None, "not measured any more"),
    ],
)
def test_the_guard_compares_ratios_alone(table, content, name, value, said):
    new = json.loads(json.dumps(content))
    if value is None:
        del new["goals"][name]
    else:
        new["goals"][name]["value"] = value
    lines = list(table.fallen(new, content))
    assert len(lines) == (said is not None)
    assert said is None or said in lines[0]


def test_the_guard_is_a_command_and_a_wrong_file_no_traceback(table, content, tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(content))
    worse = json.loads(json.dumps(content))
    worse["goals"]["rollout/mdm"]["value"] = 0.5
    new.write_text(json.dumps(worse))
    app, run = application(table), CliRunner().invoke
    assert run(app, [str(old), "--against", str(old)]).exit_code == 0
    ended = run(app, [str(new), "--against", str(old)])
    assert (ended.exit_code, "200 % worse" in ended.output) == (1, True)
    new.write_text("[]")
    ended = run(app, [str(new)])
    assert (ended.exit_code, "no bench.json" in ended.output.replace("\n", " ")) == (2, True)


def test_the_document_gets_the_table_between_its_marks(table, content, tmp_path):
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    table.put_into(document, table.markdown(content))
    text = document.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{table.BEGIN}\n")
    assert text.endswith(f"{table.END}\nafter\n")
    assert "old" not in text
    document.write_text("no marks", encoding="utf-8")
    with pytest.raises(UserError, match="want both"):
        table.put_into(document, "x")


def test_the_plot_is_there(table, content, tmp_path):
    table.plots(content, tmp_path)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


# The whole.


@pytest.fixture
def ran(bench, goals, monkeypatch):
    """Parts that are asked for, none measured for real; `memory` fails."""
    names = []

    def run_step(step, out, quick, now):
        names.append(step.name)
        if step.name == "memory":
            return "memory: exit code 1"
        part = goals.Part(step.name, [goals.Goal(f"{step.name}/x", 1.0, 1.0, True)], {}, 1.0, quick, goals.machine())
        goals.write_part(out / "parts" / f"{step.name}.json", part)
        bench.stamp_of(out, step.name).write_text(now or "")
        return None

    monkeypatch.setattr(bench, "run_step", run_step)
    monkeypatch.setattr(bench, "commit", lambda: "c" * 40)
    return names


def test_a_part_that_fails_leaves_the_others_and_what_is_measured_is_not_measured_again(bench, ran, tmp_path):
    app, run = application(bench), CliRunner().invoke
    assert run(app, ["--out", str(tmp_path)]).exit_code == 1
    assert ran == list(bench.NAMES)
    content = json.loads((tmp_path / "bench.json").read_text())
    assert set(content["goals"]) == {f"{name}/x" for name in bench.NAMES if name != "memory"}
    assert {"value", "goal", "met"} <= content["goals"]["mdm/x"].keys()
    assert content["commit"] == "c" * 40
    bench.stamp_of(tmp_path, "mdm").write_text("d" * 40)  # parts of two commits are of none
    bench.join(tmp_path)
    assert json.loads((tmp_path / "bench.json").read_text())["commit"] is None
    bench.stamp_of(tmp_path, "mdm").write_text("c" * 40)
    ran.clear()
    run(app, ["--out", str(tmp_path)])
    assert ran == ["memory"]
    ran.clear()
    assert run(app, ["--out", str(tmp_path), "--only", "mdm"]).exit_code == 0
    assert ran == ["mdm"]
    ran.clear()
    run(app, ["--out", str(tmp_path), "--quick"])  # another size
    assert ran == list(bench.NAMES)


@pytest.mark.parametrize("changed", ["commit", "machine", "dirty"])
def test_what_was_measured_elsewhere_or_with_other_code_is_measured_again(bench, goals, ran, tmp_path, changed):
    path = tmp_path / "parts" / "mdm.json"
    here = goals.machine()
    part = goals.Part("mdm", (), {}, 1.0, machine=here)
    goals.write_part(path, part)
    bench.stamp_of(tmp_path, "mdm").write_text("c" * 40)
    assert bench.up_to_date(path, "c" * 40, False)
    if changed == "machine":
        goals.write_part(path, replace(part, machine=here | {"processor": "another"}))
    now = {"commit": "d" * 40, "machine": "c" * 40, "dirty": "c" * 40 + "+"}[changed]
    assert not bench.up_to_date(path, now, False)


def test_an_unknown_part_and_nothing_to_join_are_said(bench, ran, tmp_path):
    app, run = application(bench), CliRunner().invoke
    ended = run(app, ["--only", "mmd", "--out", str(tmp_path)])
    assert (ended.exit_code, ran) == (2, [])
    assert run(app, ["--join", "--out", str(tmp_path)]).exit_code == 2
    assert not list(tmp_path.iterdir())


def test_every_step_has_its_script_and_all_of_them_half_an_hour(bench):
    assert all((bench.HERE / step.script).is_file() for step in bench.STEPS)
    assert sum(step.seconds for step in bench.STEPS) <= 1800
    assert all(one != other for one, other in itertools.pairwise(bench.NAMES))


@pytest.mark.slow
def test_the_stages_of_a_model_are_measured(root, tmp_path):
    """Small sizes: the figures mean nothing, the names are those of the table."""
    stages = load(root, "bench/stages")
    found = stages.Measurement("mdm", tmp_path, quick=True, tell=lambda _: None)
    found.measure(0.0)
    names = {goal.name for goal in found.goals}
    modes = {f"{length}_{precision}" for length in ("full", "real") for precision in ("fp32", "bf16")}
    assert {f"{stage}/mdm_{mode}" for stage in ("rollout", "learner") for mode in modes} <= names
    assert {
        "rollout/mdm_over_bare",
        "learner/mdm_over_floor",
        "straightforward/mdm_over_bare",
        "sync/mdm_bytes",
    } <= names
    operations = found.stages["operations"]
    assert operations["real_fp32"]["rollout"] < operations["full_fp32"]["rollout"]
    steps = found.full.job(found.models).policy.steps
    full = operations["full_fp32"]
    assert full["rollout"] == steps * full["forward"]
    # Forward once more and at most as much again backward, twice, and a reference: between 2 and 6 forwards a step.
    assert 2 * (steps - 1) * full["forward"] < full["learner"] < 6 * (steps - 1) * full["forward"]


# Memory.


@pytest.fixture(scope="module")
def memory(root):
    return load(root, "bench/memory")


def test_the_high_water_mark_keeps_what_was_there_for_a_moment(memory):
    before = memory.high_water_mb()
    held = torch.ones(int(before + 60) * 2**20 // 4)  # larger than any peak so far
    del held
    assert memory.high_water_mb() > before + 50


def test_a_stage_that_fails_in_its_process_is_said(memory, monkeypatch):
    monkeypatch.setattr(memory.sys, "executable", "/bin/false")
    with pytest.raises(RunFault, match="exit code 1 of rollout of mdm"):
        memory.measured("rollout", "mdm", memory.Path("nowhere"))


def test_shortened_units_keep_their_prompts(memory, cases):
    unit = cases.Case("mdm", "real").unit
    short = memory.shortened(unit, 64)
    assert {prompt.length for prompt in short.prompts} == {64}
    assert [prompt.id for prompt in short.prompts] == [prompt.id for prompt in unit.prompts]
