"""Run a command in several processes (torchrun)."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable


def across_ranks(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command so that the processes torchrun started meet before it; of an error, one of them tells."""

    @functools.wraps(command)
    def run(**options: object) -> None:
        from ibkd_retrieval.distill.training import distributed as ranks

        if not ranks.launched():
            command(**options)
            return
        first_to_fail = ranks.join()
        try:
            command(**options)
            ranks.leave()
        except BaseException as error:
            if first_to_fail():
                raise
            # torchrun ends the others as soon as one has ended: the one that tells needs a moment to do so.
            time.sleep(2)
            raise SystemExit(1) from error

    return run
