"""A model whose token table holds the tokens of some texts alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.students import is_static
from ibkd_retrieval.errors import UserError, require

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

_AT_ONCE = 1000


def cut_vocabulary(model: SentenceTransformer, texts: Iterable[str]) -> SentenceTransformer:
    """Copy a model without the tokens that no text has. The copy gives these texts the same vectors.

    Special tokens and tokens of one character stay. So a word that no text has is still read, in smaller pieces.

    Args:
        model: a transformer or a static model. It is not changed.
        texts: the texts, without prompts.

    Raises:
        MissingPackage: skeletoken is not installed.
        UserError: the tokenizer is of a kind that cannot be cut.
    """
    require("skeletoken", "`vocabulary='corpus'`", "static")
    from skeletoken import TokenizerModel
    from skeletoken.external.sentence_transformers import reshape_embeddings

    first: Any = model[0]
    fast: Any = first.tokenizer if is_static(model) else getattr(model.tokenizer, "backend_tokenizer", None)
    whole = None if fast is None else TokenizerModel.from_tokenizer(fast)
    # A merge of BPE needs tokens that no text shows.
    if whole is None or whole.model.type.value not in ("WordPiece", "Unigram"):
        raise UserError(
            "The tokenizer of the student is neither WordPiece nor Unigram, whose tokens can be left out: leave "
            "`vocabulary` out."
        )
    lower = bool(getattr(first, "do_lower_case", False))
    prompts = (prompt for prompt in (model.prompts or {}).values() if prompt)
    read = (text.lower() if lower else text for text in chain(prompts, texts))
    kept = set(_tokens(whole.to_tokenizer(), read))
    marks = (whole.continuing_subword_prefix or "", whole.initial_subword_prefix or "")
    kept |= {token for token in whole.vocabulary if any(len(token.removeprefix(mark)) <= 1 for mark in marks)}
    kept |= {added.content for added in fast.get_added_tokens_decoder().values()}
    kept |= {token for token in (whole.unk_token, whole.pad_token) if token is not None}
    cut = whole.remove_tokens_from_vocabulary([token for token in whole.vocabulary if token not in kept])
    if not is_static(model):
        return reshape_embeddings(model, cut)
    return _static(model, cut.to_tokenizer(), [whole.vocabulary[token] for token in cut.sorted_vocabulary])


def _tokens(tokenizer: Tokenizer, texts: Iterator[str]) -> Iterator[str]:
    """The tokens of texts at their whole length."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    while part := list(islice(texts, _AT_ONCE)):
        for encoding in tokenizer.encode_batch(part):
            yield from encoding.tokens


def _static(model: SentenceTransformer, tokenizer: Tokenizer, rows: list[int]) -> SentenceTransformer:
    """Copy a static model with some rows of its table."""
    import copy

    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    whole: Any = model[0]
    table = whole.embedding.weight.detach()[rows].clone()
    made = copy.deepcopy(model)
    made[0] = StaticEmbedding(tokenizer, embedding_weights=table).to(model.device)
    return made.eval()
