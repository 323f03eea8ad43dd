"""What was found out about this machine, kept in the user's cache folder so that it is measured once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ibkd_retrieval.files import cache_folder, write_json


def recall(what: str, key: dict[str, Any]) -> Any | None:
    """The value kept for `what` under a key of JSON types, None where there is none or it cannot be read."""
    try:
        kept = json.loads(_path(what, key).read_bytes())
    except (OSError, ValueError):
        return None
    # The name of the file is a digest; what it stands for is compared in full.
    return kept.get("value") if isinstance(kept, dict) and kept.get("key") == key else None


def remember(what: str, key: dict[str, Any], value: Any) -> None:
    """Keep a value of JSON types; where the cache cannot be written, it is measured again next time."""
    try:
        write_json(_path(what, key), {"key": key, "value": value})
    except OSError:
        return


def _path(what: str, key: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "measured" / f"{what}-{digest[:16]}.json"
