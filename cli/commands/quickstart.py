"""`ibkd quickstart`: distil, index, search and compare on the installed Python documentation, without a network."""

from __future__ import annotations

from typing import Annotated

from ..display.comparison import print_comparison
from ..display.console import reporter, stdout
from ..options.common import Quiet
from ..options.declare import grouped, option


@grouped
def quickstart(
    minutes: Annotated[
        float | None,
        option(
            "How long it may take; sizes are chosen to fit, by the speed measured here.",
            default="5, or what the smallest takes",
        ),
    ] = None,
    steps: Annotated[int | None, option("Optimiser steps; more gives a better student.", default="what fits")] = None,
    max_documents: Annotated[int | None, option("Documents the students learn from.", default="what fits")] = None,
    quiet: Quiet = False,
) -> None:
    """Distil, index, search and compare, on documentation that is on this machine.

    The texts are the documentation of the installed Python packages. Nothing is fetched.
    """
    from ibkd_retrieval.distill.quickstart import quickstart as run

    made = run(minutes, steps, max_documents, reporter(quiet))
    print_comparison(made.comparison)
    console = stdout()
    console.print()
    console.print(f"Done in {made.seconds:.0f} s. Students: {made.student}, {made.static}. Report: {made.report_page}")
    console.print("Search, and make a student of your own texts:")
    console.print(
        f'  ibkd search "split an array into sub-arrays of equal size" --index {made.indexes["student ivf-pq"]}',
    )
    console.print("  ibkd distill --corpus my-documents.csv")
