"""`ibkd quickstart`: distil, index, search and compare on the installed Python documentation, without a network."""

from __future__ import annotations

from typing import Annotated

from ..display.comparison import print_comparison
from ..display.console import reporter, stdout
from ..options.common import Quiet
from ..options.declare import grouped, option


@grouped
def quickstart(
    steps: Annotated[int, option("Optimiser steps; more gives a better student.")] = 300,
    max_documents: Annotated[int, option("Documents the student learns from.")] = 6000,
    quiet: Quiet = False,
) -> None:
    """Distil, index, search and compare, on documentation that is on this machine.

    The texts are the documentation of the installed Python packages. Nothing is fetched.
    """
    from ibkd_retrieval.distill.quickstart import quickstart as run

    made = run(steps, max_documents, reporter(quiet))
    print_comparison(made.comparison)
    console = stdout()
    console.print()
    console.print(f"Done in {made.seconds:.0f} s. Student: {made.student}, report: {made.report}/report.md")
    console.print("Search the student's index:")
    console.print(
        f'  ibkd search "split an array into sub-arrays of equal size" --index {made.indexes["student ivf-pq"]}',
    )
