"""Every built-in skeleton is known by its names, a map of one's own is read, and an unknown one is told how to be."""

import json

import numpy as np
import pytest

from rl_motion.config import UserError
from rl_motion.motion.formats.bvh import read_bvh
from rl_motion.motion.formats.bvh_write import bvh_text
from rl_motion.motion.formats.names import (
    CONVENTIONS,
    NEEDED,
    UnknownJointsError,
    match_names,
    names_template,
    read_names,
)
from rl_motion.motion.formats.recording import Recording
from rl_motion.motion.inverse import solve
from rl_motion.motion.skeleton import JOINT_NAMES, PARENTS
from tests.motion_formats import RIGS, rig, walk


def recording(names, parents, positions_FJ3, **more):
    return Recording(tuple(names), tuple(parents), positions_FJ3, 20.0, **more)


@pytest.mark.parametrize("convention", RIGS)
def test_a_skeleton_is_known_by_its_names(convention):
    names, parents, positions = rig(convention, walk())
    match = match_names(recording(names, parents, positions))
    assert match.says == convention
    want = {joint: names.index(name) for joint, name in RIGS[convention].items() if not joint.startswith("spine")}
    assert {joint: index for joint, index in match.joints.items() if not joint.startswith("spine")} == want


def test_every_convention_is_tried():
    assert {convention.says for convention in CONVENTIONS} == set(RIGS)


@pytest.mark.parametrize(
    "change",
    [str.lower, str.upper, lambda n: f"Armature:{n}", lambda n: f"actor01_{n}", lambda n: n.replace("Left", "Left_")],
    ids=["lower", "upper", "namespace", "prefix", "separators"],
)
def test_case_separators_and_prefixes_do_not_matter(change):
    names, parents, positions = rig("LAFAN1", walk())
    match = match_names(recording([change(name) for name in names], parents, positions))
    assert match.joints["left_knee"] == names.index("LeftLeg")
    assert len(match.joints) == 19  # all but the spine


def test_ends_of_bones_are_toes_and_hands(tmp_path):
    names, parents, positions = rig("Daz", walk())
    ends = {"lFoot": "lFoot_end", "rFoot": "rFoot_end"}
    toes = [JOINT_NAMES.index("left_foot"), JOINT_NAMES.index("right_foot")]
    names = [*names, *ends.values()]
    parents = [*parents, *(names.index(foot) for foot in ends)]
    positions = np.concatenate([positions, walk()[:, toes]], axis=1)
    count = len(names)
    match = match_names(recording(names, parents, positions, ends=frozenset({count - 2, count - 1})))
    assert match.joints["left_foot"] == count - 2
    assert match.joints["right_foot"] == count - 1
    assert "left_foot is the end of 'lFoot'" in match.notes


STRANGE = {
    name: name.replace("left", "sinistra").replace("right", "dextra").replace("knee", "genu") for name in JOINT_NAMES
}


def test_an_unknown_skeleton_is_listed_with_the_nearest_guess():
    with pytest.raises(UnknownJointsError) as raised:
        match_names(recording(STRANGE.values(), PARENTS, walk()))
    said = str(raised.value)
    assert "'sinistra_genu'" in said
    assert "nearest is SMPL, which lacks left_hip" in said
    assert "; want " in said
    assert "--names" in said
    assert "\n" not in said


def test_the_template_names_what_was_found_and_reads_back(tmp_path):
    names, parents, positions = rig("LAFAN1", walk())
    names = [{"LeftLeg": "LeftLeg2", "RightHand": "RHnd"}.get(name, name) for name in names]
    template = names_template(recording(names, parents, positions))
    assert 'left_hip: "LeftUpLeg"' in template
    assert 'left_knee: "LeftLeg2"  # a guess' in template
    path = tmp_path / "names.yaml"
    path.write_text(template.replace("# right_wrist: ?", "right_wrist: RHnd"))
    assert match_names(recording(names, parents, positions), read_names(path)).joints["left_knee"] == names.index(
        "LeftLeg2"
    )


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_map_of_ones_own_comes_first(tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    given = dict(STRANGE) | {"left_knee": ["patella", "sinistra_genu"]}
    path.write_text(
        json.dumps(given) if suffix == "json" else "\n".join(f"{k}: {json.dumps(v)}" for k, v in given.items())
    )
    match = match_names(recording(STRANGE.values(), PARENTS, walk()), read_names(path))
    assert match.says == f"mine.{suffix}"
    assert [match.joints[name] for name in JOINT_NAMES] == list(range(22))


def test_where_ones_own_does_not_fit_a_built_in_may(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("pelvis: other")
    names, parents, positions = rig("LAFAN1", walk())
    match = match_names(recording(names, parents, positions), read_names(path))
    assert match.says == "LAFAN1"
    assert "mine.yaml does not fit this skeleton; LAFAN1 does" in match.notes


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"pelvis", b"{", b"\xff\xfe\x00", b"pelvs: Hips", b"pelvis: 3", b"pelvis: []", b"pelvis: [Hips, 2]",
     b"3: Hips", b"pelvis: {a: b}", b"!!python/object/apply:os.system [ls]", b"a: &a [*a]", b"\t- x: [", b"[" * 5000],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_map_that_is_none_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"mine.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"got .*; want .*") as raised:
        read_names(path)
    assert "\n" not in str(raised.value)


def test_a_map_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_names(tmp_path / "none.yaml")


def test_every_convention_names_what_is_needed():
    for convention in CONVENTIONS:
        assert set(NEEDED) < set(convention.names), convention.says


def test_the_bvh_that_is_written_here_comes_in_without_a_map(tmp_path):
    path = tmp_path / "own.bvh"
    path.write_text(bvh_text(solve(walk(), 20.0)))
    assert len(match_names(read_bvh(path)).joints) >= 19
