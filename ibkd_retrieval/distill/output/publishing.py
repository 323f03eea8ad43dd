"""Publishes a student on the Hugging Face hub, with a model card in the hub's form."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ibkd_retrieval.corpora.catalog.known_sets import SUITE_SETS
from ibkd_retrieval.distill.config import RECORD
from ibkd_retrieval.distill.output.folder import read_student
from ibkd_retrieval.errors import UserError, WorkFailed, first_line, reason_of
from ibkd_retrieval.progress import Progress, as_progress

_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
_BARE = r"(all|paraphrase|multi-qa|msmarco|distiluse|gtr|sentence-t5)-[\w.-]+$"
"""Names that sentence-transformers looks for in its own organisation. Others without one may be local folders."""
_CARD = "README.md"
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class PushedModel:
    """A student on the hub.

    Attributes:
        repository: its name, `USER/NAME`.
        revision: the branch.
        commit: the commit that holds it.
        url: the address of the commit.
    """

    repository: str
    revision: str
    commit: str
    url: str


def push(
    model: Path | str,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    license: str | None = None,
    language: Sequence[str] = (),
    base_model: Sequence[str] = (),
    progress: bool | Progress = False,
) -> PushedModel:
    """Publish a student on the Hugging Face hub, in one commit.

    The token is that of the hub's own login (`hf auth login`, or HF_TOKEN). The files that decide the vectors are
    pushed, and the card and `ibkd.json`. Both name local files without their folders. Logs, checkpoints and synthetic
    queries stay here.

    Args:
        model: the folder of a finished student.
        repository: its name on the hub, `USER/NAME`. It is made if it is not there.
        private: make the repository private. One that is there and public is refused.
        revision: the branch to push to. None is main. It is made if it is not there.
        license: the licence, as the hub names it, such as "apache-2.0". None is what the card says.
        language: language codes, such as "en". Empty is what the card says.
        base_model: names on the hub. Empty is what the card says, or else the teachers that have such a name.
        progress: True for progress bars, or an object that receives the progress.

    Raises:
        UserError: there is no finished student, the name is unfit, or the hub refuses the token.
        WorkFailed: the hub cannot be reached or fails.

    Example:
        >>> push("models/mine", "me/mine", private=True, license="apache-2.0", language=["en"])  # doctest: +SKIP
    """
    folder, progress = Path(model), as_progress(progress)
    if not re.fullmatch(f"{_NAME}/{_NAME}", repository):
        raise UserError(f"`repository` is {repository!r}: give a name such as USER/NAME.")
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder} is no finished student of this toolkit: it has no {RECORD}.")
    record = read_student(folder)
    given = {"license": license, "language": list(language) or None, "base_model": list(base_model) or None}
    card = _card(folder, record, repository, {name: value for name, value in given.items() if value})
    data = card.data.to_dict()
    missing = [name for name in ("license", "language", "base_model") if not data.get(name)]
    if missing:
        progress.say(f"The card does not say {', '.join(f'`{name}`' for name in missing)}.")
    if "base_model" not in missing:
        progress.say(f"The card names as `base_model`: {', '.join(_listed(data['base_model']))}.")
    files: dict[str, Path | bytes] = {name: folder / name for name in _files(folder, record)}
    files[_CARD] = str(card).encode("utf-8")
    files[RECORD] = _without_folders(json.dumps(record, indent=2, ensure_ascii=False), record).encode("utf-8")
    return _push(files, repository, private, revision, progress)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _files(folder: Path, record: dict[str, Any]) -> list[str]:
    """The files that decide the vectors, by name.

    Raises:
        UserError: one is missing, or nothing is recorded.
    """
    names = sorted(record.get("files") or ())
    if not names:
        raise UserError(f"{folder / RECORD} records no files: distil the student again with `distill(overwrite=True)`.")
    for name in names:
        elsewhere = Path(name).is_absolute() or ".." in Path(name).parts
        if elsewhere or not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: distil the student again with `distill(overwrite=True)`.")
    return names


def _card(folder: Path, record: dict[str, Any], repository: str, given: dict[str, Any]) -> Any:
    """The student's README as a `huggingface_hub.ModelCard`. What its header says already is kept, unless given."""
    from huggingface_hub import EvalResult, ModelCard

    path = folder / _CARD
    text = path.read_text("utf-8") if path.is_file() else f"# {folder.name}\n"
    text = re.sub(r'SentenceTransformer\("[^"\n]*"\)', f'SentenceTransformer("{repository}")', text)
    card = ModelCard(_without_folders(text, record), ignore_metadata_errors=True)
    data: Any = card.data
    known: dict[str, Any] = {
        "base_model": list(_base_models(record)),
        "datasets": list(dict.fromkeys(_datasets(record))),
        "metrics": [record["dev_metric"]],
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "model_name": repository.partition("/")[2],
    }
    for name, value in (known | given).items():
        if value and (name in given or not getattr(data, name, None)):
            setattr(data, name, value)
    if not data.eval_results:
        data.eval_results = [
            EvalResult(
                task_type="information-retrieval",
                task_name="Information Retrieval",
                dataset_type="unknown",
                dataset_name=_without_folders(record["dev_set"], record),
                dataset_split="dev",
                metric_type=record["dev_metric"],
                metric_name=f"{record['dev_metric']} (dev)",
                metric_value=round(float(record["student"]["dev"]), 4),
            )
        ]
    return card


def _base_models(record: dict[str, Any]) -> Iterator[str]:
    """The names on the hub of the model that the student began as and of its teachers. Local folders have none."""
    config = record.get("config") or {}
    named = [(config.get("student") or {}).get("model"), *(config.get("teacher") or [record["teacher"]["name"]])]
    for name in dict.fromkeys(map(str, filter(None, named))):
        if name.startswith(("models/", "static")) or Path(name).exists():
            continue
        if re.fullmatch(f"{_NAME}/{_NAME}", name):
            yield name
        elif re.match(_BARE, name):
            yield f"sentence-transformers/{name}"


def _datasets(record: dict[str, Any]) -> Iterator[str]:
    pairs = (record.get("finetuning") or {}).get("pairs")
    for name in (record.get("corpus"), record.get("queries"), pairs):
        known = str(name or "").partition("/")[0]
        if known in (*SUITE_SETS["beir"], "msmarco"):
            yield f"BeIR/{known}"


def _without_folders(text: str, record: dict[str, Any]) -> str:
    """A text in which local paths that the record names are cut to their last parts."""
    for path in sorted(set(_paths(record)), key=len, reverse=True):
        text = text.replace(json.dumps(path, ensure_ascii=False)[1:-1], Path(path).name).replace(path, Path(path).name)
    return text


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _paths(each)
    elif isinstance(value, str) and os.sep in value and (os.path.isabs(value) or Path(value).exists()):
        yield value


def _push(
    files: dict[str, Path | bytes], repository: str, private: bool, revision: str | None, progress: Progress
) -> PushedModel:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError  # type: ignore[attr-defined]

    api = HfApi()
    branch = revision or "main"
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=each) for name, each in files.items()]
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise UserError(f"{repository} is there and public: make it private on the hub, or name another.")
        if revision is not None:
            api.create_branch(repository, branch=branch, exist_ok=True)
        progress.say(f"{len(files)} files → {api.endpoint}/{repository} ({branch})")
        made = api.create_commit(
            repository, operations, commit_message="Push a student of ibkd-retrieval", revision=branch
        )
    except LocalTokenNotFoundError:
        raise UserError(f"The hub asks who you are: {_LOGIN}.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise UserError(f"The hub refuses to write to {repository} ({status}): {_LOGIN}.") from None
        as_ = UserError if 400 <= status < 500 else WorkFailed
        said = error.server_message or first_line(error)
        raise as_(f"The hub answers {status} for {repository}: {said.strip().rstrip('.')}.") from None
    except (HTTPError, OSError) as error:
        raise WorkFailed(f"{api.endpoint} cannot be reached ({reason_of(error)}): push again when it can.") from None
    return PushedModel(repository, branch, made.oid, made.commit_url)
