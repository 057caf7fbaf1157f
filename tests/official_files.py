"""Files as official code writes them, for tests: names from the authors' own tables and from golden vectors of theirs.

Widths are small: every dimension of the published tables is divided by the same number, which keeps them consistent.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

GOLDEN = Path(__file__).resolve().parent / "golden"
KEPT = {263, 251, 5000, 77, 49408}
"""Dimensions that do not shrink: features, tables, CLIP's positions and words."""
SHRUNK_BY = 16
SHARE = 0.85
"""Of frames in which a foot stands: the deviation of a contact is sqrt(share (1 - share))."""


@cache
def keys(model: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an official state dict at its full size."""
    tables = json.loads(gzip.decompress((GOLDEN / "official_denoiser_keys.json.gz").read_bytes()))
    return {name: tuple(shape) for name, shape in tables[model].items()}


def small(model: str, *, features: int = 263, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors under official names, narrower than the published ones; without CLIP's picture half and words."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in keys(model).items():
        if name.startswith(("clip_model.visual", "clip_model.transformer", "clip_model.token")):
            continue
        sizes = [size if size in KEPT or size < 48 else size // SHRUNK_BY for size in shape]
        sizes = [features if size == 263 else size for size in sizes]
        scale = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "ln.weight")) else 0.05
        state[name] = scale * torch.randn(sizes, generator=generator)
    return state


def golden(*files: str) -> dict[str, Tensor]:
    """Golden vectors of these files."""
    return {name: tensor for file in files for name, tensor in load_file(GOLDEN / f"{file}.safetensors").items()}


def weights(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official state dict of golden vectors."""
    return {name.removeprefix("weights/"): t for name, t in vectors.items() if name.startswith("weights/")}


def write_clip(folder: Path, width: int = 32, *, projection: int | None = None, seed: int = 0) -> Path:
    """A Hugging Face directory of a CLIP with 77 positions, one layer and the words of a few letters."""
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModelWithProjection

    from rl_motion.models.text import TinyBertConfig, create_tiny_bert

    # Its tokenizer alone is of use.
    create_tiny_bert(["a person walks"], folder, TinyBertConfig(hidden=8, layers=1, heads=2, max_tokens=77))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8,
        projection_dim=projection or width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        eos_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
    )
    torch.manual_seed(seed)
    clip = CLIPTextModelWithProjection(config)
    nn.init.normal_(clip.text_model.final_layer_norm.weight)
    clip.save_pretrained(folder)
    return folder


def clip_in_the_file(folder: Path) -> dict[str, Tensor]:
    """What a StableMoFusion checkpoint holds of the CLIP of that directory, under OpenAI's names."""
    stored = load_file(folder / "model.safetensors")
    part = "text_model.final_layer_norm."
    return {f"clip_model.ln_final.{kind}": stored[f"{part}{kind}"].clone() for kind in ("weight", "bias")}


def statistics(features: int = 263, *, bias: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation like a data set's, root and contacts divided by `bias`."""
    mean, std = np.zeros(features), np.full(features, 0.3)
    mean[-4:], std[-4:] = SHARE, (SHARE * (1 - SHARE)) ** 0.5
    for columns in (slice(0, 4), slice(-4, None)):
        std[columns] /= bias
    return mean, std


def write_statistics(folder: Path, pair: tuple[np.ndarray, np.ndarray], *, upper: bool = False) -> Path:
    """Mean.npy and Std.npy of a data set, or mean.npy and std.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in zip(("Mean", "Std") if upper else ("mean", "std"), pair, strict=True):
        np.save(folder / f"{name}.npy", values)
    return folder


OPTIONS = {
    "base_dim": "32",
    "beta_schedule": "linear",
    "cond_mask_prob": "0.1",
    "dataset_name": "t2m",
    "diffusion_steps": "1000",
    "dim_mults": "[2, 2, 2, 2]",
    "feat_bias": "5",
    "is_continue": "False",
    "latent_dim": "512",
    "model_ema": "True",
    "name": "t2m_condunet1d_batch64",
    "no_adagn": "False",
    "no_eff": "False",
    "num_layers": "8",
    "prediction_type": "sample",
    "text_latent_dim": "16",
    "time_dim": "32",
}
"""An opt.txt of StableMoFusion's training, for `small`."""


def write_stablemofusion(folder: Path, content: object, *, features: int = 263, **options: str) -> Path:
    """opt.txt, meta/ and model/latest.tar, which holds `content`."""
    (folder / "model").mkdir(parents=True)
    lines = [f"{key}: {value}" for key, value in sorted((OPTIONS | options).items())]
    header, end = "------------ Options -------------", "-------------- End ----------------"
    (folder / "opt.txt").write_text("\n".join([header, *lines, end, ""]))
    write_statistics(folder / "meta", statistics(features, bias=5.0))
    torch.save(content, folder / "model" / "latest.tar")
    return folder


def optimiser() -> dict[str, object]:
    """What AdamW's state dict looks like."""
    step = {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    return {"state": {0: step}, "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.999), "params": [0], "foreach": None}]}


ARGS = {
    "arch": "trans_enc",
    "batch_size": 64,
    "cond_mask_prob": 0.1,
    "data_dir": "",
    "dataset": "humanml",
    "diffusion_steps": 50,
    "emb_trans_dec": False,
    "lambda_rcxyz": 0.0,
    "latent_dim": 32,
    "layers": 8,
    "noise_schedule": "cosine",
    "sigma_small": True,
    "unconstrained": False,
}
"""An args.json of MDM's first training code, for `small`: what came later is not in it."""


def write_mdm(folder: Path, content: object, *, steps: int = 475000, **args: object) -> Path:
    """args.json and model#########.pt, which holds `content`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.json").write_text(json.dumps(ARGS | args))
    torch.save(content, folder / f"model{steps:09d}.pt")
    return folder


def decoder_of(state: dict[str, Tensor], width: int, ff_size: int, layers: int) -> dict[str, Tensor]:
    """A `trans_enc` state dict as a `trans_dec` one, whose layers are torch's own decoder's."""
    layer = nn.TransformerDecoderLayer(width, 4, ff_size, activation="gelu")
    stack = nn.TransformerDecoder(layer, layers).state_dict()
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("seqTransEncoder.")}
    return kept | {f"seqTransDecoder.{name}": tensor.clone() for name, tensor in stack.items()}


def smpl_config(**denoiser: object) -> dict[str, object]:
    """A config.json of MDM-SMPL's training, resolved, for the golden weights."""
    shape = {
        "_target_": "src.model.mdm_smpl.TransformerDenoiser",
        "nfeats": 205,
        "tx_dim": 512,
        "latent_dim": 64,
        "ff_size": 128,
        "num_layers": 2,
        "num_heads": 4,
        "dropout": 0.1,
        "activation": "gelu",
        "nb_registers": 2,
    }
    normaliser = {"_target_": "src.normalizer.Normalizer", "base_dir": "outputs/stats", "eps": "1e-12"}
    return {
        "run_dir": "outputs/mdm-smpl_clip_smplrifke_humanml3d",
        "data": {
            "motion_loader": {"fps": 20.0, "nfeats": 205},
            "text_encoder": {"modelname": "ViT-B/32", "mean_pooling": False, "nfeats": 512},
        },
        "diffusion": {
            "_target_": "src.model.gaussian.GaussianDiffusion",
            "denoiser": shape | denoiser,
            "schedule": {"_target_": "src.model.schedule.cosine.CosineBetaSchedule", "s": 0.008},
            "motion_normalizer": normaliser,
            "text_normalizer": normaliser,
            "timesteps": 100,
            "prediction": "x",
        },
    }


class Callback:
    """Something of Lightning's that a checkpoint pickles by name."""

    def __init__(self) -> None:
        """Some state."""
        self.best = {"path": "last.ckpt"}


def write_mdm_smpl(folder: Path, state: dict[str, Tensor], config: dict[str, object] | None = None) -> Path:
    """config.json, both folders of statistics, and a Lightning checkpoint that torch's own reader refuses."""
    (folder / "logs" / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or smpl_config()))
    for kind in ("motion", "text"):
        (folder / f"{kind}_stats").mkdir()
        for part in ("mean", "std"):
            if f"{kind}_normalizer.{part}" in state:
                torch.save(state[f"{kind}_normalizer.{part}"], folder / f"{kind}_stats" / f"{part}.pt")
    content = {
        "epoch": 9999,
        "pytorch-lightning_version": "2.0.4",
        "state_dict": state,
        "callbacks": {"ModelCheckpoint": Callback()},
        "optimizer_states": [optimiser()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"callback": Callback(), "lr": 1e-4},
    }
    torch.save(content, folder / "logs" / "checkpoints" / "last.ckpt")
    return folder
