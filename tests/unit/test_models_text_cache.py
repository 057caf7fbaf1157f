"""The cache of text features: the same bits with and without, nothing computed twice, nothing damaged believed."""

import logging
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rl_motion.config import UserError
from rl_motion.models import text_cache
from rl_motion.models.text import TextEncoder
from rl_motion.models.text_cache import Recent, TextCache, cache_bound, cache_folder, make_room, worth_keeping
from tests.small_encoders import save_clip

CAPTIONS = ["A person walks forward.", "jump", ""]
FORMS = ("tokens", "padded_tokens", "pooled")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder, whole=False)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that takes the smallest encoder."""
    monkeypatch.setenv(text_cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(text_cache, "WORTH_BYTES", 1)
    return tmp_path / "cache"


def says(encoder, texts=CAPTIONS):
    tokens_BLC, length_B = encoder.tokens(texts)
    return [tokens_BLC, length_B, encoder.padded_tokens(texts), encoder.pooled(texts)]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def entries(folder):
    return sorted(folder.glob("*/*/*.sealed"))


def no_weights(monkeypatch):
    def refuse(self):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(TextEncoder, "_model", property(refuse))


def test_once_kept_a_text_needs_no_weights_and_has_the_same_bits(clip, cache, monkeypatch):
    monkeypatch.setenv(text_cache.FOLDER, "off")
    without = says(TextEncoder(clip))
    monkeypatch.setenv(text_cache.FOLDER, str(cache))
    first = TextEncoder(clip)
    assert "_model" not in vars(first)  # not before a text is missing
    assert same(says(first), without)
    assert first.computed == 2 * len(CAPTIONS) == len(entries(cache))
    no_weights(monkeypatch)
    second = TextEncoder(clip)
    assert same(says(second), without)
    assert second.computed == 0
    with pytest.raises(AssertionError, match="weights were loaded"):  # negative control: another text
        second.pooled(["run"])


def test_every_text_form_and_circumstance_has_an_entry_of_its_own(clip, cache, monkeypatch, tmp_path):
    TextEncoder(clip).pooled(["a person walks"])
    assert len(entries(cache)) == 1
    again = TextEncoder(clip)
    again.tokens(["a person walks"])  # of the same call
    assert again.computed == 0

    def missing(encoder, form="pooled", text="a person walks"):
        getattr(encoder, form)([text])
        return encoder.computed == 1

    assert missing(TextEncoder(clip), form="padded_tokens")
    assert missing(TextEncoder(clip), text="a person walks ")
    assert missing(TextEncoder(clip, cut=5))
    other = shutil.copytree(clip, tmp_path / "other")
    assert not missing(TextEncoder(other))  # wherever it lies
    weights = load_file(other / "model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + 1e-3}, other / "model.safetensors", metadata={"format": "pt"})
    assert missing(TextEncoder(other))
    words = shutil.copytree(clip, tmp_path / "words")
    text = (words / "tokenizer.json").read_text()
    (words / "tokenizer.json").write_text(text.replace('"Lowercase"', '"NFD"'))
    assert missing(TextEncoder(words))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert missing(TextEncoder(clip))
    finally:
        torch.set_num_threads(threads)
    with torch.autocast("cpu", torch.bfloat16):
        assert missing(TextEncoder(clip))
    monkeypatch.setattr(text_cache, "_machine", lambda: ["another processor"])
    assert missing(TextEncoder(clip))


def test_weights_that_change_between_hashing_and_loading_are_refused(clip, cache, tmp_path):
    """What they say would be kept under the name of others."""
    other = shutil.copytree(clip, tmp_path / "other")
    encoder = TextEncoder(other)
    weights = load_file(other / "model.safetensors")
    (other / "model.safetensors").unlink()
    save_file({n: w + 1.0 for n, w in weights.items()}, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"other, which changed while it was read; want it left alone; start"):
        encoder.pooled(["jump"])
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["bit", "seal", "half", "empty", "other", "folder"])
def test_a_damaged_entry_is_computed_anew_and_mended(clip, cache, damage, caplog):
    want = TextEncoder(clip).pooled(["jump", "walk"])
    one, two = entries(cache)
    content = bytearray(one.read_bytes())
    if damage in ("bit", "seal"):
        content[-1 if damage == "bit" else 0] ^= 1
    one.unlink()
    if damage == "folder":
        one.mkdir()
    else:
        kept = {"half": content[: len(content) // 2], "empty": b"", "other": two.read_bytes()}
        one.write_bytes(kept.get(damage, content))
    encoder = TextEncoder(clip)
    assert torch.equal(encoder.pooled(["jump", "walk"]), want)
    assert encoder.computed == 1
    if damage != "folder":
        assert "damaged; the text is encoded anew" in caplog.text
        assert TextEncoder(clip).pooled(["jump", "walk"]) is not None
        again = TextEncoder(clip)
        again.pooled(["jump", "walk"])
        assert again.computed == 0
    else:
        assert "cannot be kept" in caplog.text


def test_small_encoders_are_left_alone(clip, cache, monkeypatch):
    monkeypatch.setattr(text_cache, "WORTH_BYTES", 16 * 2**20)
    assert not worth_keeping(clip)
    encoder = TextEncoder(clip)
    assert "_model" in vars(encoder)  # whatever is wrong with the weights is said at once
    encoder.pooled(CAPTIONS)
    assert not cache.exists()


def test_without_a_cache_nothing_is_written(clip, cache, monkeypatch):
    monkeypatch.setenv(text_cache.FOLDER, "Off")
    assert not worth_keeping(clip)
    TextEncoder(clip).pooled(CAPTIONS)
    assert not cache.exists()


def test_the_folder_is_the_user_s(monkeypatch, tmp_path):
    monkeypatch.delenv(text_cache.FOLDER, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "rl_motion" / "text-features"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert cache_folder() == tmp_path / "home" / ".cache" / "rl_motion" / "text-features"
    monkeypatch.setenv(text_cache.FOLDER, "~/mine")
    assert cache_folder() == tmp_path / "home" / "mine"
    monkeypatch.setenv(text_cache.FOLDER, "mine")
    with pytest.raises(UserError, match=r"got RL_MOTION_TEXT_CACHE='mine'; want an absolute folder, or off; correct"):
        cache_folder()


def test_the_bound_is_a_number_of_gigabytes(monkeypatch):
    monkeypatch.delenv(text_cache.BOUND, raising=False)
    assert cache_bound() == 8_000_000_000
    monkeypatch.setenv(text_cache.BOUND, "0.5")
    assert cache_bound() == 500_000_000
    for wrong in ("much", "-1", "0", "inf", "nan"):
        monkeypatch.setenv(text_cache.BOUND, wrong)
        with pytest.raises(UserError, match="want a positive number of GB"):
            cache_bound()


def test_over_the_bound_what_was_not_used_for_longest_goes_and_nothing_else(tmp_path):
    shelf = tmp_path / ("e" * 16) / "ab"
    shelf.mkdir(parents=True)
    now = time.time()

    def write(name, age_s):
        (shelf / name).write_bytes(bytes(100))
        os.utime(shelf / name, (now - age_s, now - age_s))

    names = [f"{digit:064x}.sealed" for digit in range(10)]
    for age, name in enumerate(names):
        write(name, age * 1000)
    fresh, stale = (f"{names[0]}.{letter * 32}.partial" for letter in "ab")
    write(fresh, 10)
    write(stale, 10_000)
    for foreign in ("notes.sealed", "holiday.jpg"):
        write(foreign, 1e6)
    make_room(tmp_path, 1000)
    assert {path.name for path in shelf.iterdir()} == {*names, fresh, "notes.sealed", "holiday.jpg"}
    make_room(tmp_path, 999)
    assert {path.name for path in shelf.iterdir()} == {*names[:8], fresh, "notes.sealed", "holiday.jpg"}


def test_a_cache_stays_within_its_bound_and_keeps_what_is_used(tmp_path, caplog):
    cache = TextCache(tmp_path, "e" * 64, {}, bound=20_000)
    kept = {"hidden_LC": torch.zeros(200)}
    cache.put("used", "whole", kept)
    [used] = entries(tmp_path)
    for number in range(40):
        os.utime(used, (0, 0))
        assert cache.get("used", "whole") is not None
        cache.put(str(number), "whole", kept)
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= 20_000
    assert cache.get("39", "whole") is not None
    assert cache.get("0", "whole") is None
    assert caplog.text.count("more text features than") == 1


def test_where_nothing_can_be_written_the_numbers_are_the_same_and_it_is_said_once(clip, cache, caplog):
    want = says(TextEncoder(clip))
    shutil.rmtree(cache)
    cache.write_text("a file, where the folder should be")
    encoder = TextEncoder(clip)
    assert same(says(encoder), want)
    assert encoder.computed == 2 * len(CAPTIONS)
    assert caplog.text.count("cannot be kept") == 1


def test_an_interrupted_write_leaves_nothing(clip, cache, monkeypatch):
    def interrupt(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        TextEncoder(clip).pooled(["jump"])
    assert not [path for path in cache.rglob("*") if path.is_file()]


def write_and_read(folder, number, failures):
    """Another process: the same entries in another order, each read back at once."""
    cache = TextCache(folder, "e" * 64, {}, bound=30_000)
    for step in range(200):
        text = (step * (2 * number + 1)) % 20
        cache.put(str(text), "whole", {"hidden_LC": torch.full((500,), float(text))})
        found = cache.get(str(text), "whole")  # None where another made room meanwhile
        if found is not None and not bool((found["hidden_LC"] == text).all()):
            failures.put(f"{number}: {text}")
    if not cache._writes:
        failures.put(f"{number}: gave up")


def test_many_processes_write_read_and_make_room_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    workers = [context.Process(target=write_and_read, args=(tmp_path, number, failures)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert failures.empty()
    assert entries(tmp_path) and not list(tmp_path.rglob("*.partial"))


def test_memory_holds_what_was_used_last():
    recent = Recent(bound=1000)
    for number in range(3):
        recent.put(str(number), "whole", {"x": torch.zeros(100)})
        assert recent.get("0", "whole") is not None
    assert recent.get("1", "whole") is None
    assert recent.get("2", "whole") is not None
    for _ in range(9):
        recent.put("2", "whole", {"x": torch.zeros(100)})
    assert recent.get("0", "whole") is not None  # the same again takes no more room
    recent.put("huge", "whole", {"x": torch.zeros(1000)})
    assert recent.get("huge", "whole") is not None and recent.get("2", "whole") is None


@pytest.mark.parametrize("form", FORMS)
def test_what_is_handed_out_can_be_changed_without_harm(clip, cache, form):
    encoder = TextEncoder(clip)
    first = getattr(encoder, form)(["jump"])
    first = first[0] if form == "tokens" else first
    want = first.clone()
    first.zero_()
    for other in (encoder, TextEncoder(clip)):
        again = getattr(other, form)(["jump"])
        assert torch.equal(again[0] if form == "tokens" else again, want)


def test_a_mark_of_use_is_not_made_at_every_use(tmp_path, monkeypatch, caplog):
    cache = TextCache(tmp_path, "e" * 64, {}, bound=10**9)
    cache.put("jump", "whole", {"x": torch.zeros(1)})
    [path] = entries(tmp_path)
    marks = []
    monkeypatch.setattr(os, "utime", marks.append)
    cache.get("jump", "whole")
    assert marks == []
    before = time.time() - 2 * 24 * 3600
    monkeypatch.undo()
    os.utime(path, (before, before))
    cache.get("jump", "whole")
    assert path.stat().st_mtime > before + 3600
    assert logging.getLogger("rl_motion.models.text_cache").name not in caplog.text
