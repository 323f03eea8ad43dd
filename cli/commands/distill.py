"""`ibkd distill`: teacher to student."""

from __future__ import annotations

from typing import Annotated, Any

from ..display.console import print_json, reporter, stdout
from ..options.declare import Given, grouped
from ..options.distill import DISTILLING, chosen


@grouped
def distill(options: Annotated[dict[str, Any], DISTILLING], given: Given) -> None:
    """Distil a teacher into a small student with IBKD, fine-tune it on pairs, or both; writes a model folder."""
    import ibkd_retrieval as ibkd
    from ibkd_retrieval.distill.training import distributed as ranks

    run = ("output", "cache", "device", "resume", "overwrite", "tensorboard", "config")
    student = ibkd.distill(
        **{name: options[name] for name in run},
        progress=reporter(options["quiet"] or not ranks.is_first()),
        **chosen(given, options),
    )
    if not ranks.is_first():
        return
    if options["json"]:
        print_json({**student.record, "output": str(student.path)})
        return
    stdout().print(f"{student.path}: {student.summary()}")
