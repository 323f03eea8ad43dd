"""The teacher's vectors for a training step: tensors on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.distill.teacher.cache import TeacherVectors

if TYPE_CHECKING:
    import torch

_BLOCK = 32_768
_MOST_OF_FREE_MEMORY = 0.25


class StepVectors:
    """Unit teacher vectors by their position in the cache.

    A GPU takes a step in less time than thousands of vectors need to be gathered on the CPU and sent to it. Where they
    are few enough, it holds those of all training texts itself, as float16, which is what the cache has.
    """

    def __init__(
        self, cache: TeacherVectors, rows: NDArray[np.int64], device: str, *, held: bool | None = None
    ) -> None:
        """Prepare to give the vectors at `rows` of `cache`.

        Args:
            cache: the teacher cache.
            rows: positions in the cache that training will use.
            device: device of the tensors.
            held: whether the device keeps all vectors. None keeps them on a GPU if a quarter of its free memory is
                enough.
        """
        self._cache, self._device = cache, device
        self._known = np.unique(rows)
        self._held: torch.Tensor | None = None
        if held if held is not None else self._fit():
            self._held = self._sent()

    def at(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Unit vectors [n, D], float32, at positions [n]."""
        import torch

        if self._held is None:
            return torch.from_numpy(self._cache.vectors(rows)).to(self._device)
        places = torch.from_numpy(np.searchsorted(self._known, rows)).to(self._device)
        return torch.nn.functional.normalize(self._held[places].float(), dim=-1)

    def _fit(self) -> bool:
        import torch

        if not self._device.startswith("cuda"):
            return False
        free, _ = torch.cuda.mem_get_info(self._device)
        return 2 * len(self._known) * self._cache.dim <= _MOST_OF_FREE_MEMORY * free

    def _sent(self) -> torch.Tensor:
        import torch

        out = torch.empty((len(self._known), self._cache.dim), dtype=torch.float16, device=self._device)
        for start in range(0, len(self._known), _BLOCK):
            block = self._cache.vectors(self._known[start : start + _BLOCK]).astype(np.float16)
            out[start : start + len(block)] = torch.from_numpy(block).to(self._device)
        return out
