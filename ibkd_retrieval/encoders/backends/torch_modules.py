"""The torch backend, on a CPU or a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.backends.lean import LeanTransformer
    from ibkd_retrieval.encoders.tokens import PaddedTokens


_QUERY_TOKENS = 128


class TorchBackend:
    """Runs the transformer of a model in a number format, with `LeanTransformer` where the architecture allows."""

    name = "torch"

    def __init__(self, model: SentenceTransformer, dtype: torch.dtype, *, lean: bool = True) -> None:
        """Take over `model` on its device. Its transformer is converted in place."""
        self.dtype = str(dtype).removeprefix("torch.")
        self._transformer: Any = model[0]
        self._transformer.auto_model.to(dtype)
        self._device = model.device
        self._output = str(self._transformer.module_output_name)
        self._lean = lean_transformer(model, dtype) if lean else None

    def __call__(self, tokens: PaddedTokens) -> dict[str, Any]:
        """Run the transformer. See `Backend`."""
        mask = self._on_device(tokens.full_mask)
        if self._lean is None:
            features = self._transformer({"input_ids": self._on_device(tokens.ids), "attention_mask": mask})
            features[self._output] = features[self._output].float()
            return features  # type: ignore[no-any-return]
        padded = tokens.mask is not None and (self._device.type == "cpu" or self._lean.can_vary())
        # Packed batches use few different numbers of rows, which helps oneDNN. A single query gains nothing.
        packed = padded or (self._lean.packs_weights and tokens.ids.size > _QUERY_TOKENS)
        states = self._packed(self._lean, tokens) if packed else self._padded(self._lean, tokens, mask)
        return {self._output: states, "attention_mask": mask}

    def _padded(self, lean: LeanTransformer, tokens: PaddedTokens, mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = lean(self._on_device(tokens.ids), None if tokens.mask is None else mask)
        return states.float()

    def _packed(self, lean: LeanTransformer, tokens: PaddedTokens) -> torch.Tensor:
        """Run texts laid end to end, and return their states as a padded batch with zeros for padding."""
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
        # The copy from pinned memory runs in parallel with the computation.
        return tensor.pin_memory().to(self._device, non_blocking=True)


def lean_transformer(model: SentenceTransformer, dtype: torch.dtype) -> LeanTransformer | None:
    """Return the fast form of the model's transformer, None where the architecture has none."""
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
    """Whether the further modules of the model read only the states of the transformer's last layer."""
    transformer: Any = model[0]
    return transformer.module_output_name == "token_embeddings" and not getattr(
        transformer.auto_model.config, "output_hidden_states", False
    )
