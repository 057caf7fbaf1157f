"""Published judges that are damaged, pickles that would run something: one clear line, and nothing is left behind."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest
import torch

from rl_motion.config import UserError
from rl_motion.models.official.guo import read_glove
from rl_motion.models.official.pickles import read_plain_pickle
from tests import official_judges as official
from tests.official_files import weights
from tests.official_judges import refused

pytestmark = pytest.mark.usefixtures("one_thread")
GOT_WANT_DO = r"(?s)^got .*; want .*; \w+ .*"


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory):
    return official.write_distilbert(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def tmr_state():
    return weights(official.golden_tmr())


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_of_words_runs_nothing(tmp_path):
    mark = tmp_path / "went off"
    path = official.write_guo(tmp_path, official.golden_guo())
    for name in ("our_vab_words.pkl", "our_vab_idx.pkl"):
        before = (tmp_path / "glove" / name).read_bytes()
        for protocol in (0, 2, 4):
            (tmp_path / "glove" / name).write_bytes(
                pickle.dumps([*official.GLOVE_WORDS, Bomb(mark)], protocol=protocol)
            )
            refused(path, r"names (posix|nt)\.mkdir", tmp_path)
        (tmp_path / "glove" / name).write_bytes(before)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()  # control: another reader runs it


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_are_read_whatever_their_protocol(tmp_path, protocol):
    held = {"words": ["a", "\u00e9"], "row": {"a": 0, "b": 70_000}, "array": np.arange(3), "number": np.int64(5)}
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(held, protocol=protocol))
    found = read_plain_pickle(tmp_path / "plain.pkl")
    assert found.pop("array").tolist() == held.pop("array").tolist()
    assert found == held


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"not a pickle",
        pickle.dumps(list(range(99)))[:-9],
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x02]q\x00(h\x05e.",
    ],
    ids=["empty", "cut", "text", "half", "greedy", "unknown memory"],
)
def test_damaged_pickles_are_refused(tmp_path, content):
    (tmp_path / "words.pkl").write_bytes(content)
    with pytest.raises(UserError, match=GOT_WANT_DO) as caught:
        read_plain_pickle(tmp_path / "words.pkl")
    assert "\n" not in str(caught.value)


def _tar(path, change):
    file = path / "model" / "finest.tar"
    content = torch.load(file, weights_only=True)
    change(content)
    torch.save(content, file)


def _nan(content):
    content["text_encoder"]["hidden"][0, 0, 0] = torch.nan


def _wider(content):
    content["motion_encoder"]["gru.weight_ih_l0"] = torch.zeros(150, 48)


def _narrower(content):
    content["movement_encoder"]["main.0.weight"] = torch.zeros(40, 100, 4)


GUO_DAMAGE = {
    "no part": (lambda c: c.pop("text_encoder"), "want tensors by name under text_encoder"),
    "no tensor": (lambda c: c["motion_encoder"].pop("hidden"), r"1 tensors \(motion_encoder.hidden\) missing"),
    "extra": (lambda c: c["text_encoder"].update(x=torch.zeros(1)), r"1 tensors \(text_encoder.x\) unknown"),
    "another width": (_wider, r"gru.weight_ih_l0 of shape \(150, 48\).*want \(144, 48\)"),
    "another data set": (_narrower, "of 104 features"),
    "not finite": (_nan, "finite"),
}


@pytest.mark.parametrize("damage", GUO_DAMAGE)
def test_a_damaged_evaluator_is_refused(tmp_path, damage):
    change, match = GUO_DAMAGE[damage]
    path = official.write_guo(tmp_path, official.golden_guo())
    _tar(path, change)
    refused(path, match, tmp_path)


def test_a_truncated_evaluator_is_no_known_checkpoint_or_refused(tmp_path):
    path = official.write_guo(tmp_path, official.golden_guo())
    file = path / "model" / "finest.tar"
    content = file.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        refused(path, GOT_WANT_DO, tmp_path)


GLOVE_DAMAGE = {
    "no unk": ({"words": ["sos", "eos", "a"]}, r"without \['unk'\]"),
    "words twice": ({"words": [*official.GLOVE_WORDS, "a"]}, "words twice"),
    "no rows": ({"row_of": {"unk": 0}}, "no row for 13 words"),
    "a row outside": ({"row_of": dict.fromkeys(official.GLOVE_WORDS, 99)}, "no row for 14 words"),
    "words that are numbers": ({"words": [1, 2, 3]}, "no list of words"),
    "another width": ({"width": 50}, "300 numbers per word are due"),
    "not finite": ({"value": np.nan}, "NaN or infinities"),
    "a missing file": ({"remove": "our_vab_idx.pkl"}, "without our_vab_idx.pkl"),
    "cut vectors": ({"cut": 1000}, "cannot be read"),
    "pickled vectors": ({"objects": True}, "cannot be read"),
}


@pytest.mark.parametrize("damage", GLOVE_DAMAGE)
def test_damaged_word_vectors_are_refused(tmp_path, damage):
    given, match = GLOVE_DAMAGE[damage]
    path = official.write_guo(tmp_path, official.golden_guo())
    glove = official.write_glove(tmp_path / "glove", width=given.get("width", 300))
    data = glove / "our_vab_data.npy"
    for key, name in (("words", "words"), ("row_of", "idx")):
        if key in given:
            (glove / f"our_vab_{name}.pkl").write_bytes(pickle.dumps(given[key]))
    if "value" in given:
        rows = np.load(data)
        rows[3, 7] = given["value"]
        np.save(data, rows)
    if "objects" in given:
        np.save(data, np.array([[Bomb(tmp_path / "went off")]], dtype=object), allow_pickle=True)
    if "cut" in given:
        data.write_bytes(data.read_bytes()[: given["cut"]])
    if "remove" in given:
        (glove / given["remove"]).unlink()
    refused(path, match, tmp_path)
    assert not (tmp_path / "went off").exists()


def test_vectors_that_claim_to_be_huge_ask_for_no_memory(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**38, 300)})
    official.write_glove(tmp_path)
    (tmp_path / "our_vab_data.npy").write_bytes(header.getvalue() + bytes(4000))
    with pytest.raises(UserError, match="cannot be read"):
        read_glove(tmp_path, 300)


def _without(config, *path):
    *above, last = path
    for key in above:
        config = config[key]
    del config[last]


def _set(config, value, *path):
    *above, last = path
    for key in above:
        config = config[key]
    config[last] = value


def _all(config, value, name):
    for part in official.PARTS["tmr"]:
        _set(config, value, "model", part, name)


TMR_DAMAGE = {
    "205 features": (lambda c: _set(c, 205, "model", "motion_encoder", "nfeats"), "got 205 features at 20 fps"),
    "relu": (lambda c: _set(c, "relu", "model", "text_encoder", "activation"), "not with gelu"),
    "no variance": (lambda c: _set(c, False, "model", "motion_encoder", "vae"), "without a variance"),
    "two widths": (lambda c: _set(c, 64, "model", "text_encoder", "latent_dim"), "of several widths"),
    "another width": (lambda c: _all(c, 64, "latent_dim"), "of shape"),
    "odd heads": (lambda c: _all(c, 5, "num_heads"), "make no network"),
    "a text": (lambda c: _set(c, "6", "model", "motion_encoder", "num_layers"), "num_layers '6'"),
    "a huge number": (lambda c: _set(c, 10**9, "model", "motion_encoder", "num_layers"), "want 1 to"),
    "many layers": (lambda c: _all(c, 10**4, "num_layers"), "want at most"),
    "no layers": (lambda c: _without(c, "model", "motion_encoder", "num_layers"), "without 'model.motion_encoder"),
}


@pytest.mark.parametrize("damage", TMR_DAMAGE)
def test_a_tmr_of_another_configuration_is_refused(tmp_path, tmr_state, distilbert, damage):
    change, match = TMR_DAMAGE[damage]
    config = official.tmr_config()
    change(config)
    refused(official.write_tmr(tmp_path, tmr_state, config), match, tmp_path, text_encoder=distilbert)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ("missing file", "without last_weights/text_encoder.pt"),
        ("missing tensor", r"1 tensors \(text_encoder.tokens\) missing"),
        ("cut", "text_encoder.pt that cannot be read"),
        ("nan", "finite"),
        ("list", "which holds list"),
        ("not json", "which is no checkpoint that is known"),
    ],
)
def test_a_damaged_tmr_is_refused(tmp_path, tmr_state, distilbert, damage, match):
    path = official.write_tmr(tmp_path, tmr_state)
    file = path / "last_weights" / "text_encoder.pt"
    state = torch.load(file, weights_only=True)
    if damage == "missing file":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:500])
    elif damage == "list":
        torch.save([1, 2], file)
    elif damage == "not json":
        (path / "config.json").write_text("{")
    else:
        if damage == "missing tensor":
            del state["tokens"]
        else:
            state["tokens"][0, 0] = torch.inf
        torch.save(state, file)
    refused(path, match, tmp_path, text_encoder=distilbert)
