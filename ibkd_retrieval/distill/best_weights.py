"""The weights that did best on the dev set so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class BestWeights:
    """A copy of some modules' weights from the look at the dev set with the highest figure.

    Saved in a checkpoint beside the modules, so that a resumed run stops where an uninterrupted one does.
    """

    def __init__(self, modules: Mapping[str, torch.nn.Module], figures: Sequence[float] = ()) -> None:
        """Start before the first look, or after the looks that gave `figures`."""
        self._modules = modules
        self._tensors: dict[str, torch.Tensor] = {}
        self.value = max(figures, default=-math.inf)
        self.looks_since = len(figures) - 1 - list(figures).index(self.value) if figures else 0

    def look(self, value: float) -> None:
        """Take the modules' weights if `value` is higher than all before."""
        if not value > self.value:
            self.looks_since += 1
            return
        self.value, self.looks_since = value, 0
        self._tensors = {
            f"{name}.{key}": tensor.detach().cpu().clone()
            for name, module in self._modules.items()
            for key, tensor in module.state_dict().items()
        }

    def restore(self) -> None:
        """Put the best weights back into the modules."""
        for name, module in self._modules.items():
            prefix = f"{name}."
            module.load_state_dict(
                {key.removeprefix(prefix): t for key, t in self._tensors.items() if key.startswith(prefix)}
            )

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The copy, for a checkpoint."""
        return self._tensors

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up a copy from a checkpoint."""
        self._tensors = dict(tensors)
