"""What a model is: a digest of all that decides its vectors, and the number of its parameters."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.loading import quiet_transformers

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
    """SHA-256 over what decides a vector: weights, modules and their settings, tokens, prompts, length."""
    digest = hashlib.sha256()
    settings = {
        "modules": [[type(module).__name__, _settings(module)] for module in model],
        "prompts": dict(sorted((model.prompts or {}).items())),
        "max_length": model.max_seq_length,
        "tokens": _tokens_digest(model.tokenizer),
    }
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def _settings(module: Any) -> Any:
    """The module's own settings; a transformer's are in its weights and its architecture's name."""
    if hasattr(module, "auto_model"):
        config = module.auto_model.config
        return [config.model_type, config.num_attention_heads, str(config.hidden_act), module.do_lower_case]
    return module.get_config_dict() if hasattr(module, "get_config_dict") else None


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
