"""What is made of weights once and used many times: folded with an adapter, rounded to a lower precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

_State = tuple[torch.dtype, tuple[tuple[int, int], ...]]


class Kept:
    """A tensor made of others, kept until one of these is written to or replaced; `.data` hides that: see `forget`."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._made: Tensor | None = None
        self._of: _State | None = None

    def __deepcopy__(self, memo: object) -> Kept:
        """A copied module makes its own."""
        return Kept()

    def get(self, parts: Sequence[Tensor], dtype: torch.dtype, make: Callable[[], Tensor]) -> Tensor:
        """What `make` returns, in `dtype`; made anew where the parts are not those of last time."""
        state = dtype, tuple((part.data_ptr(), part._version) for part in parts)
        if self._made is None or self._of != state:
            with torch.no_grad():
                self._made, self._of = make().to(dtype), state
        return self._made

    def forget(self) -> None:
        """Make it anew next time, whatever was written to in between and how."""
        self._made = None


class FrozenConv1d(nn.Conv1d):
    """A convolution whose frozen weights are rounded once for autocast, which would do so at every call.

    Trained, it is `nn.Conv1d`.
    """

    _kept: Kept | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F] -> [B, O, F']."""
        if x.is_meta or self.weight.requires_grad or not torch.is_autocast_enabled(x.device.type):
            whole: Tensor = super().forward(x)
            return whole
        if self._kept is None:
            self._kept = Kept()
        weight = self._kept.get([self.weight], torch.get_autocast_dtype(x.device.type), lambda: self.weight)
        convolved: Tensor = self._conv_forward(x, weight, self.bias)
        return convolved

    def forget(self) -> None:
        """See `Kept`."""
        self._kept = None
