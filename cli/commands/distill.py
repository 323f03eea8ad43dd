"""`ibkd distill`: teacher to student."""

from __future__ import annotations

from typing import Annotated, Any

from ..display.console import print_json, reporter, stdout
from ..options.common import SPENDING
from ..options.declare import Given, grouped
from ..options.distill import DISTILLING, chosen
from ..ranks import across_ranks


@across_ranks
@grouped
def distill(options: Annotated[dict[str, Any], DISTILLING], given: Given) -> None:
    """Distil a teacher into a small student, fine-tune it on pairs, or both.

    The student learns from the texts of a corpus; no labels are needed. It is written to a model folder, which every
    other command and sentence-transformers read. A killed run goes on with --resume.
    """
    import ibkd_retrieval as ibkd
    from ibkd_retrieval.distill.training import distributed as ranks

    run = (
        "output",
        "cache",
        "device",
        "cluster",
        "workers",
        "worker_cpus",
        "resume",
        "overwrite",
        "tensorboard",
        "config",
        *SPENDING,
    )
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
