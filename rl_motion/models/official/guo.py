"""Guo et al.'s evaluator as they publish it (EricGuo5513/text-to-motion, MIT; CVPR 2022).

    checkpoints/t2m/text_mot_match/model/finest.tar   {movement_encoder, text_encoder, motion_encoder, epoch}
    checkpoints/t2m/Comp_v6_KLD01/meta/{mean,std}.npy its statistics (KIT-ML: checkpoints/kit, Comp_v6_KLD005)
    glove/our_vab_{data.npy,words.pkl,idx.pkl}        word vectors

MDM's download has the same evaluator, with the statistics in dataset/{t2m,kit}_{mean,std}.npy. The statistics are a
data set's with the deviation of the root's four columns and of the contacts' four divided by 25. They are taken as they
are, and never computed from a data set's own, which may be of another release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rl_motion.config import UserError
from rl_motion.models.denoiser import MotionSpace
from rl_motion.models.evaluator import END, START, UNKNOWN
from rl_motion.models.guo import CONTACTS, Guo, GuoConfig
from rl_motion.models.guo_published import MOST_WORDS, POS, GloveVocabulary, PublishedEvaluator
from rl_motion.models.official.denoisers import HUMANML3D, KIT_ML, DataSet
from rl_motion.models.official.judges import Judge, own_space, without_weights
from rl_motion.models.official.layout import Inspection, Layout, Sources
from rl_motion.models.official.pickles import read_plain_pickle
from rl_motion.models.official.reading import damaged, dimension, read_torch, read_vector, state_dict_of
from rl_motion.models.zoo import save_evaluator
from rl_motion.types import Normalisation

_PARTS = ("movement_encoder", "text_encoder", "motion_encoder")
_DATA = {HUMANML3D.features: HUMANML3D, KIT_ML.features: KIT_ML}
_META = {HUMANML3D.features: ("t2m", "Comp_v6_KLD01"), KIT_ML.features: ("kit", "Comp_v6_KLD005")}
"""Width -> the data set's short name, and the model whose folder has the evaluator's statistics."""
_GLOVE = "our_vab"
_UP = 4
"""Folders above the checkpoint's where glove/ may be."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A checkpoint as read, the folder that it is in, and the data set of its width."""

    folder: Path
    data: DataSet
    judge: Judge[Guo]


def _recognise(path: Path) -> bool:
    try:
        weights = _weights(path)
        content = read_torch(weights) if weights.is_file() and weights.suffix == ".tar" else None
    except (OSError, UserError):
        return False
    return isinstance(content, Mapping) and any(part in content for part in _PARTS)


def _inspect(path: Path) -> Inspection:
    return _read(path).judge.inspection()


def _convert(path: Path, folder: Path, sources: Sources) -> None:
    found = _read(path)
    network, space = found.judge.filled(), _space(found.folder, found.data, sources.stats)
    glove = sources.glove or _own_glove(found.folder)
    if glove is None:
        raise UserError(
            f"got no word vectors; want the glove/ folder of the evaluator's repository ({_GLOVE}_data.npy, "
            f"{_GLOVE}_words.pkl, {_GLOVE}_idx.pkl), with which it was trained; add --glove DIR"
        )
    vocabulary, words_VW = read_glove(glove, network.config.word_size)
    save_evaluator(folder, PublishedEvaluator(network, vocabulary, words_VW, space), half=False)


LAYOUT = Layout("text_mot_match/model/finest.tar (the Guo evaluator)", _recognise, _inspect, _convert)


def read_glove(folder: Path, width: int) -> tuple[GloveVocabulary, Tensor]:
    """The words of a GloVe folder, and their vectors [V, width] in the same order.

    Raises:
        UserError: a file is missing or damaged, the three do not fit each other, or the width or a mark is another's.
    """
    file = {part: folder / f"{_GLOVE}_{part}" for part in ("data.npy", "words.pkl", "idx.pkl")}
    missing = [path.name for path in file.values() if not path.is_file()]
    if missing:
        raise UserError(f"got {folder} without {', '.join(missing)}; want all three of glove/; copy the folder whole")
    try:
        rows_VW = np.load(file["data.npy"], mmap_mode="r", allow_pickle=False)
    except Exception as error:  # what a damaged header makes numpy raise, nobody lists
        raise damaged(file["data.npy"], error) from error
    if not isinstance(rows_VW, np.ndarray):
        raise damaged(file["data.npy"], "an archive of arrays")
    words, row_of = read_plain_pickle(file["words.pkl"]), read_plain_pickle(file["idx.pkl"])
    if rows_VW.ndim != 2 or rows_VW.shape[1] != width or rows_VW.dtype.kind != "f":
        raise damaged(file["data.npy"], f"{rows_VW.dtype} {rows_VW.shape}, where {width} numbers per word are due")
    _refuse_other_words(folder, words, row_of, len(rows_VW))
    marks = (UNKNOWN, START, END)
    ordered = [*marks, *(word for word in words if word not in marks)]
    vectors_VW = torch.from_numpy(rows_VW[[int(row_of[word]) for word in ordered]].astype(np.float32))
    if not bool(vectors_VW.isfinite().all()):
        raise damaged(file["data.npy"], "NaN or infinities among the vectors")
    return GloveVocabulary(ordered), vectors_VW


def _refuse_other_words(folder: Path, words: object, row_of: object, rows: int) -> None:
    """Refuse what is no list of words with a row each; raises UserError."""
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or not isinstance(row_of, dict):
        raise damaged(folder / f"{_GLOVE}_words.pkl", "no list of words, or no dict from words to rows beside it")
    unplaced = [word for word in words if not _is_row(row_of.get(word), rows)]
    absent = [mark for mark in (UNKNOWN, START, END) if mark not in words]
    if unplaced or absent or len(set(words)) != len(words):
        what = f"no row for {len(unplaced)} words" if unplaced else f"without {absent}" if absent else "words twice"
        raise UserError(
            f"got a vocabulary in {folder} with {what}; want each word once, a row for each, and {UNKNOWN}, {START} "
            f"and {END} among them; take all three files of glove/ from the evaluator's repository"
        )


def _is_row(row: object, rows: int) -> bool:
    return isinstance(row, int | np.integer) and 0 <= int(row) < rows


def _weights(path: Path) -> Path:
    """The file of weights, from itself, its folder, or the data set's folder."""
    if path.suffix == ".tar":
        return path
    here, below = path / "model" / "finest.tar", path / "text_mot_match" / "model" / "finest.tar"
    return below if below.is_file() else here


def _read(path: Path) -> _Found:
    weights = _weights(path)
    content = read_torch(weights)
    tensors: dict[str, Tensor] = {}
    for part in _PARTS:
        state = state_dict_of(weights, content, part)
        tensors |= {f"{part}.{name}": tensor for name, tensor in state.items()}
    shape = _shape(tensors)
    data = _DATA.get(shape.features)
    if data is None:
        raise UserError(
            f"got an evaluator of {shape.features} features in {weights}; want {' or '.join(map(str, _DATA))}, as "
            "published; no other is read here"
        )
    folder, network = weights.absolute().parent.parent, without_weights(weights, lambda: Guo(shape))
    what = "Guo et al.'s evaluator, text-motion matching"
    return _Found(folder, data, Judge(weights, network, tensors, what, _facts(shape, data), _options(folder, data)))


def _options(folder: Path, data: DataSet) -> tuple[str, ...]:
    """What a conversion must be given: the sources that are not in their place."""
    missing = {"--stats": _own_meta(folder, data) is None, "--glove": _own_glove(folder) is None}
    return tuple(option for option, is_missing in missing.items() if is_missing)


def _facts(shape: GuoConfig, data: DataSet) -> dict[str, str]:
    return {
        "network": f"movement {shape.movement_latent}, motion biGRU {shape.motion_hidden}, text biGRU "
        f"{shape.text_hidden}, {shape.coembedding} channels of the common space",
        "data set": str(data),
        "normalisation": f"{Normalisation.EVALUATOR}: its own mean and std, root and contacts divided by 25; "
        "it reads motion that is not normalised",
        "frames": f"canvas of {shape.max_frames}, as the convolutions see its padding; whole segments of 4; "
        f"the {CONTACTS} contacts are not read",
        "text": f"GloVe words of {shape.word_size} numbers and {len(POS)} parts of speech, at most {MOST_WORDS} words",
        "embeddings": "in the order given; the official wrapper returns them by falling length",
        "use": "it judges, and is never a reward",
        "licence": "MIT (code)",
    }


def _shape(tensors: Mapping[str, Tensor]) -> GuoConfig:
    """From the weights themselves, where they tell; else the published one, from which they then differ by name."""
    published = GuoConfig()
    return GuoConfig(
        features=dimension(tensors, "movement_encoder.main.0.weight", 1, published.features - CONTACTS) + CONTACTS,
        movement_latent=dimension(tensors, "movement_encoder.out_net.weight", 0, published.movement_latent),
        motion_hidden=dimension(tensors, "motion_encoder.input_emb.weight", 0, published.motion_hidden),
        text_hidden=dimension(tensors, "text_encoder.input_emb.weight", 0, published.text_hidden),
        coembedding=dimension(tensors, "motion_encoder.output_net.3.weight", 0, published.coembedding),
        word_size=dimension(tensors, "text_encoder.input_emb.weight", 1, published.word_size),
        pos_size=len(POS),
    )


def _space(folder: Path, data: DataSet, stats: Path | None) -> MotionSpace:
    pair = _own_meta(folder, data) if stats is None else _statistics_in(stats, data)
    if pair is None:
        name, model = _META[data.features]
        raise UserError(
            f"got {stats or folder} without the evaluator's statistics; want mean.npy and std.npy of {model}/meta, or "
            f"MDM's {name}_mean.npy and {name}_std.npy; add --stats DIR with these"
        )
    mean_D, std_D = (read_vector(path) for path in pair)
    return own_space(pair[0].parent, mean_D, std_D, data, Normalisation.EVALUATOR)


def _own_meta(folder: Path, data: DataSet) -> tuple[Path, Path] | None:
    """The statistics that the official evaluation reads, if the checkpoint is in its place; else those beside it."""
    beside = folder.parent / _META[data.features][1] / "meta"
    return _statistics_in(beside, data) or _statistics_in(folder / "meta", data)


def _statistics_in(folder: Path, data: DataSet) -> tuple[Path, Path] | None:
    for prefix in (f"{_META[data.features][0]}_", ""):
        pair = folder / f"{prefix}mean.npy", folder / f"{prefix}std.npy"
        if all(path.is_file() for path in pair):
            return pair
    return None


def _own_glove(folder: Path) -> Path | None:
    """The official repository's folder of word vectors, if the checkpoint is in its place there."""
    above = list(folder.parents)[:_UP]
    return next((path / "glove" for path in above if (path / "glove" / f"{_GLOVE}_data.npy").is_file()), None)
