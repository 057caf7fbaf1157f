"""A motion as pictures: a figure on a floor with a grid, its path and shadow, the prompt above (Pillow).

The viewer's page (`motion/viewer.py`) in still frames: its colours, its three-quarter view, its camera, which frames a
motion that stays in place as a whole and follows one that travels. Left limbs are orange, right ones blue; what is
farther away is drawn first and paler. Drawn at twice the size and halved, so that edges are smooth.
Shape legend: F frames, J joints (22).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rl_motion.motion.rotations import FloatArray
from rl_motion.motion.skeleton import JOINT_NAMES, LEFT_JOINTS, PARENTS, RIGHT_JOINTS

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

    Font = FreeTypeFont | ImageFont.ImageFont

WIDTH, HEIGHT = 480, 480
"""Pixels; even, as video encoders want them."""
_FINE = 2
_TITLE_HEIGHT, _FOOT_HEIGHT = 58, 24
_MARGIN = 14
_YAW, _PITCH = 0.6, 0.22
_FOLLOWED_M = 1.6
"""Half the extent on the floor above which the camera follows."""
_FOLLOW_S = 0.75
_GRID_M, _REACH_M = 0.5, 3.0
_CLIP_M = 50.0
"""What flies farther stops there."""

Colour = tuple[int, int, int]
_STAGE: Colour = (238, 241, 245)
_PAPER: Colour = (255, 255, 255)
_GRID: Colour = (189, 197, 210)
_INK: Colour = (20, 24, 31)
_DIM: Colour = (91, 102, 117)
_TRAIL: Colour = (122, 82, 199)
_BODY: Colour = (59, 68, 82)
_LEFT: Colour = (217, 84, 30)
_RIGHT: Colour = (31, 111, 214)

_HEAD, _NECK = JOINT_NAMES.index("head"), JOINT_NAMES.index("neck")
_HEAD_M, _HEAD_ABOVE = 0.115, 0.6
"""Radius of the head, and how far it is beyond its joint in bones of the neck."""
_THICKNESS_M = {"knee": 0.105, "ankle": 0.085, "foot": 0.07, "elbow": 0.08, "wrist": 0.066, "head": 0.08}
"""Of the limb that ends there; the trunk is what lies between shoulders and hips."""
_TRUNK = tuple(JOINT_NAMES.index(name) for name in ("left_shoulder", "right_shoulder", "right_hip", "left_hip"))
_TRUNK_M = 0.11
_PALEST = 0.35


@dataclass(frozen=True, eq=False)
class Film:
    """A motion to be drawn.

    Attributes:
        joints_FJ3: positions in metres, Y up, floor at y = 0; finite.
        fps: frames per second.
        title: shown above; foreign text.
    """

    joints_FJ3: FloatArray
    fps: float
    title: str

    def __len__(self) -> int:
        """Frames."""
        return len(self.joints_FJ3)

    def picture(self, frame: int) -> Image.Image:
        """One frame, `WIDTH` x `HEIGHT`, RGB."""
        canvas = Image.new("RGB", (WIDTH * _FINE, HEIGHT * _FINE), _STAGE)
        draw = ImageDraw.Draw(canvas)
        camera = self._camera(frame)
        self._shadow(draw, camera, frame)
        _grid(draw, camera)
        self._trail(draw, camera, frame)
        self._figure(draw, camera, frame)
        picture = canvas.reduce(_FINE)
        self._frame(ImageDraw.Draw(picture), frame)
        return picture

    def pictures(self) -> Iterator[Image.Image]:
        """All frames, one after the other."""
        return (self.picture(frame) for frame in range(len(self)))

    @cached_property
    def _joints(self) -> FloatArray:
        joints: FloatArray = np.clip(np.asarray(self.joints_FJ3, np.float64), -_CLIP_M, _CLIP_M)
        return joints

    @cached_property
    def _targets_F2(self) -> FloatArray:
        """Where on the floor the camera looks."""
        floor_FJ2 = self._joints[..., [0, 2]]
        low, high = floor_FJ2.min(axis=(0, 1)), floor_FJ2.max(axis=(0, 1))
        if np.linalg.norm(high - low) / 2 <= _FOLLOWED_M:
            return np.tile((low + high) / 2, (len(self), 1))
        radius = max(round(_FOLLOW_S * self.fps), 1)
        padded = np.pad(floor_FJ2[:, 0], ((radius, radius), (0, 0)), mode="edge")
        weights = np.hanning(2 * radius + 3)[1:-1]
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=0)
        targets: FloatArray = windows @ (weights / weights.sum())
        return targets

    @cached_property
    def _framing(self) -> tuple[float, float]:
        """How much the picture shows, as a radius in metres, and the height that it is centred on."""
        low, high = (reduce(self._joints[..., [0, 2]], axis=(0, 1)) for reduce in (np.min, np.max))
        extent = float(np.linalg.norm(high - low)) / 2
        tall = min(max(float(self._joints[..., 1].max()), 0.0), 3.0) + 0.4
        return max(1.02, min(extent, 1.25), tall * 0.51), max(0.86, tall * 0.43)

    def _camera(self, frame: int) -> _Camera:
        radius, height = self._framing
        return _Camera(self._targets_F2[frame], radius, height)

    def _shadow(self, draw: ImageDraw.ImageDraw, camera: _Camera, frame: int) -> None:
        flat_J3 = self._joints[frame] * np.array([1.0, 0.0, 1.0])
        points_J4 = camera.see(flat_J3)
        for joint, parent in enumerate(PARENTS[1:], start=1):
            _rod(draw, points_J4[parent], points_J4[joint], 0.09, _mixed(_STAGE, (0, 0, 0), 0.09))

    def _trail(self, draw: ImageDraw.ImageDraw, camera: _Camera, frame: int) -> None:
        points_F4 = camera.see(self._joints[:, 0] * np.array([1.0, 0.0, 1.0]))
        for upto, colour, width in ((len(self) - 1, _mixed(_STAGE, _TRAIL, 0.3), 3), (frame, _TRAIL, 5)):
            shown = [(float(x), float(y)) for x, y in points_F4[: upto + 1, :2]]
            if len(shown) > 1:
                draw.line(shown, fill=colour, width=width, joint="curve")

    def _figure(self, draw: ImageDraw.ImageDraw, camera: _Camera, frame: int) -> None:
        pose_J3 = self._joints[frame]
        points_J4 = camera.see(pose_J3)
        crown_4 = camera.see(pose_J3[_HEAD] + _HEAD_ABOVE * (pose_J3[_HEAD] - pose_J3[_NECK]))
        near, far = points_J4[:, 2].min(), points_J4[:, 2].max()
        parts = [
            _Part(points_J4[[parent, joint]], _THICKNESS_M[kind], _side(joint))
            for joint, parent in enumerate(PARENTS)
            if (kind := _kind(joint)) in _THICKNESS_M
        ]
        parts += [_Part(crown_4[None], 2 * _HEAD_M, _BODY), _Part(points_J4[list(_TRUNK)], _TRUNK_M, _BODY)]
        for part in sorted(parts, key=lambda part: -part.depth):
            part.draw(draw, _PALEST * float(np.clip((part.depth - near) / max(far - near, 0.4), 0, 1)))

    def _frame(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        """What is no scene: the title, the time, which colour is which side."""
        draw.rectangle((0, 0, WIDTH, _TITLE_HEIGHT - 1), fill=_PAPER)
        font = _font(17)
        lines = _wrapped(readable(self.title), font, WIDTH - 2 * _MARGIN, 2)
        top = (_TITLE_HEIGHT - 21 * len(lines)) / 2 - 1
        for number, line in enumerate(lines):
            draw.text((_MARGIN, top + 21 * number), line, fill=_INK, font=font)
        small, base = _font(13), HEIGHT - _FOOT_HEIGHT + 3
        draw.text((_MARGIN, base), f"{frame / self.fps:.1f} s", fill=_DIM, font=small)
        place = float(WIDTH - _MARGIN)
        for word, colour in (("right", _RIGHT), ("left", _LEFT)):
            place -= small.getlength(word)
            draw.text((place, base), word, fill=_DIM, font=small)
            draw.rounded_rectangle((place - 20, base + 6, place - 5, base + 10), 2, fill=colour)
            place -= 34
        done = (frame + 1) / len(self)
        draw.rectangle((0, HEIGHT - 3, round(WIDTH * done) - 1, HEIGHT), fill=_mixed(_STAGE, _TRAIL, 0.6))


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of the body between seen points [P, 4]: a ball of one, a limb of two, the trunk of four."""

    points_P4: FloatArray
    thickness_m: float
    colour: Colour

    @property
    def depth(self) -> float:
        """How far away it is, metres."""
        return float(self.points_P4[:, 2].mean())

    def draw(self, draw: ImageDraw.ImageDraw, pale: float) -> None:
        """Draw it in a rim of the background's colour, which parts it from what it crosses."""
        points = list(self.points_P4)
        edges = list(zip(points, [*points[1:], points[0]], strict=True))[: None if len(points) > 2 else 1]
        colour = _mixed(self.colour, _STAGE, pale)
        if self.colour != _BODY or len(points) != 2:  # the neck: it is of one piece with the trunk
            for start, end in edges:
                # The rim of a limb ends before its joints, so that it does not cut the limb before.
                _rod(draw, start, end, self.thickness_m, _STAGE, rim=3.0 * _FINE, capped=len(points) != 2)
        for start, end in edges:
            _rod(draw, start, end, self.thickness_m, colour)
        if len(points) > 2:
            draw.polygon([(float(x), float(y)) for x, y, *_ in points], fill=colour)


@dataclass(frozen=True, eq=False)
class _Camera:
    """Looks from the front left, slightly from above, at a place on the floor; the motion viewer's own projection."""

    target_2: FloatArray
    radius_m: float
    height_m: float

    def see(self, points_3: FloatArray) -> FloatArray:
        """Points [..., 3] in metres -> [..., 4]: x, y in fine pixels, depth in metres, fine pixels per metre there."""
        x, y, z = (
            points_3[..., axis] - shift
            for axis, shift in enumerate((self.target_2[0], self.height_m, self.target_2[1]))
        )
        side, near = np.cos(_YAW) * x - np.sin(_YAW) * z, np.sin(_YAW) * x + np.cos(_YAW) * z
        up = np.cos(_PITCH) * y - np.sin(_PITCH) * near
        depth = np.maximum(4.2 * self.radius_m - (np.sin(_PITCH) * y + np.cos(_PITCH) * near), 0.1)
        scene = HEIGHT - _TITLE_HEIGHT - _FOOT_HEIGHT
        scale = _FINE * min(WIDTH * 1.1, scene) * 1.86 / depth
        middle = _FINE * (_TITLE_HEIGHT + scene * 0.51)
        # A joint just before the lens would be drawn millions of pixels wide.
        seen_4: FloatArray = np.stack([_FINE * WIDTH / 2 + side * scale, middle - up * scale, depth, scale], axis=-1)
        return np.clip(seen_4, -1e5, 1e5)


def _grid(draw: ImageDraw.ImageDraw, camera: _Camera) -> None:
    """Lines on the floor around the target, fading with distance."""
    steps = np.arange(-_REACH_M, _REACH_M + _GRID_M / 2, _GRID_M)
    first_2 = np.round(camera.target_2 / _GRID_M) * _GRID_M
    across, along = np.meshgrid(steps, steps[:-1], indexing="ij")
    zero = np.zeros_like(across)
    for swap in (False, True):
        starts, ends = ((across, along), (across, along + _GRID_M))
        if swap:
            starts, ends = starts[::-1], ends[::-1]
        places = [np.stack([first_2[0] + x, zero, first_2[1] + z], axis=-1).reshape(-1, 3) for x, z in (starts, ends)]
        middle_S2 = (places[0] + places[1])[:, [0, 2]] / 2
        strength_S = 1.3 * (1 - np.linalg.norm(middle_S2 - camera.target_2, axis=-1) / _REACH_M)
        seen = [camera.see(place)[:, :2] for place in places]
        for start, end, strength in zip(*seen, strength_S, strict=True):
            if strength > 0:
                colour = _mixed(_STAGE, _GRID, min(float(strength), 1.0))
                draw.line([(float(start[0]), float(start[1])), (float(end[0]), float(end[1]))], fill=colour, width=2)


def _rod(  # noqa: PLR0913 - what a rod is
    draw: ImageDraw.ImageDraw,
    start_4: FloatArray,
    end_4: FloatArray,
    thickness_m: float,
    colour: Colour,
    *,
    rim: float = 0.0,
    capped: bool = True,
) -> None:
    """A rod between two seen points, as wide at each end as it looks there; round ends."""
    radii = [min(thickness_m / 2 * float(point[3]) + rim, 4.0 * HEIGHT) for point in (start_4, end_4)]
    ends = [(float(point[0]), float(point[1])) for point in (start_4, end_4)]
    (ax, ay), (bx, by) = ends
    length = float(np.hypot(bx - ax, by - ay))
    if length > 1e-6:
        nx, ny = (ay - by) / length, (bx - ax) / length
        corners = [
            (ax + nx * radii[0], ay + ny * radii[0]),
            (bx + nx * radii[1], by + ny * radii[1]),
            (bx - nx * radii[1], by - ny * radii[1]),
            (ax - nx * radii[0], ay - ny * radii[0]),
        ]
        draw.polygon(corners, fill=colour)
    for (x, y), radius in zip(ends, radii, strict=True) if capped else ():
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _kind(joint: int) -> str:
    return JOINT_NAMES[joint].removeprefix("left_").removeprefix("right_")


def _side(joint: int) -> Colour:
    return _LEFT if joint in LEFT_JOINTS else _RIGHT if joint in RIGHT_JOINTS else _BODY


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return r, g, b


def readable(text: str) -> str:
    """Foreign text in the letters that the font has, which are ASCII's: without accents, `?` for what is left."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    shown = "".join(c if " " <= c <= "~" else " " if c.isspace() else "?" for c in plain)
    return " ".join(shown.split())


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _wrapped(text: str, font: Font, width: float, most: int) -> Sequence[str]:
    """The text in at most so many lines of at most that width; what does not fit ends in dots."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < most:
        line = words.pop(0)
        while words and font.getlength(f"{line} {words[0]}") <= width:
            line = f"{line} {words.pop(0)}"
        lines.append(line)
    if words:
        lines[-1] += f" {words[0]}..."
    for number, line in enumerate(lines):
        if font.getlength(line) > width:
            kept = line.removesuffix("...")
            while kept and font.getlength(f"{kept.rstrip()}...") > width:
                kept = kept[:-1]
            lines[number] = f"{kept.rstrip()}..."
    return lines
