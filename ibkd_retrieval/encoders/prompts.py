"""Prompts before texts: those of the model folder, of the user, and of known families whose folders lack them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ibkd_retrieval.encoders.loading import short_model_name

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Families whose prompts are in their model cards but not in their folders.
_FAMILIES: tuple[tuple[str, str, str], ...] = (
    (r"e5-mistral|e5.*instruct", "Instruct: Given a question, retrieve passages that answer it\nQuery: ", ""),
    (r"(^|[-_.])e5([-_.]|$)", "query: ", "passage: "),
    (r"bge-m3", "", ""),
    (r"bge-.*-zh", "为这个句子生成表示以用于检索相关文章：", ""),
    (r"(^|[-_.])bge([-_.]|$)", "Represent this sentence for searching relevant passages: ", ""),
    (r"nomic-embed", "search_query: ", "search_document: "),
    (r"gte-qwen", "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ", ""),
    (r"modernbert-embed", "search_query: ", "search_document: "),
    # Trained without prompts.
    (r"(^|[-_.])gte([-_.]|$)", "", ""),
    (r"^(all|multi-qa|paraphrase|msmarco|gtr|sentence-t5|distiluse|stsb|nli)-", "", ""),
)


def set_prompts(model: SentenceTransformer, query: str | None, document: str | None) -> None:
    """Set the prompts of a model, in place. None keeps its own."""
    from ibkd_retrieval.encoders.weights import prompt_of

    for kind, prompt in (("query", query), ("document", document)):
        if prompt is not None and prompt != prompt_of(model, kind):  # type: ignore[arg-type]
            model.prompts = {**(model.prompts or {}), kind: prompt}
            if not prompt and kind == "document":
                # Other names of the document prompt.
                model.prompts = {name: text for name, text in model.prompts.items() if name in ("query", "document")}


def word_on_prompts(name: str, prompts: Iterable[str | None], *, known: bool) -> str | None:
    """Return a warning about a model without prompts, None where it probably needs none.

    Args:
        name: the folder or hub name of the model.
        prompts: the prompts of the model.
        known: whether the warning is for families that need prompts, or for unknown families.
    """
    folder = Path(name)
    # A student has the prompts of its teacher.
    if any(prompts) or (folder / "ibkd.json").is_file():
        return None
    names = [short_model_name(name), short_model_name(_first_name(folder))]
    for pattern, query, document in _FAMILIES:
        if any(re.search(pattern, each.lower()) for each in names):
            if not known or not (query or document):
                return None
            given = [f"`query_prompt` {json.dumps(query, ensure_ascii=False)}"]
            given += [f"`document_prompt` {json.dumps(document, ensure_ascii=False)}"] if document else []
            return (
                f"{names[0]} registers no prompts, and models of its family are trained with some: give "
                f"{' and '.join(given)}."
            )
    if known:
        return None
    return (
        f"{names[0]} registers no prompts, so none is put before queries and documents: if its model card asks for "
        "some, give `query_prompt` and `document_prompt`."
    )


def _first_name(folder: Path) -> str:
    """Return the name of a model before it was saved in a folder, where the folder records it."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    found = config.get("_name_or_path") if isinstance(config, dict) else None
    return found if isinstance(found, str) else ""
