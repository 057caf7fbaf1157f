"""Wrong input: checkpoints, text encoders, adapters and calibrations."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.integration.wrong_input.desk import Case, Desk, Mishap, sample, table, train

MODEL, CONFIG = "zoo/mdm/model.safetensors", "zoo/mdm/config.json"
TEXT, TEXT_CONFIG = "zoo/text/model.safetensors", "zoo/text/config.json"
ADAPTER, ADAPTER_CONFIG = "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
LAYER = "network.input_process.poseEmbedding.weight"


def weights(case: str, change: Callable[[dict[str, Tensor]], object], *says: str, where: str = MODEL) -> Case:
    return Case(case, train(), [str(Path(where).parent), *says], lambda desk: desk.tensors(where, change))


def config(case: str, *says: str, **changes: object) -> Case:
    return Case(case, train(), ["zoo/mdm", *says], lambda desk: desk.json(CONFIG, **changes))


def shape(case: str, *says: str, **changes: object) -> Case:
    """A network of another shape than its weights."""

    def mishap(desk: Desk) -> None:
        network = json.loads(desk.path(CONFIG).read_text())["network"]
        desk.json(CONFIG, network={k: v for k, v in (network | changes).items() if v is not None})

    return Case(case, train(), ["zoo/mdm", *says], mishap)


def sampled(case: Case) -> Case:
    """The same mistake, met by `sample`."""
    return Case(f"{case.id}, sample", sample(), case.says, case.mishap)


def spoil(name: str, value: float) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors[name].view(-1).__setitem__(3, value)


def replaced(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: change(tensors[name]).contiguous()})


TRUNCATED = Case("truncated weights", train(), ["zoo/mdm", "does not load"], lambda d: d.cut(MODEL, 0.5))
NOT_A_NUMBER = weights("NaN in the weights", spoil(LAYER, float("nan")), LAYER)


@table(
    Case("no folder", train("model.name=zoo/gone"), ["'zoo/gone'"]),
    Case("an empty folder", train("model.name=empty"), ["'empty'"], lambda d: d.path("empty").mkdir()),
    Case("a file in its place", train("model.name=job.yaml"), ["'job.yaml'"]),
    Case("a name with a NUL", train('model.name="a\\0b"'), ["a\\x00b"]),
    Case("a name that is too long", train(f"model.name={'m' * 600}"), ["mmm"]),
    Case("no weights", train(), ["zoo/mdm"], lambda d: d.remove(MODEL)),
    Case("a folder in the weights' place", train(), ["zoo/mdm"], lambda d: (d.remove(MODEL), d.path(MODEL).mkdir())),
    TRUNCATED,
    sampled(TRUNCATED),
    Case("empty weights", train(), ["zoo/mdm"], lambda d: d.cut(MODEL, 0)),
    Case("a byte short", train(), ["zoo/mdm"], lambda d: d.write(MODEL, d.path(MODEL).read_bytes()[:-1])),
    Case("a pickle in their place", train(), ["zoo/mdm"], lambda d: d.write(MODEL, pickle.dumps({LAYER: [0.0]}))),
    Case("a zip in their place", train(), ["zoo/mdm"], lambda d: d.write(MODEL, b"PK\3\4" + bytes(500))),
    Case("an absurd header", train(), ["zoo/mdm"], lambda d: d.write(MODEL, b"\xff" * 64)),
    Case(
        "weights that link to nothing", train(), ["zoo/mdm"], lambda d: (d.remove(MODEL), d.path(MODEL).symlink_to("x"))
    ),
    weights("foreign keys", lambda t: [t.update({f"other.{k}": t.pop(k)}) for k in list(t)], "mean_D"),
    weights("a key too few", lambda t: t.pop(LAYER), LAYER.removeprefix("network.")),
    weights("a key too many", lambda t: t.update({"network.extra": torch.zeros(2)}), "extra"),
    weights("another width", replaced(LAYER, lambda t: torch.cat([t, t])), "size mismatch"),
    NOT_A_NUMBER,
    sampled(NOT_A_NUMBER),
    weights("infinity in the weights", spoil(LAYER, float("inf")), LAYER),
    weights("whole numbers", replaced(LAYER, lambda t: t.to(torch.int32)), LAYER, "int32"),
    weights("no mean", lambda t: t.pop("mean_D"), "mean_D"),
    weights("no deviation", lambda t: t.pop("std_D"), "std_D"),
    weights("a deviation of 0", spoil("std_D", 0.0), "positive deviations"),
    weights("a negative deviation", spoil("std_D", -1.0), "positive deviations"),
    weights("a deviation NaN", spoil("std_D", float("nan")), "std"),
    weights("an infinite deviation", spoil("std_D", float("inf")), "std"),
    weights("a mean NaN", spoil("mean_D", float("nan")), "mean"),
    weights("statistics of another format", replaced("mean_D", lambda t: t[:251]), "(251,)", "(263,)"),
    weights("statistics with a batch axis", replaced("std_D", lambda t: t[None]), "(1, 263)"),
    weights("statistics in double precision", replaced("mean_D", lambda t: t.double()), "float64"),
    Case("config.json cut short", train(), ["zoo/mdm"], lambda d: d.cut(CONFIG, 0.5)),
    Case("config.json empty", train(), ["zoo/mdm"], lambda d: d.write(CONFIG, "")),
    Case("config.json a list", train(), ["zoo/mdm"], lambda d: d.write(CONFIG, "[]")),
    Case("config.json binary", train(), ["zoo/mdm"], lambda d: d.write(CONFIG, bytes(range(256)))),
    Case("config.json of another library", train(), ["zoo/mdm"], lambda d: d.write(CONFIG, '{"model_type": "bert"}')),
    Case("config.json a folder", train(), ["zoo/mdm"], lambda d: (d.remove(CONFIG), d.path(CONFIG).mkdir())),
    Case("unknown kind", train(), ["'mdmm'", "did you mean 'mdm'"], lambda d: d.json(CONFIG, kind="mdmm")),
    Case("a retrieval model", train(), ["'tmr'", "motion model"], lambda d: d.json(CONFIG, kind="tmr")),
    config("unknown key in config.json", "unit", unit="metre"),
    config("kind a number", "kind", kind=3),
    config("fps 0", "fps", fps=0),
    config("fps in words", "fps", fps="fast"),
    config("another representation", "representation", representation="smpl"),
    config("no text encoder", "text_encoder", text_encoder=None),
    config("another text encoder", "'gone'", text_encoder="gone"),
    config("a text encoder elsewhere", "'../../text'", text_encoder="../../text"),
    config("a text encoder that is here", "'.'", text_encoder="."),
    config("unknown schedule", "schedule", schedule={"betas": "cosin", "timesteps": 50}),
    config("a schedule without steps", "schedule", schedule={"betas": "cosine", "timesteps": 0}),
    config(
        "a schedule longer than the table of timesteps", "IndexError", schedule={"betas": "linear", "timesteps": 99}
    ),
    config("a U-Net's frames in words", "'soon'", kind="t2m_unet", network={"max_frames": "soon"}),
    config("a U-Net of endless frames", "zoo/mdm", kind="t2m_unet", network={"max_frames": float("inf")}),
    config("a U-Net's levels in words", "zoo/mdm", kind="t2m_unet", network={"dim_mults": 3}),
    config("MDM-SMPL's frames in words", "zoo/mdm", kind="mdm_smpl", network={"pos_embed_max_len": "soon"}),
    Case("no schedule", train(), ["schedule None"], lambda d: d.json(CONFIG, schedule=None)),
    shape("an unknown key of the shape", "depth", depth=3),
    shape("wider than its weights", "size mismatch", latent_dim=32),
    shape("deeper than its weights", "Missing key", num_layers=3),
    shape("heads that do not divide", "zoo/mdm", num_heads=3),
    shape("no heads", "zoo/mdm", num_heads=0),
    shape("features in words", "zoo/mdm", features="many"),
    shape("features of another format", "size mismatch", "251", features=251),
    shape("a negative width", "zoo/mdm", latent_dim=-16),
    shape("a position table in words", "zoo/mdm", pos_embed_max_len="long"),
    shape("another text width", "size mismatch", text_dim=32),
)
def test_checkpoints(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)


def other_width(desk: Desk) -> None:
    from rl_motion.models.text import TinyBertConfig, create_tiny_bert

    desk.remove("zoo/text")
    create_tiny_bert(["a person"], desk.path("zoo/text"), TinyBertConfig(hidden=32, layers=1))


def text(case: str, mishap: Mishap, *says: str) -> Case:
    return Case(case, train(), ["zoo/text", *says], mishap)


EMBEDDING = "embeddings.word_embeddings.weight"


@table(
    Case("no folder", train(), ["'text'"], lambda d: d.remove("zoo/text")),
    text("no weights", lambda d: d.remove(TEXT)),
    text("weights cut short", lambda d: d.cut(TEXT, 0.5)),
    text("a pickle in their place", lambda d: d.write(TEXT, pickle.dumps({}))),
    text("a weight short", lambda d: d.tensors(TEXT, lambda t: t.pop(EMBEDDING)), EMBEDDING),
    text("foreign weights", lambda d: d.tensors(TEXT, lambda t: [t.update({f"x.{k}": t.pop(k)}) for k in list(t)])),
    text("NaN in the weights", lambda d: d.tensors(TEXT, spoil(EMBEDDING, float("nan"))), EMBEDDING),
    text("no tokenizer", lambda d: d.remove("zoo/text/tokenizer.json")),
    text("tokenizer cut short", lambda d: d.cut("zoo/text/tokenizer.json", 0.5)),
    text("config.json cut short", lambda d: d.cut(TEXT_CONFIG, 0.5)),
    text("config.json a list", lambda d: d.write(TEXT_CONFIG, "[]")),
    text("an unknown model type", lambda d: d.json(TEXT_CONFIG, model_type="berrt"), "berrt"),
    text(
        "code of its own",
        lambda d: d.json(TEXT_CONFIG, model_type="x", auto_map={"AutoModel": "m.M", "AutoConfig": "m.C"}),
    ),
    Case("another width", train(), ["32 channels", "want 16"], other_width),
)
def test_text_encoders(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)


@pytest.fixture(scope="session")
def adapter_files(model: Path) -> dict[str, bytes]:
    """An untrained adapter of the desk's model."""
    import tempfile

    from rl_motion.config import AdapterConfig
    from rl_motion.models.adapter import attach_lora, save_adapter
    from rl_motion.models.zoo import load_denoiser

    made = attach_lora(load_denoiser(model).network, AdapterConfig(rank=2))
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(made, folder, base_model_name="zoo/mdm")
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def adapter(case: str, mishap: Mishap, *says: str) -> Case:
    return Case(case, sample("--adapter", "adapter"), says, mishap)


def first(change: Callable[[Tensor], Tensor]) -> Mishap:
    def mishap(desk: Desk) -> None:
        desk.tensors(ADAPTER, lambda t: replaced(sorted(t)[0], change)(t))

    return mishap


@table(
    Case("no folder", sample("--adapter", "gone"), ["'gone'"]),
    Case("a file", sample("--adapter", "job.yaml"), ["'job.yaml'"]),
    Case("a run's folder", sample("--adapter", "zoo"), ["'zoo'", "adapter/ folder"]),
    adapter("no weights", lambda d: d.remove(ADAPTER), "adapter_model.safetensors"),
    adapter("no configuration", lambda d: d.remove(ADAPTER_CONFIG), "adapter_config.json"),
    adapter("weights cut short", lambda d: d.cut(ADAPTER, 0.5), "adapter_model.safetensors"),
    adapter("a tensor short", lambda d: d.tensors(ADAPTER, lambda t: t.pop(sorted(t)[0])), "1 tensors missing"),
    adapter("a tensor too many", lambda d: d.tensors(ADAPTER, lambda t: t.update(x=torch.zeros(1))), "1 unknown"),
    adapter("of a wider model", first(lambda t: torch.cat([t, t], dim=1)), "another width"),
    adapter("NaN", first(lambda t: t * float("nan")), "lora_A"),
    adapter("configuration cut short", lambda d: d.cut(ADAPTER_CONFIG, 0.5), "not JSON"),
    adapter("another rank", lambda d: d.json(ADAPTER_CONFIG, r=3), "rank"),
    adapter("rank 0", lambda d: d.json(ADAPTER_CONFIG, r=0), "r=0"),
    adapter("alpha NaN", lambda d: d.json(ADAPTER_CONFIG, lora_alpha=float("nan")), "lora_alpha=nan"),
    adapter("another kind", lambda d: d.json(ADAPTER_CONFIG, peft_type="IA3"), "IA3"),
    adapter("layers that are not there", lambda d: d.json(ADAPTER_CONFIG, target_modules=["q_proj"]), "q_proj"),
    adapter(
        "of another model", lambda d: d.json(ADAPTER_CONFIG, base_model_name_or_path="mdm-embedded"), "'mdm-embedded'"
    ),
    adapter("beside a broken job", lambda d: d.write("job.yaml", "name: [a"), "job.yaml", "not YAML"),
)
def test_adapters(case: Case, hold: Callable[[Case], None], desk: Desk, adapter_files: dict[str, bytes]) -> None:
    for name, content in adapter_files.items():
        desk.write(f"adapter/{name}", content)
    hold(case)


def calibration(case: str, *says: str, content: str | bytes | None = None, **changes: object) -> Case:
    """A job that uses this calibration: a right one of another model, or spoilt beyond that."""

    def mishap(desk: Desk) -> None:
        from rl_motion.config import PolicyConfig
        from rl_motion.rewards.calibration import Calibration, Spread

        right = Calibration(
            model="zoo/mdm",
            weights_sha256={"model": "00"},
            policy=PolicyConfig(steps=4),
            prompts_per_unit=1,
            seed=0,
            rewards={"jerk": Spread(mean=0.0, std=1.0, n=16)},
        )
        right.write(desk.path("c.json"))
        if changes:
            desk.json("c.json", **changes)
        if content is not None:
            desk.write("c.json", content)

    return Case(case, train("calibration=c.json"), ["c.json", *says], mishap)


@table(
    calibration("other weights", "other inputs (model"),
    calibration("empty", content=""),
    calibration("binary", content=bytes(range(256))),
    calibration("cut short", content='{"format": 1, "mod'),
    calibration("another file", content='{"name": "a"}'),
    calibration("another format", "format", format=2),
    calibration("changed by hand", "hash", seed=1),
    calibration("a deviation of 0", "std", rewards={"jerk": {"mean": 0, "std": 0, "n": 16}}),
    calibration("a mean NaN", "mean", rewards={"jerk": {"mean": float("nan"), "std": 1, "n": 16}}),
    calibration("an unknown key", "extra", extra=1),
    Case("missing", train("calibration=gone.json"), ["gone.json", "No such file"]),
    Case("a folder", train("calibration=zoo"), ["zoo", "a folder"]),
    Case("a name with a NUL", train('calibration="a\\0b"'), ["calibration", "null"]),
    Case("without end", train("calibration=/dev/zero"), ["/dev/zero", "a device"]),
    Case("another name", ["calibrate", "job.yaml", "--out", "c.txt"], ["c.txt", ".json"]),
    Case("too few motions", ["calibrate", "job.yaml", "--out", "c.json", "--motions", "1"], ["--motions", "1"]),
    Case(
        "a reward that does not vary",
        ["calibrate", "job.yaml", "--out", "c.json", "--motions", "4", "--set", "rewards=[{name: mine.py:Mine}]"],
        ["'mine.py:Mine'", "want one that varies"],
        lambda d: d.plugin("motions.features_BFD.mean(dim=(1, 2))", "torch.zeros(len(prompts))"),
    ),
    Case(
        "a place that is a file",
        ["calibrate", "job.yaml", "--out", "job.yaml/c.json", "--motions", "4"],
        ["job.yaml/c.json", "choose another"],
    ),
)
def test_calibrations(case: Case, hold: Callable[[Case], None]) -> None:
    hold(case)
