"""The jobs of `ibkd index`, and the options that each of them uses."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.indexing.config import USES, refuse_unused

CHOICES = USES["build_index"]
"""The options that are choices for an index, by the names of their parameters."""

_ALWAYS = {"output", "json", "quiet"}


class Job(NamedTuple):
    """A job that an option asks for.

    Attributes:
        does: what it does, for a sentence.
        uses: every option that it has a use for.
        needs: the options that it cannot do without, and what they name.
    """

    does: str
    uses: Collection[str]
    needs: dict[str, str]


_RUNS = {"resume", "overwrite"}
JOBS = {
    "from_": Job("makes a new index", USES["combine"] | _RUNS, {}),
    "merge": Job("makes a new index", USES["combine"] | _RUNS, {"output": "its folder"}),
    "append": Job(
        "adds the documents of a corpus to a finished index",
        USES["append"] | _RUNS | {"corpus", "model", "id_field", "text_field", "title_field"},
        {"output": "the index", "corpus": "the corpus"},
    ),
    "delete": Job("changes a finished index", USES["delete"], {"output": "the index"}),
}


def chosen_job(given: Sequence[str]) -> str | None:
    """The job that the options ask for; None for a build.

    Args:
        given: the options that were given.

    Raises:
        UserError: they contradict each other, or one that is needed is missing.
    """
    jobs = [name for name in JOBS if name in given]
    if len(jobs) > 1:
        raise UserError(f"{' and '.join(f'`{name}`' for name in jobs)} are different jobs: give one of them.")
    if not jobs:
        return None
    job = JOBS[jobs[0]]
    refuse_unused(jobs[0], given, {jobs[0], *job.uses, *_ALWAYS})
    for name, what in job.needs.items():
        if name not in given:
            raise UserError(f"`{jobs[0]}` {job.does}: name {what} with `{name}`.")
    return jobs[0]
