"""Rewards from the working directory: what is loaded, and what is refused with a sentence."""

import sys

import pytest

from rl_motion.config import UserError
from rl_motion.rewards.plugins import is_plugin, load_kind, read_source
from rl_motion.types import MotionForm, Normalisation, Representation

GOOD = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from rl_motion.types import MotionForm, Normalisation, Representation

@dataclass
class Note:
    text: str | None = None

class Base:
    accepts = {MotionForm(Representation.HUMANML3D_263, Normalisation.NONE)}
    differentiable = False
    def __call__(self, motions, prompts, noise_level_B=None):
        return torch.ones(len(prompts))

class MyReward(Base):
    pass
"""


def with_class(body):
    return f"{GOOD}\nclass Odd(Base):\n    {body}\n".encode()


def test_names_tell_plugins_from_the_packages_own():
    assert is_plugin("my_reward.py:MyReward")
    assert not is_plugin("tmr")


@pytest.mark.parametrize("name", ["my_reward.py:MyReward", "sub/folder/my-reward 2.py:MyReward"])
def test_a_class_in_the_working_directory_is_a_reward(tmp_path, name):
    path = tmp_path / name.partition(":")[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(GOOD)
    kind = load_kind(name, read_source(name, tmp_path))
    assert kind.accepts == {MotionForm(Representation.HUMANML3D_263, Normalisation.NONE)}
    assert kind()(None, [1, 2, 3]).tolist() == [1, 1, 1]
    assert list(path.parent.iterdir()) == [path]  # no compiled copy that could differ from what is hashed


def test_a_link_that_stays_inside_is_followed(tmp_path):
    (tmp_path / "real.py").write_text(GOOD)
    (tmp_path / "my.py").symlink_to("real.py")
    assert read_source("my.py:MyReward", tmp_path) == GOOD.encode()


def test_a_working_directory_that_is_a_link_itself_is_fine(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "my.py").write_text(GOOD)
    (tmp_path / "link").symlink_to("real")
    assert read_source("my.py:MyReward", tmp_path / "link") == GOOD.encode()


@pytest.mark.parametrize(
    "name",
    [
        "../outside.py:MyReward",
        "sub/../../outside.py:MyReward",
        "sub/../inside.py:MyReward",
        "./inside.py:MyReward",
        "sub//inside.py:MyReward",
        "{outside}:MyReward",
        "link.py:MyReward",
        "folder/outside.py:MyReward",
        "loop.py:MyReward",
        "nowhere.py:MyReward",
        "directory.py:MyReward",
        "inside.py",
        "inside.py:",
        ":MyReward",
        "inside.txt:MyReward",
        "inside.py:My-Reward",
        "inside.py:My.Reward",
        "inside.py:MyReward:x",
        "in\nside.py:MyReward",
        "inside\0.py:MyReward",
    ],
)
def test_what_is_not_a_file_of_the_working_directory_is_refused(tmp_path, name):
    """Every file that could be meant is there and is a good reward: only where it lies is wrong."""
    here = tmp_path / "work"
    (here / "sub").mkdir(parents=True)
    (here / "directory.py").mkdir()
    for path in (tmp_path / "outside.py", here / "inside.py", here / "inside.txt", here / "sub" / "inside.py"):
        path.write_text(GOOD)
    (here / "link.py").symlink_to(tmp_path / "outside.py")
    (here / "folder").symlink_to(tmp_path)
    (here / "loop.py").symlink_to("loop.py")
    assert read_source("inside.py:MyReward", here) == GOOD.encode()  # control
    with pytest.raises(UserError, match=r"(?s)got .*want .*(copy|correct)"):
        read_source(name.format(outside=tmp_path / "outside.py"), here)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (GOOD.encode(), r"no class 'Odd'.*want one of \['Base', 'MyReward', 'Note'\]"),
        (b"Odd = 3\n", "no class 'Odd'"),
        (b"class Odd: pass\n", "accepts=None"),
        (with_class("accepts = set()"), r"accepts=set\(\)"),
        (with_class("accepts = {Representation.HUMANML3D_263}"), "a set of rl_motion.types.MotionForm"),
        (with_class("accepts = 'humanml3d-263'"), "accepts='humanml3d-263'"),
        (with_class("differentiable = None"), "differentiable=None"),
        (with_class("def __init__(self, model): pass"), "made without any"),
        (with_class("def __call__(self, motions, prompts): pass"), "another __call__"),
        (with_class("def __call__(self): pass"), "another __call__"),
        (GOOD.replace("def __call__", "def score").encode() + b"class Odd(Base): pass\n", "no __call__"),
        (b"from rl_motion.protocols import Reward as Odd\n", "accepts=None"),
        (b"from rl_motion.rewards import TMRReward as Odd\n", "made without any"),
        (b"x = 1\nraise ValueError('no\\nluck')\n", r"ValueError: no luck \(line 2\)"),
        (b"def f():\n    1 / 0\n\nf()\n", r"ZeroDivisionError: .* \(line 2\)"),
        (b"import nothing_of_that_name\n", "ModuleNotFoundError"),
        (b"import sys\nsys.exit(0)\n", "SystemExit"),
        (b"class Odd\n", r"SyntaxError: .* \(line 1\)"),
        (b"a = '\0'\n", "null bytes"),
        (b"a = '\xff'\n", "SyntaxError"),
    ],
)
def test_what_is_no_reward_is_refused(source, words):
    with pytest.raises(UserError, match=rf"(?s)(?=.*got )(?=.*want )(?=.*correct).*{words}"):
        load_kind("my.py:Odd", source)


def test_a_class_that_cannot_be_made_is_refused_where_it_is_made():
    kind = load_kind("my.py:Odd", with_class("def __init__(self): raise OSError('no such weights')"))
    with pytest.raises(UserError, match=r"got .*OSError: no such weights \(line \d+\).*want"):
        kind()


def test_ctrl_c_stays_ctrl_c():
    with pytest.raises(KeyboardInterrupt):
        load_kind("my.py:Odd", b"raise KeyboardInterrupt\n")


def test_a_process_runs_a_source_once_and_another_source_anew():
    source = GOOD.encode() + b"\nimport sys\nsys.test_plugin_runs = getattr(sys, 'test_plugin_runs', 0) + 1\n"
    try:
        first, again = (load_kind("my.py:MyReward", source)() for _ in range(2))
        assert type(first) is type(again)
        assert sys.test_plugin_runs == 1
        assert type(load_kind("my.py:MyReward", source + b"# changed\n")()) is not type(first)
        assert sys.test_plugin_runs == 2
    finally:
        del sys.test_plugin_runs
