"""The weight hash of a model and what it covers: weights, settings, tokens and prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.encoders.loading import quiet_transformers
from ibkd_retrieval.encoders.routes import query_route, routes
from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class ParameterCount(dict[str, int]):
    """The number of parameters by part: "embedding" (token tables) and "transformer" (all others)."""

    @property
    def total(self) -> int:
        """The number of all parameters."""
        return sum(self.values())


def count_parameters(model: SentenceTransformer) -> ParameterCount:
    """Count parameters, the token and position tables apart from the layers."""
    import torch

    tables = {
        id(parameter)
        for each in routes(model)
        for module in each.modules()
        if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag)
        for parameter in module.parameters()
    }
    every = {id(p): p.numel() for each in routes(model) for p in each.parameters()}
    embedding = sum(count for which, count in every.items() if which in tables)
    total = sum(every.values())
    return ParameterCount(embedding=embedding, transformer=total - embedding)


def weight_hash(model: SentenceTransformer) -> str:
    """Return the SHA-256 of everything that decides a vector: weights, modules, settings, tokens, prompts and length.

    A setting is included only where it differs from the default of its architecture. A new default in a newer library
    therefore keeps the hash. `_NO_VECTOR` lists the settings that are never included.
    """
    return _digest(model, [[type(module).__name__, _settings(module)] for module in model])


def former_weight_hash(model: SentenceTransformer, present: str) -> str:
    """Return the weight hash of version 0.1.0, which includes only a few settings of a transformer.

    It equals `present`, the weight hash of the model, where all other settings are the defaults of the architecture.
    """
    settings = [[_settings(module), _settings(module, former=True)] for module in model]
    if all(now == former for now, former in settings):
        return present
    return _digest(
        model, [[type(module).__name__, former] for module, (_, former) in zip(model, settings, strict=True)]
    )


def recognise_former(
    encoder: Any,
    recorded: str,
    sample: Callable[[], tuple[list[str], NDArray[np.float32]]],
    where: str,
    said: Callable[[str], None],
) -> None:
    """Give an encoder the hash that version 0.1.0 recorded, after its vectors are compared with stored ones.

    It does nothing where the recorded hash is the present one, or belongs to another model.

    Args:
        encoder: the encoder.
        recorded: the recorded hash of version 0.1.0, "" for a complete one.
        sample: the function that reads a few texts and their stored vectors [n, dim].
        where: the place of the record, for messages.
        said: the function that shows a message.

    Raises:
        UserError: the vectors of the texts differ, so a setting outside the former hash was changed.
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


# The lowest cosine that rounding to a half format or to stored 8 bits explains.
_SAME = 0.97


def _digest(model: SentenceTransformer, modules: list[list[Any]]) -> str:
    settings = {
        "modules": modules,
        "prompts": dict(sorted((model.prompts or {}).items())),
        "max_length": model.max_seq_length,
        "tokens": _tokens_digest(model.tokenizer),
    }
    if (queries := query_route(model)) is not None:
        settings["queries"] = weight_hash(queries)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        # A table of token vectors may take gigabytes, and in float32 twice as many.
        for part in tensor.detach().reshape(-1).split(_HASHED_AT_ONCE):
            digest.update(part.cpu().float().numpy().data)
    return digest.hexdigest()


_HASHED_AT_ONCE = 1 << 22


# Settings of an architecture that decide no vector: names, training, unused outputs, tasks, and sizes that the shapes
# of the weights show.
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
    """Return the settings of a module. A transformer has those of its architecture and of its input."""
    if not hasattr(module, "auto_model"):
        return module.get_config_dict() if hasattr(module, "get_config_dict") else None
    config = module.auto_model.config
    names = [getattr(config, name, None) for name in ("model_type", "num_attention_heads", "hidden_act")]
    known = [*names[:2], str(names[2]), module.do_lower_case]
    further = {} if former else _architecture(config) | _reading(module)
    return [*known, further] if further else known


def _architecture(config: Any) -> dict[str, Any]:
    """Return the settings of an architecture that differ from its defaults and may decide a vector."""
    try:
        defaults = type(config)().to_dict()
    except Exception:  # Some have no defaults. Then all settings are included.
        defaults = {}
    unknown = object()
    return {
        name: value
        for name, value in sorted(config.to_dict().items())
        if name not in _NO_VECTOR
        and "drop" not in name
        # Older versions wrote this only possible value.
        and (name, value) != ("position_embedding_type", "absolute")
        and not (name == "max_position_embeddings" and "rope_parameters" not in defaults)
        and value != defaults.get(name, unknown)
    }


def _reading(module: Any) -> dict[str, Any]:
    """Return the input settings of a transformer module that differ from the defaults."""
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


# Tokenizers differ in upper case, accents, compatibility forms, scripts without spaces, digits and white space.
_TOKENIZER_PROBE = "Straße naïve İstanbul ﬁne CamelCase snake_case 3.14 東京 [SEP] <s>\tdon't 🙂"


def _tokens_digest(tokenizer: Any) -> str:
    """Return a digest of the vocabulary and of the tokens of a probe. It does not depend on the file format."""
    if tokenizer is None:
        return ""
    with quiet_transformers():  # A model with a shorter limit than the probe would warn.
        found = tokenizer.encode(_TOKENIZER_PROBE)
    ids = getattr(found, "ids", found)
    return hashlib.sha256(json.dumps([sorted(tokenizer.get_vocab().items()), ids]).encode()).hexdigest()
