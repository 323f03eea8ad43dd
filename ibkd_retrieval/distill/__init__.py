"""Distillation: a student learns a teacher's vectors from text, and is written as a model folder.

The folder has the name of the public function, so it can be called like it: `ibkd_retrieval.distill(layers=3)`.
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


# Python makes a folder that is imported an attribute of its parent, whatever the parent says of that name.
sys.modules[__name__].__class__ = _CallableModule
