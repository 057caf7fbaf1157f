"""`rl-motion sample` with every format at once, from the command line to the files."""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rl_motion.cli import app
from rl_motion.motion.formats.bvh import read_bvh
from rl_motion.motion.formats.exports import Export
from rl_motion.motion.formats.retarget import to_body
from rl_motion.motion.inverse import bone_lengths

PROMPTS = ["a person walks", "../../a <b>person</b> jumps"]
NAMES = ["01-a-person-walks-1", "01-a-person-walks-2", "02-a-b-person-b-jumps-1", "02-a-b-person-b-jumps-2"]


@pytest.fixture
def ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own where it has one, else a stand-in that swallows the frames."""
    if shutil.which("ffmpeg"):
        return
    program = tmp_path / "bin/ffmpeg"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsize = len(sys.stdin.buffer.read())\n"
        'open(sys.argv[-1].removeprefix("file:"), "wb").write(b"\\0\\0\\0 ftypisom" + str(size).encode())\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


@pytest.mark.usefixtures("ffmpeg")
def test_sample_writes_every_format(model: Path, tmp_path: Path) -> None:
    place = tmp_path / "made"
    command = ["sample", "--model", str(model), "--samples", "2", "--length", "12"]
    for prompt in PROMPTS:
        command += ["--prompt", prompt]
    every = [word for kind in Export for word in ("--format", str(kind))]
    ended = CliRunner().invoke(app, [*command, "--out", str(place / "some.html"), *every])
    assert ended.exit_code == 0, ended.output
    for line in ("motions:", "joints:", "arrays:", "BVH:", "GLB:", "GIF:", "MP4:"):
        assert line in ended.stdout
    assert {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()} == {
        "some.html", "some.npy", "some.npz",
        *(f"some/{name}.{kind}" for name in NAMES for kind in ("bvh", "glb", "gif", "mp4")),
    }  # fmt: skip
    joints_BFJ3 = np.load(place / "some.npy", allow_pickle=False)
    assert joints_BFJ3.shape == (4, 12, 22, 3)
    page = (place / "some.html").read_text()
    assert "a person walks" in page
    assert "<b>person" not in page
    for name in NAMES:
        recording = read_bvh(place / f"some/{name}.bvh")
        assert (len(recording.positions_FJ3), recording.fps) == (12, 20.0)
        glb = (place / f"some/{name}.glb").read_bytes()
        assert struct.unpack_from("<4sII", glb) == (b"glTF", 2, len(glb))
        with Image.open(place / f"some/{name}.gif") as gif:
            assert gif.n_frames > 1
        assert (place / f"some/{name}.mp4").read_bytes()[4:8] == b"ftyp"

    # The first motion's proportions for all of them.
    skeleton = place / f"some/{NAMES[0]}.bvh"
    again = ["--out", str(place / "same"), "--format", "bvh", "--skeleton", str(skeleton)]
    ended = CliRunner().invoke(app, [*command, *again])
    assert ended.exit_code == 0, ended.output
    want = bone_lengths(to_body(read_bvh(skeleton)).joints_FJ3)
    for name in NAMES:
        got = bone_lengths(to_body(read_bvh(place / f"same/{name}.bvh")).joints_FJ3)
        np.testing.assert_allclose(got, want, atol=1e-4)
