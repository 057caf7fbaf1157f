"""Rotations -> a GLB file: glTF 2.0 with a skin, a mesh of octahedral bones and one animation (NumPy).

glTF is as we are: metres, Y up, facing Z+, a node's rotation turns what is beyond it (Khronos, glTF 2.0 specification,
sections 3.7 skins, 3.11 animations, 4 GLB). The nodes rest in a T-pose with their feet on the floor. Rotations of every
node and the place of the hips are given at each frame of the motion and interpolated linearly.
Shape legend: F frames, N nodes, V vertices, T triangles.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_motion.motion.inverse import NODE_CHILDREN, NODE_JOINTS, NODE_NAMES, NODE_PARENTS, Rotations
from rl_motion.motion.rotations import FloatArray
from rl_motion.motion.skeleton import LEFT_JOINTS, RIGHT_JOINTS

_FLOAT, _UBYTE, _USHORT = 5126, 5121, 5123
_VERTICES, _INDICES = 34962, 34963
_COMPONENT: dict[int, type[np.generic]] = {_FLOAT: np.float32, _UBYTE: np.uint8, _USHORT: np.uint16}
_MATERIALS: dict[str, tuple[float, float, float]] = {
    "body": (0.045, 0.055, 0.075),
    "left": (0.70, 0.09, 0.015),
    "right": (0.015, 0.16, 0.68),
}
"""Linear RGB of the viewer's colours."""
_WAIST = 0.2
"""How far along a bone its octahedron is widest."""
_THIN, _THICK_M = 0.11, 0.055
"""Half of its width: a share of the length, at most so many metres."""


def glb_bytes(rotations: Rotations, title: str, prompt: str) -> bytes:
    """The content of a GLB file.

    Args:
        rotations: of the motion.
        title: name of its animation.
        prompt: kept with the frame rate in the `extras` of the asset and the animation.
    """
    binary = _Binary()
    rest_N3 = _rest(rotations)
    nodes: list[dict[str, Any]] = []
    for node, (name, children) in enumerate(zip(NODE_NAMES, NODE_CHILDREN, strict=True)):
        place = rest_N3[node] if node == 0 else rotations.offsets_N3[node]
        nodes.append({"name": name, "translation": _plain(place)} | ({"children": list(children)} if children else {}))
    extras = {"prompt": prompt, "fps": rotations.fps}
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "rl-motion", "extras": extras},
        "scene": 0,
        "scenes": [{"name": "Motion", "nodes": [0]}],
        "nodes": nodes,
        "animations": [{"name": title, **_animation(binary, rotations), "extras": extras}],
    }
    # glTF has no mesh without triangles: a body that is one point is a skeleton alone.
    if primitives := _primitives(binary, rotations, rest_N3):
        joints = list(range(len(NODE_NAMES)))
        binds = binary.add(_inverse_binds(rest_N3), "MAT4", _FLOAT)
        document["scenes"][0]["nodes"].append(len(nodes))
        nodes.append({"name": "Body", "mesh": 0, "skin": 0})
        document["skins"] = [{"name": "Skeleton", "skeleton": 0, "joints": joints, "inverseBindMatrices": binds}]
        document["meshes"] = [{"name": "Bones", "primitives": primitives}]
        document["materials"] = [_material(name, colour) for name, colour in _MATERIALS.items()]
    document["accessors"] = binary.accessors
    document["bufferViews"] = binary.views
    document["buffers"] = [{"byteLength": len(binary.content)}]
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
    chunks = _chunk(b"JSON", text, b" ") + _chunk(b"BIN\0", bytes(binary.content), b"\0")
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _material(name: str, colour: tuple[float, float, float]) -> dict[str, Any]:
    surface = {"baseColorFactor": [*colour, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.75}
    return {"name": name, "pbrMetallicRoughness": surface}


def _chunk(kind: bytes, content: bytes, padding: bytes) -> bytes:
    whole = content + padding * (-len(content) % 4)
    return struct.pack("<I4s", len(whole), kind) + whole


@dataclass
class _Binary:
    """The one buffer, with the accessors that describe it: each starts at a multiple of four bytes."""

    content: bytearray = field(default_factory=bytearray)
    accessors: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)

    def add(self, values: NDArray[Any], kind: str, component: int, target: int | None = None) -> int:
        """Add an array, one element a row, and return its accessor."""
        stored = np.ascontiguousarray(values, dtype=np.dtype(_COMPONENT[component]).newbyteorder("<"))
        raw = stored.tobytes()
        view = {"buffer": 0, "byteOffset": len(self.content), "byteLength": len(raw)}
        self.views.append(view | ({"target": target} if target is not None else {}))
        self.content += raw + b"\0" * (-len(raw) % 4)
        accessor = {
            "bufferView": len(self.views) - 1, "componentType": component, "count": len(stored), "type": kind,
            "min": _plain(stored.reshape(len(stored), -1).min(axis=0)),
            "max": _plain(stored.reshape(len(stored), -1).max(axis=0)),
        }  # fmt: skip
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def _plain(values: NDArray[Any]) -> list[float] | list[int]:
    """Numbers for JSON: the very float32 that a reader finds in the buffer."""
    numbers: list[float] | list[int] = values.tolist()
    return numbers


def _rest(rotations: Rotations) -> FloatArray:
    """Places [N, 3] of the nodes in the rest pose, the lowest of them or of their tips on the floor."""
    places_N3 = np.zeros((len(NODE_NAMES), 3))
    for node, parent in enumerate(NODE_PARENTS[1:], start=1):
        places_N3[node] = places_N3[parent] + rotations.offsets_N3[node]
    lowest = min([places_N3[:, 1].min(), *(places_N3[node, 1] + tip[1] for node, tip in rotations.tips.items())])
    places_N3[:, 1] -= lowest
    return places_N3


def _inverse_binds(rest_N3: FloatArray) -> FloatArray:
    """Column-major matrices [N, 16] that take the rest pose's world to each node."""
    matrices_N16 = np.tile(np.eye(4).reshape(-1), (len(rest_N3), 1))
    matrices_N16[:, 12:15] = -rest_N3
    return matrices_N16


def _animation(binary: _Binary, rotations: Rotations) -> dict[str, Any]:
    frames = len(rotations.root_F3)
    times = binary.add(np.arange(frames) / rotations.fps, "SCALAR", _FLOAT)
    values = [(0, "translation", binary.add(rotations.root_F3, "VEC3", _FLOAT))]
    for node in range(len(NODE_NAMES)):
        xyzw_F4 = np.roll(rotations.local_FN4[:, node], -1, axis=-1)
        values.append((node, "rotation", binary.add(xyzw_F4, "VEC4", _FLOAT)))
    return {
        "samplers": [{"input": times, "output": output, "interpolation": "LINEAR"} for _, _, output in values],
        "channels": [
            {"sampler": number, "target": {"node": node, "path": path}} for number, (node, path, _) in enumerate(values)
        ],
    }


def _primitives(binary: _Binary, rotations: Rotations, rest_N3: FloatArray) -> list[dict[str, Any]]:
    """One primitive per colour; a bone follows the node that turns it."""
    shapes: dict[str, list[tuple[FloatArray, int]]] = {name: [] for name in _MATERIALS}
    for node, parent in enumerate(NODE_PARENTS):
        if parent >= 0 and rotations.offsets_N3[node].any():
            shapes[_side(NODE_JOINTS[node])].append((_octahedron(rest_N3[parent], rest_N3[node]), parent))
    for node, tip in rotations.tips.items():
        if tip.any():
            shapes[_side(NODE_JOINTS[node])].append((_octahedron(rest_N3[node], rest_N3[node] + tip), node))
    primitives = []
    for material, (_, bones) in enumerate(shapes.items()):
        if not bones:
            continue
        corners_T33 = np.concatenate([triangles for triangles, _ in bones])
        normals_T3 = np.cross(corners_T33[:, 1] - corners_T33[:, 0], corners_T33[:, 2] - corners_T33[:, 0])
        normals_T3 /= np.linalg.norm(normals_T3, axis=-1, keepdims=True)
        joints_V4 = np.zeros((3 * len(corners_T33), 4))
        joints_V4[:, 0] = np.concatenate([np.full(3 * len(triangles), node) for triangles, node in bones])
        attributes = {
            "POSITION": binary.add(corners_T33.reshape(-1, 3), "VEC3", _FLOAT, _VERTICES),
            "NORMAL": binary.add(np.repeat(normals_T3, 3, axis=0), "VEC3", _FLOAT, _VERTICES),
            "JOINTS_0": binary.add(joints_V4, "VEC4", _UBYTE, _VERTICES),
            "WEIGHTS_0": binary.add(np.tile([1.0, 0, 0, 0], (len(joints_V4), 1)), "VEC4", _FLOAT, _VERTICES),
        }
        indices = binary.add(np.arange(len(joints_V4)), "SCALAR", _USHORT, _INDICES)
        primitives.append({"attributes": attributes, "indices": indices, "material": material})
    return primitives


def _side(joint: int) -> str:
    return "left" if joint in LEFT_JOINTS else "right" if joint in RIGHT_JOINTS else "body"


def _octahedron(start_3: FloatArray, end_3: FloatArray) -> FloatArray:
    """Triangles [8, 3, 3] of a bone, counter-clockwise seen from outside, as modelling programs draw bones."""
    length = float(np.linalg.norm(end_3 - start_3))
    along = (end_3 - start_3) / length
    helper = np.eye(3)[int(np.argmin(np.abs(along)))]
    first = np.cross(along, helper)
    first /= np.linalg.norm(first)
    second = np.cross(along, first)
    wide = min(_THIN * length, _THICK_M) + 0.006
    middle = start_3 + _WAIST * (end_3 - start_3)
    ring = [middle + wide * way for way in (first, second, -first, -second)]
    faces = []
    for corner in range(4):
        one, next_one = ring[corner], ring[(corner + 1) % 4]
        faces += [(start_3, next_one, one), (end_3, one, next_one)]
    triangles_T33: FloatArray = np.array(faces)
    return triangles_T33
