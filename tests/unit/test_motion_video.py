"""Pictures, GIFs and videos: what is drawn is the motion, at its rate, and foreign text stays in its place."""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys

import numpy as np
import pytest
from PIL import Image

from rl_motion.config import UserError
from rl_motion.data.actions import perform
from rl_motion.data.embedded import splits
from rl_motion.motion.formats import drawing
from rl_motion.motion.formats.drawing import HEIGHT, WIDTH, Film, readable
from rl_motion.motion.formats.video import durations_ms, find_ffmpeg, gif_bytes, write_mp4
from rl_motion.motion.skeleton import JOINT_NAMES

CLAIMS = {claim.action: claim for part in ("source/train", "target/train") for claim in splits()[part]}
HOSTILE = "../<b>x</b> \u202e\u0007 " + "word " * 80 + "W" * 300
FAKE = """#!{python}
import sys
frames = sys.stdin.buffer.read()
if {code}:
    sys.exit("no such encoder\\nIt failed." if {code} == 1 else {code})
where = sys.argv[-1].removeprefix("file:")
open(where, "wb").write(str(len(frames)).encode() + b" " + " ".join(sys.argv[1:]).encode())
"""


def motion(action, frames=12):
    return np.asarray(perform(CLAIMS[action], frames, np.random.default_rng(3)), float)


def pixels(picture):
    return np.asarray(picture).astype(int)


def like(picture, colour, within=20):
    """Which pixels [H, W] have about that colour, below the title and above the legend."""
    found = np.abs(pixels(picture) - np.array(colour)).max(-1) < within
    found[: drawing._TITLE_HEIGHT] = False
    found[HEIGHT - drawing._FOOT_HEIGHT :] = False
    return found


def standing(**places):
    """One frame of a standing body with some joints elsewhere."""
    joints = motion("walk", 2)[:1].copy()
    for name, place in places.items():
        joints[0, JOINT_NAMES.index(name)] = place
    return joints


def test_both_sides_are_there_in_their_colours_and_on_their_side():
    picture = Film(motion("walk"), 20.0, "x").picture(0)
    assert picture.size == (WIDTH, HEIGHT)
    left, right = like(picture, drawing._LEFT, 60), like(picture, drawing._RIGHT, 60)
    assert left.sum() > 300
    assert right.sum() > 300
    # Seen from the front: the body's left is on the right.
    assert np.nonzero(left)[1].mean() > np.nonzero(right)[1].mean()


def test_a_motion_that_travels_stays_in_the_picture():
    walk = np.repeat(motion("walk", 2)[:1], 60, axis=0)
    walk[..., 2] += np.linspace(0, 12, 60)[:, None]
    film = Film(walk, 20.0, "x")
    for frame in (0, 30, 59):
        body = like(film.picture(frame), drawing._LEFT, 60)
        rows, columns = np.nonzero(body)
        assert 0.2 * WIDTH < columns.mean() < 0.8 * WIDTH
        assert len(rows) > 300


def test_what_is_nearer_hides_what_is_farther():
    """A left hand before the chest is seen, one behind it is not."""
    chest = motion("walk", 2)[0, JOINT_NAMES.index("spine3")]
    seen = []
    for ahead in (0.45, -0.45):
        toward = np.array([np.sin(0.6), 0.1, np.cos(0.6)]) * ahead
        film = Film(standing(left_elbow=chest + toward, left_wrist=chest + toward), 20.0, "x")
        x, y = film._camera(0).see(chest + toward)[:2] / drawing._FINE
        around = like(film.picture(0), drawing._LEFT, 110)[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5]
        seen.append(around.mean())
    assert seen[0] > 0.9
    assert seen[1] < 0.1


def test_text_stays_above_the_scene_whatever_it_is():
    joints = motion("walk")
    plain, hostile, none = (pixels(Film(joints, 20.0, title).picture(3)) for title in ("a", HOSTILE, ""))
    scene = slice(drawing._TITLE_HEIGHT, None)
    assert np.array_equal(plain[scene], hostile[scene])
    assert np.array_equal(plain[scene], none[scene])
    assert not np.array_equal(plain, hostile)
    ink = hostile[: drawing._TITLE_HEIGHT].sum(-1) < 600
    assert not ink[:, : drawing._MARGIN - 2].any()
    assert not ink[:, WIDTH - drawing._MARGIN + 2 :].any()


@pytest.mark.parametrize(
    ("text", "shown"),
    [("A  caf\u00e9\n walk", "A cafe walk"), ("\u65e5\u672c", "??"), ("a\u0007b\u202ec", "a?b?c"), ("", "")],
)
def test_letters_that_the_font_lacks_are_said_to_be(text, shown):
    assert readable(text) == shown


def test_a_motion_that_flies_away_or_meets_the_lens_is_drawn():
    for place in (1e9, -1e9, 3.0):
        joints = motion("walk")
        joints[6:] += place
        for frame in (0, 6, 11):
            assert Film(joints, 20.0, "x").picture(frame).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("fps", [20.0, 12.5, 30.0, 120.0])
def test_a_gif_lasts_as_long_as_its_motion(fps):
    shown = durations_ms(60, fps)
    assert len(shown) == 60
    assert all(one % 10 == 0 and one >= 20 for one in shown)
    if fps <= 50:
        assert abs(sum(shown) - 700 - 60_000 / fps) <= 10


def test_a_gif_has_every_frame_of_a_motion_that_moves():
    joints = motion("jump")
    gif = Image.open(io.BytesIO(gif_bytes(Film(joints, 12.5, "jump"))))
    assert (gif.n_frames, gif.info["loop"], gif.info["duration"]) == (12, 0, 80)
    for frame in (0, 6):
        gif.seek(frame)
        want = pixels(Film(joints, 12.5, "jump").picture(frame))
        got = pixels(gif.convert("RGB"))
        assert np.abs(got - want).mean() < 3  # 64 colours


def fake(folder, code=0):
    """A program `ffmpeg` that writes down what it was given, or fails."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "ffmpeg"
    program.write_text(FAKE.format(python=sys.executable, code=code))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_ffmpeg_gets_every_frame_and_the_rate(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(fake(tmp_path / "bin").parent))
    path = tmp_path / "made" / "-odd name%d.mp4"
    write_mp4(path, Film(motion("walk"), 12.5, HOSTILE), find_ffmpeg())
    size, _, arguments = path.read_text().partition(" ")
    assert int(size) == 12 * WIDTH * HEIGHT * 3
    assert "-r 12.5 -i pipe:0" in arguments
    assert HOSTILE not in arguments
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("code", "says"), [(1, "It failed."), (7, "it said nothing")])
def test_an_ffmpeg_that_fails_leaves_nothing(tmp_path, code, says):
    with pytest.raises(UserError, match=says):
        write_mp4(tmp_path / "made/x.mp4", Film(motion("walk"), 20.0, "x"), str(fake(tmp_path / "bin", code)))
    assert not (tmp_path / "made").exists()


def test_a_file_that_was_there_stays_when_drawing_is_interrupted(tmp_path, monkeypatch):
    path = tmp_path / "x.mp4"
    path.write_bytes(b"before")

    def interrupted(self, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(Film, "picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_mp4(path, Film(motion("walk"), 20.0, "x"), str(fake(tmp_path / "bin")))
    assert path.read_bytes() == b"before"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bin", "x.mp4"]


def test_no_ffmpeg_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no ffmpeg .*; install it"):
        find_ffmpeg()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_a_real_ffmpeg_makes_an_mp4(tmp_path):
    write_mp4(tmp_path / "x.mp4", Film(motion("walk"), 12.5, "walk"), find_ffmpeg())
    assert (tmp_path / "x.mp4").read_bytes()[4:8] == b"ftyp"
    assert os.listdir(tmp_path) == ["x.mp4"]
