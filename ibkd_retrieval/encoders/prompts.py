"""Prompts: the text before every query or document, and the families of models that are trained with some."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ibkd_retrieval.encoders.loading import short_model_name
from ibkd_retrieval.encoders.model_folder import STUDENT_RECORD
from ibkd_retrieval.encoders.routes import routes
from ibkd_retrieval.encoders.tokens import has_lone_surrogate
from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.protocol import Kind

# Families whose prompts are in their model cards but not in their folders.
_FAMILIES: tuple[tuple[str, str, str], ...] = (
    (r"e5-mistral|e5.*instruct", "Instruct: Given a question, retrieve passages that answer it\nQuery: ", ""),
    (r"(^|[-_.])e5([-_.]|$)", "query: ", "passage: "),
    (r"bge-m3", "", ""),
    (r"bge-.*-zh", "为这个句子生成表示以用于检索相关文章：", ""),
    (r"(^|[-_.])bge([-_.]|$)", "Represent this sentence for searching relevant passages: ", ""),
    (r"arctic-embed-.*v2", "query: ", ""),
    (r"arctic-embed", "Represent this sentence for searching relevant passages: ", ""),
    (r"embeddinggemma", "task: search result | query: ", "title: none | text: "),
    (
        r"qwen3-embedding",
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
        "",
    ),
    (r"nomic-embed", "search_query: ", "search_document: "),
    (r"gte-qwen", "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ", ""),
    (r"modernbert-embed", "search_query: ", "search_document: "),
    # Trained without prompts.
    (r"(^|[-_.])gte([-_.]|$)", "", ""),
    (r"^(all|multi-qa|paraphrase|msmarco|gtr|sentence-t5|distiluse|stsb|nli)-", "", ""),
)


def check_prompt(prompt: str | None, parameter: str) -> None:
    """Refuse a prompt that cannot stand before a text as it is.

    Args:
        prompt: the prompt. None keeps that of the model.
        parameter: the parameter that gives it, for the message.

    Raises:
        UserError: it is no text, or it has a placeholder such as `{query}`.
    """
    if prompt is None:
        return
    if has_lone_surrogate(prompt):
        raise UserError(f"`{parameter}` {prompt!r} is no text (it holds half of a surrogate pair): write it again.")
    placeholder = re.search(r"\{\w*\}|%s", prompt)
    if placeholder is not None:
        raise UserError(
            f"`{parameter}` {prompt!r} has the placeholder {placeholder[0]}, which nothing fills in: a prompt stands "
            "before every text as it is, so write the words themselves."
        )


def set_prompts(
    model: SentenceTransformer, query: str | None, document: str | None, *, of: Literal["", "teacher_"] = ""
) -> None:
    """Set the prompts of a model, in place. None keeps its own.

    Args:
        model: the model.
        query: the text before every query.
        document: the text before every document.
        of: the beginning of the names of the parameters, for messages.

    Raises:
        UserError: a prompt is no text or has a placeholder.
    """
    kinds: tuple[tuple[Kind, str | None], ...] = (("query", query), ("document", document))
    for kind, prompt in kinds:
        check_prompt(prompt, f"{of}{kind}_prompt")
        for each in routes(model):
            if prompt is not None and prompt != prompt_of(each, kind):
                each.prompts = {**(each.prompts or {}), kind: prompt}
                if not prompt and kind == "document":
                    # Other names of the document prompt.
                    each.prompts = {name: text for name, text in each.prompts.items() if name in ("query", "document")}


def word_on_prompts(
    name: str, prompts: Iterable[str | None], *, known: bool, of: Literal["", "teacher_"] = ""
) -> str | None:
    """Return a warning about a model without prompts, None where it probably needs none.

    Args:
        name: the folder or hub name of the model.
        prompts: the prompts of the model.
        known: whether the warning is for families that need prompts, or for unknown families.
        of: the beginning of the names of the parameters, for messages.
    """
    folder = Path(name)
    # A student has the prompts of its teacher.
    if any(prompts) or (folder / STUDENT_RECORD).is_file():
        return None
    names = [short_model_name(name), short_model_name(_first_name(folder))]
    for pattern, query, document in _FAMILIES:
        if any(re.search(pattern, each.lower()) for each in names):
            if not known or not (query or document):
                return None
            given = [f"`{of}query_prompt` {json.dumps(query, ensure_ascii=False)}"]
            given += [f"`{of}document_prompt` {json.dumps(document, ensure_ascii=False)}"] if document else []
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


def prompt_of(model: SentenceTransformer, kind: Kind) -> str:
    """Return the prompt of a model for a kind of text, "" for none."""
    prompts = model.prompts or {}
    names = ("query",) if kind == "query" else ("document", "passage", "corpus")
    # sentence-transformers registers an empty prompt named `document` in every model. So an empty one does not count.
    return next((prompt for name in names if (prompt := prompts.get(name))), "")
