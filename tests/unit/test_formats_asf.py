"""ASF and AMC are read as they say: a hand-made arm in closed form, a whole body, and clear errors."""

import numpy as np
import pytest

from rl_motion.config import UserError
from rl_motion.motion.formats.asf_amc import find_asf, read_amc
from rl_motion.motion.formats.retarget import to_body
from rl_motion.motion.skeleton import JOINT_NAMES
from tests.motion_formats import RIGS, asf_amc, rotation, walk

ASF = """# by hand
:version 1.10
:name arm
:units
  mass 1.0
  length 1.0
  angle deg
:root
  order TX TY TZ RX RY RZ
  axis XYZ
  position 0 0 0
  orientation 0 0 0
:bonedata
  begin
    id 1
    name upper
    direction 1 0 0
    length 2
    axis 0 0 90 XYZ
    dof rx ry rz
    limits (-10 10)
           (-10 10)
           (-10 10)
  end
  begin
    id 2
    name lower
    direction 0 1 0
    length 3
    axis 0 0 0 XYZ
    dof rz
  end
:hierarchy
  begin
    root upper
    upper lower
  end
"""
AMC = """#!OML
:FULLY-SPECIFIED
:DEGREES
1
root 0 0 0 0 0 0
upper 0 0 0
lower 0
2
root 1 2 3 0 0 90
upper 0 0 0
lower 0
3
root 0 0 0 0 0 0
upper 90 0 0
lower 90
"""


def write(folder, asf=ASF, amc=AMC, names=("arm.asf", "arm.amc")):
    for name, text in zip(names, (asf, amc), strict=True):
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / names[1]


def test_a_turned_arm_is_where_it_must_be(tmp_path):
    got = read_amc(write(tmp_path))
    assert got.names == ("root", "upper", "lower", "lower_end")
    assert got.parents == (-1, 0, 1, 2)
    assert got.ends == {3}
    assert got.fps is None
    # Frame 3: `upper` turns 90 degrees about its own x, which is the world's y (axis 0 0 90): x becomes -z.
    want = [
        [[0, 0, 0], [0, 0, 0], [2, 0, 0], [2, 3, 0]],
        [[1, 2, 3], [1, 2, 3], [1, 4, 3], [-2, 4, 3]],
        [[0, 0, 0], [0, 0, 0], [0, 0, -2], [0, 0, 1]],
    ]
    np.testing.assert_allclose(got.positions_FJ3, want, atol=1e-12)


def test_fixed_axes_turn_in_the_order_written(tmp_path):
    amc = AMC.replace("root 1 2 3 0 0 90", "root 0 0 0 20 -40 100")
    got = read_amc(write(tmp_path, amc=amc)).rotations_FJ33[1, 0]
    np.testing.assert_allclose(got, rotation("Z", 100) @ rotation("Y", -40) @ rotation("X", 20), atol=1e-12)
    other = read_amc(write(tmp_path, ASF.replace("RX RY RZ", "RZ RY RX"), amc.replace("20 -40 100", "100 -40 20")))
    np.testing.assert_allclose(
        other.rotations_FJ33[1, 0], rotation("X", 20) @ rotation("Y", -40) @ rotation("Z", 100), atol=1e-12
    )


def test_radians_are_radians(tmp_path):
    asf, amc = ASF.replace("angle deg", "angle rad").replace("0 0 90 XYZ", "0 0 1.5707963267948966 XYZ"), AMC
    amc = amc.replace(":DEGREES", ":RADIANS").replace("90", "1.5707963267948966")
    want = read_amc(write(tmp_path)).positions_FJ3
    np.testing.assert_allclose(read_amc(write(tmp_path, asf, amc)).positions_FJ3, want, atol=1e-12)


def test_a_walk_comes_back(tmp_path):
    asf, amc = asf_amc(walk(), 1 / (0.0254 / 0.45))
    body = to_body(read_amc(write(tmp_path, asf, amc)), assumed_fps=20.0)
    assert body.wrong == ()
    assert any("unit CMU" in line for line in body.guessed)
    assert any("joint names of CMU, ASF" in line for line in body.guessed)
    exact = [i for i, name in enumerate(JOINT_NAMES) if name in RIGS["CMU, ASF"] and "collar" not in name]
    moving = [i for i in exact if JOINT_NAMES[i].partition("_")[2] not in ("shoulder", "elbow", "wrist")]
    np.testing.assert_allclose(body.joints_FJ3[:, moving], walk()[:, moving], atol=1e-6)
    # A clavicle spans two bones of the 22, whose ends are not always equally far apart.
    assert np.linalg.norm(body.joints_FJ3[:, exact] - walk()[:, exact], axis=-1).max() < 0.03


def test_the_skeleton_is_the_one_of_its_name(tmp_path):
    for name in ("02.asf", "02_03.asf", "other.asf", "02_03.amc", "02_04.amc", "99_01.amc"):
        (tmp_path / name).write_text("")
    assert find_asf(tmp_path / "02_03.amc").name == "02_03.asf"
    assert find_asf(tmp_path / "02_04.amc").name == "02.asf"
    with pytest.raises(UserError, match=r"3 skeletons, none of which has its name.*want 99_01.asf or 99.asf"):
        find_asf(tmp_path / "99_01.amc")
    for name in ("02.asf", "02_03.asf"):
        (tmp_path / name).unlink()
    assert find_asf(tmp_path / "99_01.amc").name == "other.asf"
    (tmp_path / "other.asf").unlink()
    with pytest.raises(UserError, match="no skeleton"):
        find_asf(tmp_path / "99_01.amc")


@pytest.mark.parametrize(
    ("asf", "amc", "said"),
    [
        (ASF.replace("root upper", "root").replace("r lower", "r lower\n lower upper"), AMC, "2 bones that do not"),
        (ASF.replace("upper lower", "upper root"), AMC, "'root' below 'upper'"),
        (ASF.replace("upper lower", "upper lower\n    root lower"), AMC, "'lower' below 'root'"),
        (ASF.replace("upper lower", "upper third"), AMC, "'third', which :bonedata"),
        (ASF.replace("    upper lower\n", ""), AMC, "do not hang on root, 'lower'"),
        (ASF.replace("name lower", "name upper"), AMC, "'upper'"),
        (ASF.replace("    length 2\n", ""), AMC, "without length"),
        (ASF.replace("direction 1 0 0", "direction 1 nan 0"), AMC, "3 finite numbers"),
        (ASF.replace("0 0 90 XYZ", "0 0 90 XYY"), AMC, "three angles"),
        (ASF.replace("dof rx ry rz", "dof rx rx rz"), AMC, "each once"),
        (ASF[:100], AMC, "no bones"),
        (ASF, AMC.replace("\nlower 90\n", "\n"), "frame 3 without 'lower'"),
        (ASF, AMC.replace("upper 90 0 0", "upper 90 0"), "3 numbers"),
        (ASF, AMC.replace("3\nroot", "4\nroot"), "frame '4' after 2 frames"),
        (ASF, AMC.replace("lower 90", "elbow 90"), "'elbow', which the skeleton"),
        (ASF, AMC.replace("lower 90", "lower 90\nlower 90"), "a second time"),
        (ASF, AMC[:30], "no frames"),
        (ASF, AMC.replace("root 0 0 0 0 0 0\n", "").replace("root 1 2 3 0 0 90\n", ""), "without root"),
        (ASF, AMC.replace("1\nroot", "root", 1), "the number of a frame"),
    ],
)  # fmt: skip
def test_errors_name_the_place(tmp_path, asf, amc, said):
    with pytest.raises(UserError, match=said) as raised:
        read_amc(write(tmp_path, asf, amc))
    assert ", line " in str(raised.value)
    assert "; want " in str(raised.value)
    assert "\n" not in str(raised.value)
