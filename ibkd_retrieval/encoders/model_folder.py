"""Checks before and during the loading of a model: its files, and missing weights.

No code of a model runs, and nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import sha256_file

_OBJECTS = ("config.json", "tokenizer_config.json", "sentence_bert_config.json", "config_sentence_transformers.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")


def check_model_folder(folder: Path) -> None:
    """Refuse a folder with unreadable settings, with its own code, or with pickled weights.

    Raises:
        UserError: the folder is refused. The message gives the reason.
    """
    _check_recorded(folder)
    for name in _OBJECTS:
        _object(folder / name)
    parts = [folder, *(folder / path for path in _module_paths(folder))]
    for part in list(parts):
        types = (_object(part / "router_config.json") or {}).get("types")
        parts += [part / each for each in types] if isinstance(types, dict) else []
    for part in dict.fromkeys(parts):
        config = _object(part / "config.json") or {}
        if "auto_map" in config and not _is_known(config.get("model_type")):
            raise UserError(f"{needs_own_code(str(folder))}.")
        pickled = next((part / name for name in _PICKLES if (part / name).is_file()), None)
        if pickled is not None and not any(part.glob("*.safetensors*")):
            raise UserError(
                f"{pickled} holds weights as a pickle, which can run code and is not read: if you trust it, convert it "
                f"with `python -c \"from sentence_transformers import SentenceTransformer as S; S('{folder}')"
                f".save('{folder}-safe')\"` and name {folder}-safe."
            )


STUDENT_RECORD = "ibkd.json"
"""The last file written to a student folder. A folder with this file is complete."""


def student_record(folder: Path) -> dict[str, Any]:
    """Read the record of a student.

    Raises:
        UserError: there is none, or it is no JSON object.
    """
    found = _object(folder / STUDENT_RECORD)
    if found is None:
        raise UserError(f"{folder} has no {STUDENT_RECORD} and is no student: name the folder of one.")
    return found


def _check_recorded(folder: Path) -> None:
    """Compare the files of a student with the sizes and checksums in its record. Older records have none.

    Raises:
        UserError: a file was changed.
    """
    files = (_object(folder / STUDENT_RECORD) or {}).get("files", {})
    for name, recorded in files.items() if isinstance(files, dict) else ():
        path = folder / name
        if not path.is_file() or not isinstance(recorded, dict):
            what = "it is missing"
        elif path.stat().st_size != recorded.get("bytes") or sha256_file(path) != recorded.get("sha256"):
            what = "its checksum is not the recorded one"
        else:
            continue
        raise UserError(
            f"{path} is damaged or was changed ({what}): bring it back from a copy, or remove its entry below `files` "
            f"in {folder / STUDENT_RECORD} if the change is meant."
        )


def needs_own_code(name: str) -> str:
    """Return the message for a model whose architecture is not part of the installed libraries."""
    return (
        f"`{name}` needs code of its own (auto_map in config.json or a class in modules.json), which is never run: "
        "give a model whose architecture is part of transformers and sentence-transformers, or the vectors that a "
        "program you trust with that code writes"
    )


def _is_known(model_type: object) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def stored_format(folder: Path) -> str | None:
    """Return the number format that all weights of a model folder are stored in, such as "BF16". None for several."""
    formats: set[str] = set()
    for path in folder.rglob("*.safetensors"):
        try:
            with open(path, "rb") as file:
                tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            formats |= {each["dtype"] for name, each in tensors.items() if name != "__metadata__"}
        except (OSError, ValueError, RecursionError, OverflowError, MemoryError, AttributeError, KeyError, TypeError):
            return None  # The libraries say what is wrong with it.
    return formats.pop() if len(formats) == 1 else None


def _object(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    value = _json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} is no JSON object ({_kind(value)}): get the model's folder again.")
    return value


def _module_paths(folder: Path) -> list[str]:
    path = folder / "modules.json"
    if not path.is_file():
        return []
    value = _json(path)
    if not isinstance(value, list) or not all(
        isinstance(each, dict) and isinstance(each.get("path"), str) and isinstance(each.get("type"), str)
        for each in value
    ):
        raise UserError(f"{path} is no list of modules, each with a type and a path: get the model's folder again.")
    if not value:
        raise UserError(f"{path} names no module: get the model's folder again.")
    return [each["path"] for each in value]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not readable JSON ({type(error).__name__}): get the model's folder again."
        ) from error


def _kind(value: object) -> str:
    return {"NoneType": "null", "list": "a list", "str": "a text"}.get(type(value).__name__, "a number")


@contextlib.contextmanager
def lacking_weights() -> Iterator[set[str]]:
    """Collect the names of weights that a checkpoint lacks and transformers fills with random numbers.

    transformers reports them only in a log for people. Here the data of that report is read.
    """
    from transformers import modeling_utils

    found: set[str] = set()
    library: Any = modeling_utils
    report = library.log_state_dict_report

    def read(*arguments: Any, **named: Any) -> Any:
        info = named.get("loading_info")
        if info is not None:
            found.update(info.missing_keys)
            found.update(each[0] for each in info.mismatched_keys)
        return report(*arguments, **named)

    library.log_state_dict_report = read
    try:
        yield found
    finally:
        library.log_state_dict_report = report


def check_no_weight_lacks(name: str, lacking: set[str], model: Any) -> None:
    """Refuse a model whose vectors depend on weights that its checkpoint lacks.

    Args:
        name: the name that the user gave.
        lacking: the names of missing weights, from `lacking_weights`.
        model: the transformers model, without unused parts.

    Raises:
        UserError: weights are missing. The message names them.
    """
    # The mask embedding of XLNet is only for training.
    random = sorted(each for each in lacking & set(model.state_dict()) if not each.endswith("mask_emb"))
    if random:
        shown = ", ".join(random[:3]) + (f" and {len(random) - 3} more" if len(random) > 3 else "")
        raise UserError(
            f"The weights of `{name}` lack {shown}, so its vectors would be random: get a checkpoint of this "
            f"architecture ({type(model).__name__}) with the names that transformers gives its weights."
        )
