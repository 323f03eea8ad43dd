"""The transformer run by torch, on a CPU or a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.backends.lean import LeanTransformer
    from ibkd_retrieval.encoders.tokens import PaddedTokens


_QUERY_TOKENS = 128


class TorchBackend:
    """Runs a model's transformer in a number format: lean where its architecture allows."""

    name = "torch"

    def __init__(self, model: SentenceTransformer, dtype: torch.dtype, *, lean: bool = True) -> None:
        """Take over `model`, on its device; its transformer is converted in place, and runs lean where it may."""
        self.dtype = str(dtype).removeprefix("torch.")
        self._transformer: Any = model[0]
        self._transformer.auto_model.to(dtype)
        self._device = model.device
        self._output = str(self._transformer.module_output_name)
        self._lean = lean_transformer(model, dtype) if lean else None

    def __call__(self, tokens: PaddedTokens) -> dict[str, Any]:
        """Run the transformer; see `Backend`."""
        mask = self._on_device(tokens.full_mask)
        if self._lean is None:
            features = self._transformer({"input_ids": self._on_device(tokens.ids), "attention_mask": mask})
            features[self._output] = features[self._output].float()
            return features  # type: ignore[no-any-return]
        padded = tokens.mask is not None and (self._device.type == "cpu" or self._lean.can_vary())
        # Laid end to end, a batch is multiplied in one of few numbers of rows; a query gains nothing by it.
        packed = padded or (self._lean.packs_weights and tokens.ids.size > _QUERY_TOKENS)
        states = self._packed(self._lean, tokens) if packed else self._padded(self._lean, tokens, mask)
        return {self._output: states, "attention_mask": mask}

    def _padded(self, lean: LeanTransformer, tokens: PaddedTokens, mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = lean(self._on_device(tokens.ids), None if tokens.mask is None else mask)
        return states.float()

    def _packed(self, lean: LeanTransformer, tokens: PaddedTokens) -> torch.Tensor:
        """Run texts laid end to end, and give their states back side by side, zeros for padding."""
        import numpy as np
        import torch

        from ibkd_retrieval.encoders.backends.packing import places_in_padded

        count, longest = tokens.ids.shape
        lengths = tokens.full_mask.sum(axis=1).tolist()
        places = places_in_padded(lengths, longest)
        bounds = None
        if lean.can_vary():
            bounds = self._on_device(np.cumsum([0, *lengths], dtype=np.int32))
        where = self._on_device(places)
        ids = self._on_device(tokens.ids.reshape(-1)[places])
        states = lean.packed(ids, where % longest, lengths, bounds)
        out = torch.zeros(count * longest, states.shape[1], device=self._device)
        out[where] = states.float()
        return out.view(count, longest, -1)

    def _on_device(self, array: Any) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor
        # From pinned memory the copy runs beside the computation that is under way.
        return tensor.pin_memory().to(self._device, non_blocking=True)


def lean_transformer(model: SentenceTransformer, dtype: torch.dtype) -> LeanTransformer | None:
    """The model's transformer without what only costs time, None where its architecture has no such form here."""
    from ibkd_retrieval.encoders.autotune.cpu import packs_weights
    from ibkd_retrieval.encoders.backends.lean import LeanTransformer, is_lean

    transformer: Any = model[0]
    if not gives_token_states(model) or not is_lean(transformer.auto_model):
        return None
    lean = LeanTransformer(transformer.auto_model)
    if model.device.type == "cpu" and packs_weights(dtype):
        lean.pack_weights()
    return lean


def gives_token_states(model: SentenceTransformer) -> bool:
    """Whether all that the model's further modules read of its transformer are the states of its last layer."""
    transformer: Any = model[0]
    return transformer.module_output_name == "token_embeddings" and not getattr(
        transformer.auto_model.config, "output_hidden_states", False
    )
