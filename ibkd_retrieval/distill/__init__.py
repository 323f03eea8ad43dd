"""Distillation: a student learns a teacher's vectors from text. The student is written as a model folder.

The package shares its name with the public function. It is therefore callable: `ibkd_retrieval.distill(layers=3)`.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibkd_retrieval.distill.api import Student


class _CallableModule(types.ModuleType):
    def __call__(self, config: Any = None, **parameters: Any) -> Student:
        """Distil a teacher into a small student: see `ibkd_retrieval.distill.api.distill`."""
        from ibkd_retrieval.distill.api import distill

        return distill(config, **parameters)


# Importing a sub-package sets it as an attribute of its parent. This would hide a function of the same name.
sys.modules[__name__].__class__ = _CallableModule
