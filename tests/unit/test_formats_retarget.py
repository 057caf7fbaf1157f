"""Any skeleton becomes the 22 joints: units, axes and facing are found, missing joints placed, proportions kept."""

from itertools import product

import numpy as np
import pytest

from rl_motion.config import UserError
from rl_motion.motion.features import joints_to_features
from rl_motion.motion.formats.names import Convention
from rl_motion.motion.formats.recording import Recording
from rl_motion.motion.formats.retarget import Body, face_forward, to_20_fps, to_body
from rl_motion.motion.skeleton import HUMANML3D, JOINT_NAMES, PARENTS, RIGHT_JOINTS
from tests.motion_formats import RIGS, UNITS, UP, rig, turn_y, walk

TOES = [JOINT_NAMES.index("left_foot"), JOINT_NAMES.index("right_foot")]


def arrays(joints_FJ3, fps=20.0):
    return Recording(JOINT_NAMES, PARENTS, joints_FJ3, fps)


def canonical(joints_FJ3):
    return face_forward(joints_FJ3)


@pytest.mark.parametrize(("unit", "up", "facing"), list(product(UNITS, UP, (0, 90, 180, 233))))
def test_units_axes_and_facing_are_found_and_said(unit, up, facing):
    given = (walk() @ turn_y(facing).T + [3.0, 0.4, -2.0]) @ UP[up].T * UNITS[unit]
    body = to_body(arrays(given))
    said = " | ".join(body.guessed)
    assert f"unit {unit}:" in said
    assert f"up axis {up}:" in said
    assert body.wrong == ()
    np.testing.assert_allclose(to_20_fps(body), canonical(walk()), atol=1e-9)


@pytest.mark.parametrize("facing", [0, 120])
def test_cmus_own_unit_is_known(facing):
    body = to_body(arrays(walk() @ turn_y(facing).T / (0.0254 / 0.45)))
    assert any("unit CMU" in line for line in body.guessed)
    np.testing.assert_allclose(to_20_fps(body), canonical(walk()), atol=1e-9)


def test_what_points_down_is_turned_over():
    body = to_body(arrays(walk() * [1.0, -1.0, -1.0]))
    assert any("points down" in line for line in body.wrong)
    np.testing.assert_allclose(to_20_fps(body), canonical(walk()), atol=1e-9)


def test_left_handed_axes_are_mirrored_and_told():
    body = to_body(arrays(walk() * [-1.0, 1.0, 1.0]))
    assert any("toes point backwards" in line for line in body.wrong)
    np.testing.assert_allclose(to_20_fps(body), canonical(walk()), atol=1e-9)


def test_a_body_of_no_known_unit_is_scaled_and_told():
    body = to_body(arrays(walk() * 7000.0))
    assert any("no unit makes that a person" in line for line in body.wrong)
    np.testing.assert_allclose(HUMANML3D.bone_lengths(body.joints_FJ3)[0, 3], 0.39, atol=0.05)


def test_the_up_axis_of_one_who_bends_low_is_unsure():
    upright = to_body(arrays(walk()))
    assert not any("unsure" in line for line in upright.wrong)
    crouched = walk() @ np.array([[1.0, 0, 0], [0, 0.7, -0.7], [0, 0.7, 0.7]]).T
    assert any("unsure" in line for line in to_body(arrays(crouched - crouched[:, :1])).wrong)


@pytest.mark.parametrize("convention", RIGS)
def test_a_rig_keeps_sane_proportions(convention):
    names, parents, positions = rig(convention, walk())
    body = to_body(Recording(tuple(names), tuple(parents), positions * 100.0, 20.0))
    got, want = HUMANML3D.bone_lengths(body.joints_FJ3), HUMANML3D.bone_lengths(walk())
    assert body.wrong == ()
    # What a rig has is where it was; what it lacks is near: bones are half to twice as long as they were.
    present = [joint for joint, name in enumerate(JOINT_NAMES) if name in RIGS[convention]]
    if not {"spine1", "spine2", "spine3"} - set(RIGS[convention]):
        np.testing.assert_allclose(body.joints_FJ3[:, present], walk()[:, present], atol=1e-9)
    ratio = got / want
    assert ratio.min() > 0.4
    assert ratio.max() < 2.5
    assert np.linalg.norm(body.joints_FJ3 - walk(), axis=-1).max() < 0.12
    features = joints_to_features(to_20_fps(body), own_heading=True)
    assert np.isfinite(features).all()


@pytest.mark.parametrize(
    ("convention", "said"),
    [
        ("CMU, cgspeed", "spine1, spine2, spine3: placed between pelvis and neck, where the file has 2 joints"),
        ("CMU, cgspeed", "no left collar"),
        ("Daz", "no right toes: placed before the ankle"),
        ("Bandai-Namco", "where the file has 2 joints"),
        ("Mixamo", "joint names of Mixamo"),
    ],
)
def test_what_was_placed_is_said(convention, said):
    names, parents, positions = rig(convention, walk())
    body = to_body(Recording(tuple(names), tuple(parents), positions, 20.0))
    assert any(said in line for line in body.guessed)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 7])
def test_a_spine_of_any_number_of_joints(count):
    """Joints on a straight line from pelvis to neck: the three stand on it, in order, at the body's own shares."""
    names, parents, positions = rig("LAFAN1", walk())
    keep = [index for index, name in enumerate(names) if not name.startswith("Spine")]
    pelvis, neck = (positions[:, names.index(name)] for name in ("Hips", "Neck"))
    chain = [pelvis + (neck - pelvis) * share for share in np.linspace(0, 1, count + 2)[1:-1]]
    at = {name: positions[:, names.index(name)] for name in (names[index] for index in keep)}
    new = ["Hips", *(f"Spine{k}" for k in range(count)), *(name for name in at if name != "Hips")]
    places = np.stack([at["Hips"], *chain, *(at[name] for name in new[count + 1 :])], axis=1)
    above = {names[i]: names[parents[i]] for i in keep if parents[i] >= 0}
    trunk = new[count]
    new_parents = [-1, *range(count)]
    for name in new[count + 1 :]:
        up = above[name]
        new_parents.append(new.index(trunk if up.startswith("Spine") else up))
    order = sorted(range(len(new)), key=lambda i: _depth(new_parents, i))
    swap = {old: index for index, old in enumerate(order)}
    body = to_body(
        Recording(
            tuple(new[i] for i in order),
            tuple(swap[new_parents[i]] if new_parents[i] >= 0 else -1 for i in order),
            places[:, order],
            20.0,
        )
    )
    spine = [JOINT_NAMES.index(name) for name in ("pelvis", "spine1", "spine2", "spine3", "neck")]
    line = body.joints_FJ3[:, spine] - pelvis[:, None]
    share = (line * (neck - pelvis)[:, None]).sum(-1) / ((neck - pelvis) ** 2).sum(-1)[:, None]
    np.testing.assert_allclose(line, share[..., None] * (neck - pelvis)[:, None], atol=1e-9)
    assert (np.diff(share, axis=1) > 0.05).all()


def _depth(parents, index):
    return 0 if parents[index] < 0 else 1 + _depth(parents, parents[index])


def test_no_head_and_no_neck():
    names, parents, positions = rig("LAFAN1", walk())
    for missing in ("Head", "Neck"):
        keep = [index for index, name in enumerate(names) if name != missing]
        kept = [names[index] for index in keep]
        above = [names[parents[index]] if parents[index] >= 0 else "" for index in keep]
        above = ["Spine2" if name == missing else name for name in above]
        body = to_body(
            Recording(tuple(kept), tuple(kept.index(name) if name else -1 for name in above), positions[:, keep], 20.0)
        )
        assert np.linalg.norm(body.joints_FJ3 - walk(), axis=-1).max() < 0.1
    with pytest.raises(UserError, match="neck or head"):
        keep = [index for index, name in enumerate(names) if name not in {"Neck", "Head"}]
        to_body(Recording(tuple(names[i] for i in keep), (), positions[:, keep], 20.0))


def test_toes_that_are_made_up_point_forward():
    names, parents, positions = rig("Daz", walk())
    made = to_body(Recording(tuple(names), tuple(parents), positions, 20.0)).joints_FJ3
    ankles = [JOINT_NAMES.index("left_ankle"), JOINT_NAMES.index("right_ankle")]
    want, got = walk()[:, TOES] - walk()[:, ankles], made[:, TOES] - made[:, ankles]
    cos = (want * got).sum(-1) / np.linalg.norm(want, axis=-1) / np.linalg.norm(got, axis=-1)
    assert np.degrees(np.arccos(np.median(cos))) < 30


def test_a_coinciding_collar_is_placed_anew_and_a_coinciding_knee_refused():
    joints = walk().copy()
    joints[:, JOINT_NAMES.index("left_collar")] = joints[:, JOINT_NAMES.index("spine3")]
    body = to_body(arrays(joints))
    assert any("no left collar" in line for line in body.guessed)
    assert (HUMANML3D.bone_lengths(body.joints_FJ3) > 0.01).all()
    joints = walk().copy()
    joints[:, JOINT_NAMES.index("right_collar")] = joints[:, JOINT_NAMES.index("right_shoulder")]
    assert any("no right collar" in line for line in to_body(arrays(joints)).guessed)
    joints[:, JOINT_NAMES.index("left_knee")] = joints[:, JOINT_NAMES.index("left_hip")]
    with pytest.raises(UserError, match=r"got 'left_knee' as left_knee where left_hip is; want"):
        to_body(arrays(joints))


def test_names_matched_wrongly_are_told():
    swapped = {name: (name,) for name in JOINT_NAMES} | {"left_wrist": ("left_ankle",), "left_ankle": ("left_wrist",)}
    body = to_body(arrays(walk()), Convention("mine", swapped))
    assert any("times as long as usual" in line for line in body.wrong)


@pytest.mark.parametrize(("fps", "frames"), [(20.0, 60), (120.0, 355), (30.0, 89), (10.0, 30), (12.5, 38)])
def test_the_rate_becomes_20(fps, frames):
    """The same seconds, at 20 frames each; where frames coincide, so do poses."""
    at = np.arange(frames) * 20.0 / fps
    low = np.minimum(np.floor(at).astype(int), 58)
    share = (at - low)[:, None, None]
    given = walk()[low] + share * (walk()[low + 1] - walk()[low])
    body = to_body(arrays(given, fps))
    got = to_20_fps(body)
    assert abs(len(got) / 20 - frames / fps) < 0.06
    assert any("only" in line for line in body.wrong) == (fps < 20)
    if fps >= 20:
        exact = [frame for frame in range(len(got)) if (frame * fps / 20) % 1 < 1e-9]
        np.testing.assert_allclose(
            got[exact], canonical(given)[[round(frame * fps / 20) for frame in exact]], atol=1e-6
        )


def test_a_rate_that_nobody_tells_is_assumed_and_said():
    body = to_body(arrays(walk(), None), assumed_fps=30.0)
    assert body.fps == 30
    assert "30 frames per second: the file does not tell" in body.guessed
    with pytest.raises(UserError, match="frames per second; want at most"):
        to_body(arrays(walk(), 100_000.0))


def test_the_floor_is_zero_and_the_body_faces_forward():
    got = to_20_fps(Body(walk() @ turn_y(77).T + [5.0, -3.0, 2.0], 20.0))
    assert got[..., 1].min() == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(got[0, 0, [0, 2]], 0.0, atol=1e-12)
    right = got[0, RIGHT_JOINTS[0]] - got[0, 1] + got[0, 17] - got[0, 16]
    assert abs(right[2]) < 1e-9
    assert right[0] < 0  # the body's left is +X


def test_no_finite_frame_is_refused():
    with pytest.raises(UserError, match="every frame"):
        to_body(arrays(np.full_like(walk(), np.nan)))
    joints = walk().copy()
    joints[3:5] = np.nan
    assert np.isnan(to_body(arrays(joints)).joints_FJ3[3:5]).all()
