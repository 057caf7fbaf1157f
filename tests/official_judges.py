"""Files of judges as official code writes them, for tests: names from the authors' tables and from golden vectors."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_motion.config import UserError
from rl_motion.models.official import Sources
from rl_motion.models.official.convert import convert
from tests.official_files import GOLDEN, golden, statistics, weights

PARTS = {
    "tmr": ("motion_encoder", "text_encoder", "motion_decoder"),
    "guo": ("movement_encoder", "text_encoder", "motion_encoder"),
}
GLOVE_WORDS = ["sos", "eos", "unk", "a", "man", "person", "walk", "kick", "left", "leg", "slowly", "with", "the", "two"]
"""A vocabulary in the official order: marks first, but not in ours."""


@cache
def keys(part: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official state dict at its full size: `tmr_motion_encoder`, `guo_text_encoder` ..."""
    tables = json.loads(gzip.decompress((GOLDEN / "official_judge_keys.json.gz").read_bytes()))
    return {name: tuple(shape) for name, shape in tables[part].items()}


def full_size(part: str) -> dict[str, Tensor]:
    """Tensors of an official state dict that are one number each on disk."""
    return {name: torch.tensor([0.01]).expand(shape) for name, shape in keys(part).items()}


def tmr_statistics(features: int = 263) -> tuple[Tensor, Tensor]:
    """Mean and deviation like TMR's own: one for every column."""
    mean, std = map(torch.tensor, statistics(features))
    return mean.float(), (std * torch.cat([torch.linspace(0.5, 1.5, features - 4), torch.ones(4)])).float()


def tmr_config(data: str = "humanml3d", **shape: object) -> dict[str, Any]:
    """A config.json of TMR's training, resolved; by default of the golden weights."""
    part = {"vae": True, "latent_dim": 48, "ff_size": 96, "num_layers": 2, "num_heads": 4, "dropout": 0.1}
    part |= {"activation": "gelu"} | shape
    decoder = {name: value for name, value in part.items() if name != "vae"}
    return {
        "run_dir": f"outputs/tmr_{data}_guoh3dfeats",
        "data": {
            "path": f"datasets/annotations/{data}",
            "motion_loader": {
                "_target_": "src.data.motion.AMASSMotionLoader",
                "fps": 20.0,
                "nfeats": 263,
                "normalizer": {"base_dir": f"stats/{data}/guoh3dfeats", "eps": "1e-12"},
            },
            "text_to_token_emb": {"modelname": "distilbert-base-uncased", "preload": True},
        },
        "model": {
            "_target_": "src.model.TMR",
            "motion_encoder": {"_target_": "src.model.ACTORStyleEncoder", "nfeats": 263} | part,
            "text_encoder": {"_target_": "src.model.ACTORStyleEncoder", "nfeats": 768} | part,
            "motion_decoder": {"_target_": "src.model.ACTORStyleDecoder", "nfeats": 263} | decoder,
            "temperature": 0.1,
        },
    }


def write_tmr(
    root: Path, state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, data: str = "humanml3d"
) -> Path:
    """models/tmr_..., with config.json and last_weights/, and stats/ beside it; `state` has the parts' prefixes."""
    folder = root / "models" / f"tmr_{data}_guoh3dfeats"
    (folder / "last_weights").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or tmr_config(data)))
    for part in PARTS["tmr"]:
        own = {name.removeprefix(f"{part}."): t for name, t in state.items() if name.startswith(f"{part}.")}
        if own:
            torch.save(own, folder / "last_weights" / f"{part}.pt")
    stats = root / "stats" / data / "guoh3dfeats"
    stats.mkdir(parents=True)
    for name, values in zip(("mean", "std"), tmr_statistics(), strict=True):
        torch.save(values, stats / f"{name}.pt")
    return folder


def golden_tmr() -> dict[str, Tensor]:
    """Golden vectors of TMR, weights included."""
    return golden("tmr_encoders", "tmr_decoder", "tmr_vectors")


def golden_guo() -> dict[str, Tensor]:
    """Golden weights of the three encoders; what they read and say is in three files of its own."""
    return weights(golden("guo_evaluator_movement", "guo_evaluator_text", "guo_evaluator_motion"))


def write_guo(root: Path, state: Mapping[str, Tensor], *, data: str = "t2m", features: int = 263) -> Path:
    """checkpoints/t2m/text_mot_match/model/finest.tar, the statistics in their place beside it, and glove/."""
    model = "Comp_v6_KLD01" if data == "t2m" else "Comp_v6_KLD005"
    folder = root / "checkpoints" / data / "text_mot_match"
    (folder / "model").mkdir(parents=True)
    content: dict[str, Any] = {"epoch": 27}
    for part in PARTS["guo"]:
        content[part] = {name.removeprefix(f"{part}."): t for name, t in state.items() if name.startswith(f"{part}.")}
    torch.save(content, folder / "model" / "finest.tar")
    meta = folder.parent / model / "meta"
    meta.mkdir(parents=True)
    mean, std = statistics(features, bias=25.0)
    np.save(meta / "mean.npy", mean)
    np.save(meta / "std.npy", std)
    write_glove(root / "glove")
    return folder


def write_glove(folder: Path, words: list[str] | None = None, *, width: int = 300) -> Path:
    """our_vab_data.npy and two pickles of protocol 2, as the published ones are."""
    words = GLOVE_WORDS if words is None else words
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "our_vab_data.npy", np.random.default_rng(0).normal(size=(len(words), width)).astype(np.float32))
    row_of = {word: row for row, word in enumerate(words)}
    (folder / "our_vab_words.pkl").write_bytes(pickle.dumps(words, protocol=2))
    (folder / "our_vab_idx.pkl").write_bytes(pickle.dumps(row_of, protocol=2))
    return folder


def write_distilbert(folder: Path) -> Path:
    """A Hugging Face directory of a DistilBERT of one layer, as wide as the published one."""
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

    from rl_motion.models.text import TinyBertConfig, create_tiny_bert

    create_tiny_bert(["a person walks slowly"], folder / "words", TinyBertConfig(hidden=8, layers=1, heads=2))
    words: Any = AutoTokenizer.from_pretrained(folder / "words")
    made = folder / "distilbert-base-uncased"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"dim": 768, "hidden_dim": 8, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64}
        DistilBertModel(DistilBertConfig(vocab_size=len(words), **shape)).save_pretrained(made)
    words.save_pretrained(made)
    return made


def refused(path: Path, match: str, out: Path, **sources: Path | None) -> None:
    """A conversion is refused in one line, and nothing is left behind."""
    with pytest.raises(UserError, match=match) as caught:
        convert(path, Sources(**sources), out / "new" / "model")
    assert "\n" not in str(caught.value)
    assert not (out / "new").exists()
