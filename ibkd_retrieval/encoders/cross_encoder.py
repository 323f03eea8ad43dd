"""Cross-encoders: models that read a query and a text together and return one score."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ibkd_retrieval.encoders.device import choose_device, choose_dtype
from ibkd_retrieval.encoders.loading import find_model, model_load_errors, quiet_transformers, short_model_name
from ibkd_retrieval.encoders.model_folder import check_no_weight_lacks, lacking_weights
from ibkd_retrieval.encoders.tokens import DEFAULT_BATCH_TOKENS, token_budget_batches
from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sentence_transformers import CrossEncoder
    from transformers import PretrainedConfig

    from ibkd_retrieval.progress import Task


class PairScorer:
    """Scores pairs of query and text in batches of a bounded number of tokens, longest first."""

    def __init__(self, model: CrossEncoder, name: str, batch_tokens: int = DEFAULT_BATCH_TOKENS) -> None:
        self.name = name
        self._model = model
        self._batch_tokens = batch_tokens

    @functools.cached_property
    def weight_hash(self) -> str:
        """The SHA-256 of everything that decides a score: architecture, weights and length."""
        digest = hashlib.sha256(f"{type(self._model.model).__name__} {self._model.max_seq_length}".encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().data)
        return digest.hexdigest()

    def score(self, pairs: Sequence[tuple[str, str]], progress: Task | None = None) -> NDArray[np.float32]:
        """Return the logit of each pair, [n]. Higher is more relevant.

        There is no sigmoid, because it would make ties near 0 and 1.

        Args:
            pairs: pairs of query and text.
            progress: the display. It advances by the pairs done.
        """
        import torch

        scores = np.empty(len(pairs), dtype=np.float32)
        if not pairs:
            return scores
        encoded = self._model.tokenizer(
            [query for query, _ in pairs],
            [text for _, text in pairs],
            truncation=True,
            max_length=self._model.max_seq_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        for rows in token_budget_batches([len(ids) for ids in encoded["input_ids"]], self._batch_tokens):
            scores[rows] = self._model.predict(
                [pairs[row] for row in rows],
                batch_size=len(rows),
                show_progress_bar=False,
                activation_fn=torch.nn.Identity(),
            )
            if progress is not None:
                progress.advance(len(rows))
        return scores


def is_cross_encoder(name: str) -> bool:
    """Whether a model is a sequence classifier with one score. Its weights are not loaded."""
    try:
        return _has_one_score(_config(name))
    except UserError:  # An encoder may lack the configuration of a transformer. `Encoder.load` says what is wrong.
        return False


def check_cross_encoder(name: str) -> None:
    """Check that a model is a cross-encoder with one score, without loading its weights.

    Raises:
        UserError: there is no such model, or it is another kind.
    """
    _require_one_score(_config(name), name)


def _config(name: str) -> PretrainedConfig:
    from transformers import AutoConfig

    with quiet_transformers(), model_load_errors(name):
        config: PretrainedConfig = AutoConfig.from_pretrained(find_model(name), trust_remote_code=False)
    return config


def _has_one_score(config: PretrainedConfig) -> bool:
    architectures = getattr(config, "architectures", None) or []
    return config.num_labels == 1 and any("SequenceClassification" in each for each in architectures)


def _require_one_score(config: PretrainedConfig, name: str) -> None:
    if not _has_one_score(config):
        architectures = ", ".join(getattr(config, "architectures", None) or ["unknown architecture"])
        raise UserError(
            f"`{name}` is no cross-encoder with one score ({architectures}, {config.num_labels} outputs): give one "
            "such as `cross-encoder/ms-marco-MiniLM-L6-v2`."
        )


def load_pair_scorer(
    name: str,
    *,
    max_length: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> PairScorer:
    """Load a cross-encoder by folder or hub name.

    Args:
        name: the folder or hub name of a sequence classifier with one output.
        max_length: the most tokens of query and text together. None keeps the limit of the model.
        device: "auto", "cpu", "cuda", "cuda:1".
        dtype: "auto" is float32, because scores in bfloat16 have too many ties.
        batch_tokens: the most tokens in one batch, with padding.

    Raises:
        UserError: no such model or device, a model that is no cross-encoder, or a length it cannot read.
    """
    from sentence_transformers import CrossEncoder

    resolved, place = find_model(name), choose_device(device)
    chosen = choose_dtype("float32" if dtype == "auto" else dtype, place)
    with quiet_transformers(), model_load_errors(name), lacking_weights() as lacking:
        model = CrossEncoder(
            resolved,
            device=place,
            trust_remote_code=False,
            model_kwargs={"dtype": chosen, "use_safetensors": True},
        )
    config = model.config
    _require_one_score(config, name)
    check_no_weight_lacks(name, lacking, model.model)
    limit = getattr(config, "max_position_embeddings", None)
    if max_length is not None and (max_length < 8 or (limit is not None and max_length > limit)):
        raise UserError(f"`{name}` cannot read {max_length} tokens: give a length between 8 and {limit}.")
    if max_length is not None:
        model.max_seq_length = max_length
    elif limit is not None and (model.max_seq_length is None or model.max_seq_length > limit):
        model.max_seq_length = limit
    return PairScorer(model, short_model_name(name), batch_tokens)
