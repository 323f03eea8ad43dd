"""Indexes and encoders as parts of other libraries. Each module needs the library that it is named after."""

from __future__ import annotations

from typing import Any

import ibkd_retrieval as ibkd


def opened(index: Any) -> Any:
    """An opened index, or the one in a folder."""
    return index if hasattr(index, "search") else ibkd.open_index(index)
