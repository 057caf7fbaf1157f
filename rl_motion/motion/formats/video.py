"""A motion as a GIF (Pillow) or an MP4 (the program `ffmpeg`, where it is installed), at the motion's own rate."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from rl_motion.config import UserError
from rl_motion.motion.formats.drawing import HEIGHT, WIDTH, Film
from rl_motion.tracking.files import missing_folders, remove_empty

_COLOURS = 64
_HELD_MS = 700
"""How long a GIF holds its last frame before it starts again."""
_PALETTE_FRAMES = 5


def gif_bytes(film: Film) -> bytes:
    """The content of a GIF that plays for ever.

    A GIF counts hundredths of a second: frames last as long as keeps the whole in time.
    """
    spread = np.unique(np.linspace(0, len(film) - 1, _PALETTE_FRAMES).round().astype(int))
    samples = Image.new("RGB", (WIDTH, HEIGHT * len(spread)))
    for place, frame in enumerate(spread):
        samples.paste(film.picture(int(frame)), (0, HEIGHT * place))
    palette = samples.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT)
    # One palette for all frames and no dithering: what does not move does not flicker.
    first, *rest = (p.quantize(palette=palette, dither=Image.Dither.NONE) for p in film.pictures())
    content = io.BytesIO()
    first.save(
        content, "GIF", save_all=True, append_images=rest, loop=0, duration=durations_ms(len(film), film.fps),
        optimize=False, disposal=1,
    )  # fmt: skip
    return content.getvalue()


def durations_ms(frames: int, fps: float) -> list[int]:
    """How long each frame of a GIF is shown: multiples of 10, at least 20, which is what browsers play."""
    ends = np.rint(np.arange(frames + 1) * 100 / fps).astype(int) * 10
    shown = [max(int(one), 20) for one in np.diff(ends)]
    return [*shown[:-1], shown[-1] + _HELD_MS]


def find_ffmpeg() -> str:
    """The program's path.

    Raises:
        UserError: it is not installed.
    """
    found = shutil.which("ffmpeg")
    if found is None:
        raise UserError(
            "got --format mp4 where no ffmpeg is on the PATH; want that program, which makes the video; install it "
            "(apt-get install ffmpeg, brew install ffmpeg), or choose --format gif"
        )
    return found


def write_mp4(path: Path, film: Film, ffmpeg: str) -> None:
    """Write an MP4 that is there as a whole or not at all; H.264 where this ffmpeg has an encoder for it.

    Args:
        path: what to write.
        film: what to draw.
        ffmpeg: from `find_ffmpeg`.

    Raises:
        UserError: ffmpeg failed.
        OSError: there is no room or no right to write.
    """
    made = missing_folders(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    command = [
        ffmpeg, "-hide_banner", "-loglevel", "error", "-nostdin", "-y",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", f"{film.fps:.6g}", "-i", "pipe:0",
        "-an", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", f"file:{partial.absolute()}",
    ]  # fmt: skip
    try:
        with partial.open("wb"):  # no room or no right: said by its name, not by ffmpeg
            pass
        with tempfile.TemporaryFile() as said:
            code = _feed(command, film, said.fileno())
            said.seek(0)
            words = said.read(10_000).decode(errors="replace").strip().splitlines()
        if code != 0:
            raise UserError(
                f"got exit code {code} of {ffmpeg} for {path} ({words[-1] if words else 'it said nothing'}); want a "
                "video; mend that ffmpeg, or choose --format gif"
            )
        partial.replace(path)
    except BaseException:  # Ctrl-C too
        with suppress(OSError):
            partial.unlink()
        remove_empty(made)
        raise


def _feed(command: list[str], film: Film, said: int) -> int:
    """Run the program with the frames as its input; its exit code."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
    assert process.stdin is not None
    try:
        # A program that ends early says why itself.
        with suppress(BrokenPipeError), process.stdin:
            for picture in film.pictures():
                process.stdin.write(picture.tobytes())
        return process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
