"""Motion files made by hand: writers that share no code with the readers, and bodies that move.

A walk of the embedded world, with constant bones, is written as other programs would: other names, fewer or more
joints, other units, axes and orders of rotations.
"""

from functools import cache

import numpy as np

from rl_motion.motion.skeleton import JOINT_NAMES, PARENTS

AXES = "XYZ"
UNITS = {"m": 1.0, "cm": 100.0, "mm": 1000.0, "inch": 1 / 0.0254}
UP = {"Y": np.eye(3), "Z": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])}
"""From Y up to this axis up."""


@cache
def walk(frames=60, action="walk"):
    """[F, 22, 3] at 20 fps, constant bones, metres, Y up."""
    from rl_motion.data.actions import perform
    from rl_motion.data.embedded import splits

    claims = {c.action: c for part in ("source/train", "target/train") for c in splits()[part]}
    joints = np.asarray(perform(claims[action], frames, np.random.default_rng(5)), np.float64)
    joints.setflags(write=False)
    return joints


def turn_y(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def rotation(axis, degrees):
    """About one axis, written out."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array({
        "X": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "Y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "Z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }[axis], dtype=float)  # fmt: skip


def euler(matrix_33, order):
    """Degrees about the axes of an order such as ZXY, of R = Rz Rx Ry."""
    a, b, c = (AXES.index(axis) for axis in order)
    sign = 1.0 if (b - a) % 3 == 1 else -1.0
    m = matrix_33
    first = np.arctan2(-sign * m[..., b, c], m[..., c, c])
    second = np.arcsin(np.clip(sign * m[..., a, c], -1, 1))
    third = np.arctan2(-sign * m[..., a, b], m[..., a, a])
    return np.degrees(np.stack([first, second, third], axis=-1))


def between(start_3, end_F3):
    """The shortest rotations [F, 3, 3] of one direction to others (Rodrigues)."""
    u = start_3 / np.linalg.norm(start_3)
    v = end_F3 / np.linalg.norm(end_F3, axis=-1, keepdims=True)
    out = np.empty((len(v), 3, 3))
    for frame, w in enumerate(v):
        axis, cos = np.cross(u, w), float(u @ w)
        if cos < -0.999999:
            across = np.cross(u, [1.0, 0, 0] if abs(u[0]) < 0.9 else [0, 1.0, 0])
            across /= np.linalg.norm(across)
            out[frame] = 2 * np.outer(across, across) - np.eye(3)
            continue
        k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
        out[frame] = np.eye(3) + k + k @ k / (1 + cos)
    return out


def tree_text(nodes, frame_time, rows):
    """BVH of (name, parent, offset, channels) in any order that has parents first; leaves get an End Site."""

    def block(index, depth):
        name, parent, offset, channels = nodes[index]
        pad = "\t" * depth
        yield f"{pad}{'ROOT' if parent < 0 else 'JOINT'} {name}"
        yield pad + "{"
        yield f"{pad}\tOFFSET {' '.join(f'{v:.8f}' for v in offset)}"
        yield f"{pad}\tCHANNELS {len(channels)} {' '.join(channels)}"
        below = [i for i, node in enumerate(nodes) if node[1] == index]
        for child in below:
            yield from block(child, depth + 1)
        if not below:
            yield from (f"{pad}\tEnd Site", f"{pad}\t{{", f"{pad}\t\tOFFSET 0 0 0.0001", f"{pad}\t}}")
        yield pad + "}"

    values = "\n".join(" ".join(f"{value:.8f}" for value in row) for row in rows)
    head = "\n".join(block(0, 0))
    return f"HIERARCHY\n{head}\nMOTION\nFrames: {len(rows)}\nFrame Time: {frame_time:.8f}\n{values}\n"


def depth_first(parents):
    def below(index):
        yield index
        for child, parent in enumerate(parents):
            if parent == index:
                yield from below(child)

    return list(below(parents.index(-1)))


def placed_bvh(names, parents, positions_FJ3, fps=20.0):
    """BVH whose joints have positions of their own and no rotation: any motion, whatever its bones do."""
    order = depth_first(parents)
    channels = [f"{axis}position" for axis in AXES] + [f"{axis}rotation" for axis in "ZXY"]
    nodes, columns = [], []
    for index in order:
        parent = parents[index]
        local_F3 = positions_FJ3[:, index] - (positions_FJ3[:, parent] if parent >= 0 else 0.0)
        nodes.append((names[index], order.index(parent) if parent >= 0 else -1, local_F3[0], channels))
        columns.append(np.concatenate([local_F3, np.zeros((len(local_F3), 3))], axis=1))
    return tree_text(nodes, 1 / fps, np.concatenate(columns, axis=1))


def turned_bvh(joints_FJ3, order="ZXY", fps=20.0, names=JOINT_NAMES):
    """BVH of the 22 joints whose bones are turned, each by a joint of its own where it begins; bones are frame 0's."""
    rest_J3 = joints_FJ3[0] - joints_FJ3[0, list(PARENTS)]
    rest_J3[0] = 0.0
    rotations = [f"{axis}rotation" for axis in order]
    nodes = [(names[0], -1, np.zeros(3), [*(f"{axis}position" for axis in AXES), *rotations])]
    columns = [np.concatenate([joints_FJ3[:, 0], np.zeros((len(joints_FJ3), 3))], axis=1)]
    world = {0: np.broadcast_to(np.eye(3), (len(joints_FJ3), 3, 3))}
    place = {0: 0}
    for joint in depth_first(PARENTS)[1:]:
        parent = PARENTS[joint]
        world[joint] = between(rest_J3[joint], joints_FJ3[:, joint] - joints_FJ3[:, parent])
        local = np.swapaxes(world[parent], -1, -2) @ world[joint]
        nodes.append((f"turn_{names[joint]}", place[parent], np.zeros(3), rotations))
        columns.append(euler(local, order))
        place[joint] = len(nodes)
        nodes.append((names[joint], len(nodes) - 1, rest_J3[joint], rotations))
        columns.append(np.zeros((len(joints_FJ3), 3)))
    # Nodes are parents first, but rows must be depth first, as the text is.
    order_of = depth_first([node[1] for node in nodes])
    return tree_text(nodes, 1 / fps, np.concatenate([columns[index] for index in order_of], axis=1))


SIDES = ("left", "right")
LIMBS = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist")


def sided(left, right, parts):
    """Names of the limbs; `-` leaves one out."""
    return {
        f"{side}_{limb}": pattern.format(part)
        for side, pattern in zip(SIDES, (left, right), strict=True)
        for limb, part in zip(LIMBS, parts.split(), strict=True)
        if part != "-"
    }


def spine(*names):
    return {f"spine{number}": name for number, name in enumerate(names, start=1)}


RIGS = {
    "CMU, cgspeed": {
        "pelvis": "Hips", **sided("Left{}", "Right{}", "UpLeg Leg Foot ToeBase - Arm ForeArm Hand"),
        **spine("Spine", "Spine1"), "neck": "Neck1", "head": "Head",
    },
    "Mixamo": {
        "pelvis": "mixamorig:Hips",
        **sided("mixamorig:Left{}", "mixamorig:Right{}", "UpLeg Leg Foot ToeBase Shoulder Arm ForeArm Hand"),
        **spine("mixamorig:Spine", "mixamorig:Spine1", "mixamorig:Spine2"),
        "neck": "mixamorig:Neck", "head": "mixamorig:Head",
    },
    "LAFAN1": {
        "pelvis": "Hips", **sided("Left{}", "Right{}", "UpLeg Leg Foot Toe Shoulder Arm ForeArm Hand"),
        **spine("Spine", "Spine1", "Spine2"), "neck": "Neck", "head": "Head",
    },
    "Bandai-Namco": {
        "pelvis": "Hips", **sided("{}_L", "{}_R", "UpperLeg LowerLeg Foot Toes Shoulder UpperArm LowerArm Hand"),
        **spine("Spine", "Chest"), "neck": "Neck", "head": "Head",
    },
    "Daz": {
        "pelvis": "hip", **sided("l{}", "r{}", "Thigh Shin Foot - Collar Shldr ForeArm Hand"),
        **spine("abdomen", "chest"), "neck": "neck", "head": "head",
    },
    "Xsens": {
        "pelvis": "Hips", **sided("Left{}", "Right{}", "Hip Knee Ankle Toe Collar Shoulder Elbow Wrist"),
        **spine("Chest", "Chest2"), "neck": "Neck", "head": "Head",
    },
    "Xsens MVN": {
        "pelvis": "Pelvis", **sided("Left{}", "Right{}", "UpperLeg LowerLeg Foot Toe Shoulder UpperArm ForeArm Hand"),
        **spine("L5", "L3", "T8"), "neck": "Neck", "head": "Head",
    },
    "Rokoko": {
        "pelvis": "Hips", **sided("Left{}", "Right{}", "Thigh Shin Foot Toe Shoulder Arm ForeArm Hand"),
        **spine("Spine1", "Spine2", "Spine3"), "neck": "Neck", "head": "Head",
    },
    "SMPL": {name: f"m_avg_{name}" for name in JOINT_NAMES},
    "CMU, ASF": {
        "pelvis": "root", **sided("l{}", "r{}", "femur tibia foot toes clavicle humerus radius wrist"),
        **spine("upperback", "thorax", "lowerneck"), "neck": "upperneck", "head": "head",
    },
}  # fmt: skip
"""By convention: which of the 22 joints it has, and its names."""


def rig(convention, joints_FJ3):
    """Names, parents and positions of a convention's skeleton in a motion of the 22."""
    named = RIGS[convention]
    kept = [joint for joint, name in enumerate(JOINT_NAMES) if name in named]
    parents = []
    for joint in kept:
        above = PARENTS[joint]
        while above >= 0 and above not in kept:
            above = PARENTS[above]
        parents.append(kept.index(above) if above >= 0 else -1)
    names, positions = [named[JOINT_NAMES[joint]] for joint in kept], joints_FJ3[:, kept]
    extra = {"CMU, cgspeed": ("LowerBack", "LHipJoint"), "CMU, ASF": ("lowerback", "lhipjoint")}.get(convention, ())
    for name in extra:  # as theirs: where the hips are
        names.append(name)
        parents.append(0)
        positions = np.concatenate([positions, positions[:, :1]], axis=1)
    return names, parents, positions


ASF_BONES = {
    "lhipjoint": (0, 1), "lfemur": (1, 4), "ltibia": (4, 7), "lfoot": (7, 10), "ltoes": (10, None),
    "rhipjoint": (0, 2), "rfemur": (2, 5), "rtibia": (5, 8), "rfoot": (8, 11), "rtoes": (11, None),
    "lowerback": (0, 3), "upperback": (3, 6), "thorax": (6, 9), "lowerneck": (9, 12), "upperneck": (12, 15),
    "head": (15, None), "lclavicle": (9, 16), "lhumerus": (16, 18), "lradius": (18, 20), "lwrist": (20, None),
    "rclavicle": (9, 17), "rhumerus": (17, 19), "rradius": (19, 21), "rwrist": (21, None),
}  # fmt: skip
"""Where each bone of CMU's skeletons begins and ends, by joint of the 22; the last of a limb end nowhere."""


def asf_amc(joints_FJ3, scale=1.0, seed=0):
    """ASF and AMC texts of a motion with constant bones (all but the clavicles'); every bone has axes of its own."""
    rng = np.random.default_rng(seed)
    joints = joints_FJ3 * scale
    parents = {
        name: next((other for other, (_, end) in ASF_BONES.items() if end == start), "root")
        for name, (start, _) in ASF_BONES.items()
    }
    asf = [":version 1.10", ":name VICON", ":units", "  mass 1.0", "  length 0.45", "  angle deg",
           ":documentation", "  none", ":root", "  order TX TY TZ RX RY RZ", "  axis XYZ", "  position 0 0 0",
           "  orientation 0 0 0", ":bonedata"]  # fmt: skip
    amc = [["#!OML", ":FULLY-SPECIFIED", ":DEGREES"], *([str(f + 1)] for f in range(len(joints)))]
    world = {"root": np.broadcast_to(np.eye(3), (len(joints), 3, 3))}
    for frame, at in enumerate(joints[:, 0], start=1):
        amc[frame].append("root " + " ".join(f"{v:.8f}" for v in at) + " 0 0 0")
    for number, (name, (start, end)) in enumerate(ASF_BONES.items(), start=1):
        bone_F3 = joints[:, end] - joints[:, start] if end else np.tile([0.0, 0.05 * scale, 0.0], (len(joints), 1))
        length = np.linalg.norm(bone_F3[0])
        angles = rng.uniform(-80, 80, 3)
        axes = rotation("Z", angles[2]) @ rotation("Y", angles[1]) @ rotation("X", angles[0])
        asf += ["  begin", f"    id {number}", f"    name {name}",
                "    direction " + " ".join(f"{v:.10f}" for v in bone_F3[0] / length), f"    length {length:.10f}",
                "    axis " + " ".join(f"{a:.10f}" for a in angles) + " XYZ", "    dof rx ry rz",
                "    limits (-160.0 20.0)", "           (-70.0 70.0)", "           (-60.0 70.0)", "  end"]  # fmt: skip
        world[name] = between(bone_F3[0], bone_F3)
        local = axes.T @ np.swapaxes(world[parents[name]], -1, -2) @ world[name] @ axes
        # M is Rz Ry Rx; its numbers are written x first.
        for frame, turn in enumerate(euler(local, "ZYX")[:, ::-1], start=1):
            amc[frame].append(f"{name} " + " ".join(f"{v:.8f}" for v in turn))
    asf += [":hierarchy", "  begin"]
    for parent in ["root", *ASF_BONES]:
        if children := [name for name, above in parents.items() if above == parent]:
            asf.append(f"    {parent} {' '.join(children)}")
    asf.append("  end")
    return "\n".join(asf) + "\n", "\n".join(line for block in amc for line in block) + "\n"
