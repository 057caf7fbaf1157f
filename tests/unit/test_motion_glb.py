"""GLB as written: taken apart by a reader of its own, whose kinematics and skinning must find the joints."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from rl_motion.data.actions import perform
from rl_motion.data.embedded import splits
from rl_motion.motion.formats.glb import glb_bytes
from rl_motion.motion.inverse import NODE_NAMES, solve

CLAIMS = {claim.action: claim for part in ("source/train", "target/train") for claim in splits()[part]}
PROMPT = 'a person <b>waves</b> "twice" \u00e9 \u65e5\u672c \U0001f600'
TYPES = {5126: "<f4", 5123: "<u2", 5121: "u1"}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Glb:
    """A file's two chunks, its arrays and what its animation says."""

    def __init__(self, content):
        magic, version, length = struct.unpack_from("<4sII", content)
        assert (magic, version, length) == (b"glTF", 2, len(content))
        size, kind = struct.unpack_from("<I4s", content, 12)
        assert kind == b"JSON"
        assert size % 4 == 0
        self.tree = json.loads(content[20 : 20 + size])
        rest = 20 + size
        size, kind = struct.unpack_from("<I4s", content, rest)
        assert kind == b"BIN\0"
        assert size % 4 == 0
        assert rest + 8 + size == len(content)
        self.binary = content[rest + 8 :]
        assert self.tree["buffers"] == [{"byteLength": len(self.binary)}]

    def array(self, number):
        accessor = self.tree["accessors"][number]
        view = self.tree["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        kind, width = np.dtype(TYPES[accessor["componentType"]]), WIDTHS[accessor["type"]]
        assert view["byteLength"] == accessor["count"] * width * kind.itemsize
        assert view["byteOffset"] + view["byteLength"] <= len(self.binary)
        values = np.frombuffer(self.binary, kind, accessor["count"] * width, view["byteOffset"]).reshape(-1, width)
        assert np.array_equal(values.min(0), np.array(accessor["min"], kind))
        assert np.array_equal(values.max(0), np.array(accessor["max"], kind))
        return values

    def worlds(self, frame):
        """The matrix [4, 4] of each node in the world at a frame of the animation, None the rest pose."""
        local = [np.eye(4) for _ in self.tree["nodes"]]
        for matrix, node in zip(local, self.tree["nodes"], strict=True):
            matrix[:3, 3] = node.get("translation", (0, 0, 0))
        (animation,) = self.tree["animations"]
        for channel in animation["channels"] if frame is not None else ():
            sampler = animation["samplers"][channel["sampler"]]
            value = self.array(sampler["output"])[frame].astype(float)
            matrix = local[channel["target"]["node"]]
            if channel["target"]["path"] == "translation":
                matrix[:3, 3] = value
            else:
                matrix[:3, :3] = turn(*value)
        worlds = {}

        def visit(node, parent):
            worlds[node] = parent @ local[node]
            for child in self.tree["nodes"][node].get("children", ()):
                visit(child, worlds[node])

        for root in self.tree["scenes"][self.tree["scene"]]["nodes"]:
            visit(root, np.eye(4))
        return worlds

    def skinned(self, frame):
        """Every vertex of the mesh in the world: the specification's skinning."""
        (skin,) = self.tree["skins"]
        binds = self.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)  # column-major
        worlds = self.worlds(frame)
        matrices = np.stack([worlds[node] @ bind for node, bind in zip(skin["joints"], binds, strict=True)])
        found = []
        for primitive in self.tree["meshes"][0]["primitives"]:
            places = self.array(primitive["attributes"]["POSITION"])
            which, weights = (self.array(primitive["attributes"][name]) for name in ("JOINTS_0", "WEIGHTS_0"))
            assert np.allclose(weights.sum(1), 1)
            blended = (weights[..., None, None] * matrices[which]).sum(1)
            found.append((blended @ np.concatenate([places, np.ones((len(places), 1))], 1)[..., None])[:, :3, 0])
        return np.concatenate(found)


def turn(x, y, z, w):
    """The rotation matrix of glTF's (x, y, z, w), from the definition v -> q v q*."""
    assert w * w + x * x + y * y + z * z == pytest.approx(1, abs=1e-5)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def motion(action, frames=24):
    return np.asarray(perform(CLAIMS[action], frames, np.random.default_rng(3)), float)


@pytest.fixture(scope="module", params=["wave", "spin", "squat"])
def case(request):
    rotations = solve(motion(request.param), 12.5)
    return rotations, Glb(glb_bytes(rotations, "01-wave", PROMPT))


def test_the_animation_puts_every_node_where_the_joints_are(case):
    rotations, glb = case
    want, _ = rotations.nodes()
    for frame in (0, 7, 23):
        worlds = glb.worlds(frame)
        got = np.stack([worlds[node][:3, 3] for node in range(len(NODE_NAMES))])
        np.testing.assert_allclose(got, want[frame], atol=2e-6)
    names = [node["name"] for node in glb.tree["nodes"][: len(NODE_NAMES)]]
    assert names == list(NODE_NAMES)


def test_the_mesh_follows_the_bones(case):
    rotations, glb = case
    want, _ = rotations.nodes()
    for frame in (0, 23):
        vertices = glb.skinned(frame)
        for joint in range(len(NODE_NAMES)):
            assert np.linalg.norm(vertices - want[frame, joint], axis=-1).min() < 1e-5
        # Nothing of it is far from all bones: fingers, toes and the crown are the farthest.
        near = np.linalg.norm(vertices[:, None] - want[frame][None], axis=-1).min(1)
        assert near.max() < 0.25


def test_a_mesh_bound_to_the_wrong_nodes_would_be_noticed(case):
    rotations, glb = case
    glb.tree["skins"][0]["joints"] = glb.tree["skins"][0]["joints"][::-1]
    want, _ = rotations.nodes()
    far = [np.linalg.norm(glb.skinned(23) - place, axis=-1).min() for place in want[23]]
    glb.tree["skins"][0]["joints"] = glb.tree["skins"][0]["joints"][::-1]
    assert max(far) > 0.05


def test_the_rest_pose_is_a_t_pose_on_the_floor(case):
    _, glb = case
    worlds = glb.worlds(None)
    places = {name: worlds[node][:3, 3] for node, name in enumerate(NODE_NAMES)}
    low = min(place[1] for place in places.values())
    assert -1e-9 < low < 0.05
    assert places["LeftHand"][0] > 0.5 > -0.5 > places["RightHand"][0]
    assert places["LeftHand"][1] == pytest.approx(places["LeftArm"][1])
    assert places["Head"][1] > 1.3
    assert glb.skinned(None)[:, 1].min() >= -0.03


def test_all_arrays_are_as_described_and_faces_look_outwards(case):
    _, glb = case
    for number in range(len(glb.tree["accessors"])):
        assert np.isfinite(glb.array(number).astype(float)).all()
    for primitive in glb.tree["meshes"][0]["primitives"]:
        places, normals = (glb.array(primitive["attributes"][name]).astype(float) for name in ("POSITION", "NORMAL"))
        triangles = places[glb.array(primitive["indices"])[:, 0]].reshape(-1, 3, 3)
        across = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        across /= np.linalg.norm(across, axis=-1, keepdims=True)
        np.testing.assert_allclose(np.repeat(across, 3, axis=0), normals, atol=1e-4)
        middles = triangles.reshape(-1, 8 * 3, 3).mean(1)  # eight faces a bone
        outwards = triangles.mean(1) - np.repeat(middles, 8, axis=0)
        assert ((outwards * across).sum(-1) > 0).all()


def test_rate_and_prompt_are_in_the_file(case):
    _, glb = case
    (animation,) = glb.tree["animations"]
    times = glb.array(animation["samplers"][0]["input"])[:, 0]
    np.testing.assert_allclose(times, np.arange(24) / 12.5, atol=1e-6)
    assert animation["extras"] == glb.tree["asset"]["extras"] == {"prompt": PROMPT, "fps": 12.5}
    assert animation["name"] == "01-wave"
    assert len(animation["channels"]) == len(NODE_NAMES) + 1


def test_one_frame_and_a_body_that_is_a_point_are_files_too():
    one = Glb(glb_bytes(solve(motion("wave")[:1], 20.0), "x", "one"))
    assert len(one.array(0)) > 0
    point = Glb(glb_bytes(solve(np.zeros((2, 22, 3)), 20.0), "x", "none"))
    assert "meshes" not in point.tree
    assert all("mesh" not in node for node in point.tree["nodes"])
    assert np.allclose([world[:3, 3] for world in point.worlds(1).values()], 0)


def test_quaternions_stay_in_one_half_space(case):
    _, glb = case
    (animation,) = glb.tree["animations"]
    for channel in animation["channels"]:
        values = glb.array(animation["samplers"][channel["sampler"]]["output"]).astype(float)
        if channel["target"]["path"] == "rotation":
            assert ((values[1:] * values[:-1]).sum(1) > 0).all()
