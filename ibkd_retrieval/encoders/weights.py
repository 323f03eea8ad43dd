"""What a model is: a digest of all that decides its vectors, and the number of its parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.loading import quiet_transformers
from ibkd_retrieval.errors import UserError

Said = Callable[[str], None]

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.protocol import Kind


class ParameterCount(dict[str, int]):
    """Parameters by part: "embedding" (token tables), "transformer" (all else)."""

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.values())


def count_parameters(model: SentenceTransformer) -> ParameterCount:
    """Count parameters, the token and position tables apart from the layers that compute."""
    import torch

    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag)
        for parameter in module.parameters()
    }
    embedding = sum(p.numel() for p in model.parameters() if id(p) in tables)
    total = sum(p.numel() for p in model.parameters())
    return ParameterCount(embedding=embedding, transformer=total - embedding)


def weight_hash(model: SentenceTransformer) -> str:
    """SHA-256 over what decides a vector: weights, modules and all their settings, tokens, prompts, length.

    A setting counts where it differs from its architecture's default, so that a new default in a newer library, for
    which a model has no value of its own, leaves the hash as it is; `_NO_VECTOR` lists those that never count.
    """
    return _digest(model, [[type(module).__name__, _settings(module)] for module in model])


def former_weight_hash(model: SentenceTransformer, present: str) -> str:
    """The hash that version 0.1.0 gave: of a transformer's settings it has the names of a few alone.

    It equals `present`, the model's `weight_hash`, where all further settings are the architecture's defaults.
    """
    settings = [[_settings(module), _settings(module, former=True)] for module in model]
    if all(now == former for now, former in settings):
        return present
    return _digest(
        model, [[type(module).__name__, former] for module, (_, former) in zip(model, settings, strict=True)]
    )


def recognise_former(
    encoder: Any, recorded: str, sample: Callable[[], tuple[list[str], NDArray[np.float32]]], where: str, said: Said
) -> None:
    """Have an encoder go by the hash that version 0.1.0 recorded of it, once it is seen to give the vectors stored.

    Nothing happens where the hash is the present one, or of another model.

    Args:
        encoder: perhaps recorded by its former hash.
        recorded: the hash that is recorded.
        sample: reads a few texts, and the vectors [n, dim] that are stored for them.
        where: what records the hash, for messages.
        said: told that it was so.

    Raises:
        UserError: the texts have other vectors now, so a setting that the former hash left out was changed.
    """
    if recorded == encoder.weight_hash or recorded != getattr(encoder, "former_hash", None):
        return
    texts, stored = sample()
    if texts:
        found = encoder.encode(texts)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(stored, axis=1)
        nearness = (found * stored).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)
        if nearness.min() < _SAME:
            raise UserError(
                f"{where} was made with {encoder.name}, whose settings have changed since: a document of it has a "
                f"cosine of {nearness.min():.2f} to the vector that is stored, so index the corpus again."
            )
    encoder.weight_hash = recorded
    confirmed = f"confirmed by {len(texts)} of its documents" if texts else "not confirmed, for want of texts"
    said(
        f"{where} was made by version 0.1.0, whose weight hash left settings of the architecture out: the model is "
        f"{confirmed}; index the corpus again to have all of it on record."
    )


# What rounding in a half format, or in stored 8 bits, leaves of a cosine of 1.
_SAME = 0.97


def _digest(model: SentenceTransformer, modules: list[list[Any]]) -> str:
    settings = {
        "modules": modules,
        "prompts": dict(sorted((model.prompts or {}).items())),
        "max_length": model.max_seq_length,
        "tokens": _tokens_digest(model.tokenizer),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


# Settings of an architecture that decide no vector: names, training, outputs that are not asked for, tasks, and the
# sizes that the weights' shapes show.
_NO_VECTOR_NAMES = """
    _name_or_path _commit_hash transformers_version architectures auto_map dtype torch_dtype model_type tokenizer_class
    attn_implementation _attn_implementation _attn_implementation_internal experts_implementation
    _experts_implementation _experts_implementation_internal gradient_checkpointing use_cache output_attentions
    output_hidden_states return_dict torchscript id2label label2id num_labels problem_type finetuning_task
    task_specific_params is_encoder_decoder tie_word_embeddings tie_encoder_decoder pruned_heads
    chunk_size_feed_forward initializer_range initializer_factor initializer_cutoff_factor init_std
    bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id
    classifier_dropout classifier_pooling classifier_bias classifier_activation decoder_bias deterministic_flash_attn
    sparse_prediction sparse_pred_ignore_index pretraining_tp repad_logits_with_grad reference_compile summary_type
    summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout summary_last_dropout
    sinusoidal_pos_embds qa_dropout seq_classif_dropout
    vocab_size type_vocab_size hidden_size num_hidden_layers intermediate_size embedding_size d_model d_ff d_inner
    dim hidden_dim n_layers n_layer n_embd n_inner num_layers num_decoder_layers num_attention_heads hidden_act
"""
_NO_VECTOR = frozenset(_NO_VECTOR_NAMES.split())


def _settings(module: Any, *, former: bool = False) -> Any:
    """The module's own settings; a transformer's are those of its architecture and of how texts are given to it."""
    if not hasattr(module, "auto_model"):
        return module.get_config_dict() if hasattr(module, "get_config_dict") else None
    config = module.auto_model.config
    names = [getattr(config, name, None) for name in ("model_type", "num_attention_heads", "hidden_act")]
    known = [*names[:2], str(names[2]), module.do_lower_case]
    further = {} if former else _architecture(config) | _reading(module)
    return [*known, further] if further else known


def _architecture(config: Any) -> dict[str, Any]:
    """The settings of an architecture that differ from its defaults, without those that decide no vector."""
    try:
        defaults = type(config)().to_dict()
    except Exception:  # Some need settings to be made at all, and then all of theirs count.
        defaults = {}
    unknown = object()
    return {
        name: value
        for name, value in sorted(config.to_dict().items())
        if name not in _NO_VECTOR
        and "drop" not in name
        # What a library of an older version wrote for its only value.
        and (name, value) != ("position_embedding_type", "absolute")
        and not (name == "max_position_embeddings" and "rope_parameters" not in defaults)
        and value != defaults.get(name, unknown)
    }


def _reading(module: Any) -> dict[str, Any]:
    """How a transformer's module is given its texts, where that is not the default."""
    tokenizer = module.tokenizer
    chat = "message" in getattr(module, "modality_config", {})
    found = {
        "processing": getattr(module, "processing_kwargs", None),
        "query_length": getattr(module, "query_length", None),
        "document_length": getattr(module, "document_length", None),
        "query_expansion": getattr(module, "query_expansion", None),
        "chat_template": getattr(tokenizer, "chat_template", None) if chat else None,
        "truncation_side": None if tokenizer is None or tokenizer.truncation_side == "right" else "left",
    }
    return {name: value for name, value in found.items() if value}


# Upper case, accents, compatibility forms, scripts without spaces, digits, white space: what tokenizers treat apart.
_TOKENIZER_PROBE = "Straße naïve İstanbul ﬁne CamelCase snake_case 3.14 東京 [SEP] <s>\tdon't 🙂"


def _tokens_digest(tokenizer: Any) -> str:
    """A digest of the vocabulary and of how a probe is cut, which outlasts a change of the tokenizer's file format."""
    if tokenizer is None:
        return ""
    with quiet_transformers():  # A model that reads fewer tokens than the probe has would warn.
        found = tokenizer.encode(_TOKENIZER_PROBE)
    ids = getattr(found, "ids", found)
    return hashlib.sha256(json.dumps([sorted(tokenizer.get_vocab().items()), ids]).encode()).hexdigest()


def prompt_of(model: SentenceTransformer, kind: Kind) -> str:
    """The prompt a model puts before texts of a kind, "" where it asks for none."""
    prompts = model.prompts or {}
    names = ("query",) if kind == "query" else ("document", "passage", "corpus")
    return next((prompt for name in names if (prompt := prompts.get(name))), "")
