"""A cache of measurements of this machine, in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ibkd_retrieval.files import cache_folder, write_json


def recall(what: str, key: dict[str, Any]) -> Any | None:
    """Return the value stored for `what` under a key of JSON types, None where there is no readable value."""
    try:
        kept = json.loads(_path(what, key).read_bytes())
    except (OSError, ValueError):
        return None
    # The file name is only a digest, so the full key is compared.
    return kept.get("value") if isinstance(kept, dict) and kept.get("key") == key else None


def remember(what: str, key: dict[str, Any], value: Any) -> None:
    """Store a value of JSON types. If the cache cannot be written, it is measured again next time."""
    try:
        write_json(_path(what, key), {"key": key, "value": value})
    except OSError:
        return


def _path(what: str, key: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "measured" / f"{what}-{digest[:16]}.json"
