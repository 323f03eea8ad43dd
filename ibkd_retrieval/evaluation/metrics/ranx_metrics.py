"""ranx's metric functions, loaded in a fraction of the time that `import ranx` takes.

`import ranx` loads its plotting, its data frames and its fusion algorithms, which takes seconds; only its package of
metrics is loaded here. Of that, the functions for one query are called: each metric also has a function for many
queries that numba compiles for several threads, which triples the time of compiling (on first use; numba keeps the
result on disk) and may not be entered by two Python threads at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

QueryArray = NDArray[np.float64]
"""Documents of one query, best first: codes and grades (judgements) or codes and scores (run), float64 [n, 2]."""

_FUNCTIONS: dict[str, tuple[str, str]] = {
    "hits": ("hits", "_hits"),
    "hit_rate": ("hit_rate", "_hit_rate"),
    "precision": ("precision", "_precision"),
    "recall": ("recall", "_recall"),
    "f1": ("f1", "_f1"),
    "r-precision": ("r_precision", "_r_precision"),
    "mrr": ("reciprocal_rank", "_reciprocal_rank"),
    "map": ("average_precision", "_average_precision"),
    "dcg": ("ndcg", "_dcg"),
    "dcg_burges": ("ndcg", "_dcg"),
    "ndcg": ("ndcg", "_ndcg"),
    "ndcg_burges": ("ndcg", "_ndcg"),
    "bpref": ("bpref", "_bpref"),
    "rbp": ("rank_biased_precision", "_rank_biased_precision"),
}
_LOADING = threading.Lock()


def ranx_metric(canonical: str) -> Callable[[QueryArray, QueryArray, float, int], float]:
    """The value of one query by ranx.

    Args:
        canonical: ranx's name of the metric, without cutoff.

    Returns:
        A function of the judgements, the run, the cutoff (0: none; for "rbp" the persistence) and the lowest grade
        that counts as relevant.
    """
    module, name = _FUNCTIONS[canonical]
    function = getattr(_load(module), name)
    if module == "ndcg":
        jarvelin = not canonical.endswith("_burges")
        return lambda judged, run, cutoff, level: float(function(judged, run, cutoff, level, jarvelin))
    if canonical in ("bpref", "r-precision"):
        return lambda judged, run, cutoff, level: float(function(judged, run, level))
    return lambda judged, run, parameter, level: float(function(judged, run, parameter, level))


def _load(module: str) -> ModuleType:
    """Import one module of ranx.metrics without what ranx's own `__init__` imports."""
    with _LOADING:
        if "ranx" in sys.modules or "ranx.metrics" in sys.modules:
            return importlib.import_module(f"ranx.metrics.{module}")
        spec = importlib.util.find_spec("ranx")
        if spec is None or spec.submodule_search_locations is None:
            return importlib.import_module(f"ranx.metrics.{module}")
        # A package without contents stands in for ranx while its metrics load; it is taken away at once, so that
        # whoever imports ranx afterwards gets the whole of it, with these same modules.
        package = ModuleType("ranx")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["ranx"] = package
        try:
            return importlib.import_module(f"ranx.metrics.{module}")
        finally:
            del sys.modules["ranx"]
