"""Arrays of joint positions (.npy, .npz), in SMPL's order -> a recording (NumPy).

[F, 22, 3], [F, 24, 3] (SMPL, with hands) or [F, 52, 3] (SMPL-H, as AMASS has it, with fingers): the first 22 are the
joints of `skeleton.JOINT_NAMES` in all three. An .npz has the array as `joints`, or it is the only one of such a
shape; its frame rate is `fps`, `mocap_framerate` or `mocap_frame_rate`. Nothing is unpickled.
Shape legend: F frames, J joints.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np

from rl_motion.config import UserError
from rl_motion.motion.formats.recording import Recording, shown
from rl_motion.motion.rotations import FloatArray
from rl_motion.motion.skeleton import JOINT_NAMES, PARENTS

JOINT_COUNTS = (22, 24, 52)
_RATES = ("fps", "mocap_framerate", "mocap_frame_rate")
_MOST_VALUES = 100_000_000
_WANTED = f"floats [frames, {', '.join(map(str, JOINT_COUNTS[:-1]))} or {JOINT_COUNTS[-1]}, 3]"


def read_joint_array(path: str | Path) -> Recording:
    """Read one file.

    Raises:
        UserError: it cannot be read, has no such array, or more than one.
    """
    path = Path(path)
    _refuse_no_file(path)
    joints_FJ3, fps = _npz(path) if path.suffix.lower() == ".npz" else (_npy(path), None)
    if len(joints_FJ3) == 0:
        raise UserError(f"got {path} with no frames; want one or more; export it again")
    positions_FJ3 = joints_FJ3[:, : len(JOINT_NAMES)].astype(np.float64)
    return Recording(names=JOINT_NAMES, parents=PARENTS, positions_FJ3=positions_FJ3, fps=fps)


def _refuse_no_file(path: Path) -> None:
    """Refuse what is no plain file: a pipe would wait for ever."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return
    except OSError as error:
        raise _unreadable(path, error) from None
    raise UserError(f"got {path}, which is a pipe or a device; want a file; save it with np.save")


def _npy(path: Path) -> FloatArray:
    try:
        # Mapped: a header that claims more than the file has is found out before memory is taken for it.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # what a damaged file makes numpy raise, nobody lists
        raise _unreadable(path, error) from None
    if isinstance(array, np.lib.npyio.NpzFile):
        array.close()
        raise UserError(f"got {path}, which is an .npz file by its content; want .npz in its name too; rename it")
    if not _is_joints(array):
        raise UserError(f"got {path} with {array.dtype} {array.shape}; want {_WANTED}; {_hint(array.shape)}")
    return np.array(array)


def _npz(path: Path) -> tuple[FloatArray, float | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is an .npy file by its content")
            size = sum(entry.file_size for entry in file.zip.infolist()) if file.zip is not None else 0
            if size > 8 * _MOST_VALUES:
                raise UserError(f"got {path} with {size >> 20} MiB of arrays; want fewer; cut it into parts")
            arrays = {name: file[name] for name in file.files if name == "joints" or name not in _RATES}
            rates = [float(file[name]) for name in _RATES if name in file.files and file[name].size == 1]
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib and numpy: as above
        raise _unreadable(path, error) from None
    fitting = {name: array for name, array in arrays.items() if _is_joints(array)}
    if "joints" in fitting:
        fitting = {"joints": fitting["joints"]}
    if len(fitting) != 1:
        listed = ", ".join(f"{shown(name)} {array.shape}" for name, array in list(arrays.items())[:8])
        raise UserError(f"got {path} with {listed or 'no arrays'}; want one array 'joints', {_WANTED}; {_todo(arrays)}")
    if rates and not 0 < rates[0] < np.inf:
        raise UserError(f"got {path} at {rates[0]:g} frames per second; want more than 0; mend the number")
    return next(iter(fitting.values())), rates[0] if rates else None


def _is_joints(array: FloatArray) -> bool:
    return (
        array.ndim == 3
        and array.shape[1] in JOINT_COUNTS
        and array.shape[2] == 3
        and array.dtype.kind == "f"
        and array.size <= _MOST_VALUES
    )


def _todo(arrays: dict[str, FloatArray]) -> str:
    if "poses" in arrays and "trans" in arrays:
        return "poses are rotations, which take the body model to become joints: let it make them, and save those"
    return "save the joints alone"


def _hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 2 and shape[1] in {263, 251}:
        return "these are features: import their folder as humanml3d or kit"
    return "save the joints so"


def _unreadable(path: Path, error: Exception) -> UserError:
    said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else " ".join(str(error).split())
    return UserError(f"got {path}, which cannot be read ({said[:160]}); want an array of numbers; save it with np.save")
