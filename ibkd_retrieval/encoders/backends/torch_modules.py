"""The transformer run by torch, on a CPU or a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from ibkd_retrieval.encoders.tokens import PaddedTokens


class TorchBackend:
    """Runs a model's transformer in a number format: lean where its architecture allows."""

    name = "torch"

    def __init__(self, model: SentenceTransformer, dtype: torch.dtype) -> None:
        """Take over `model`, on its device; its transformer is converted in place."""
        self.dtype = str(dtype).removeprefix("torch.")
        self._transformer: Any = model[0]
        self._transformer.auto_model.to(dtype)
        self._device = model.device
        self._output = str(self._transformer.module_output_name)
        self._lean = lean_transformer(model, dtype)

    def __call__(self, tokens: PaddedTokens) -> dict[str, Any]:
        """Run the transformer; see `Backend`."""
        ids = self._on_device(tokens.ids)
        mask = self._on_device(tokens.full_mask)
        if self._lean is not None:
            states = self._lean(ids, None if tokens.mask is None else mask)
            return {self._output: states.float(), "attention_mask": mask}
        features = self._transformer({"input_ids": ids, "attention_mask": mask})
        features[self._output] = features[self._output].float()
        return features  # type: ignore[no-any-return]

    def _on_device(self, array: Any) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor
        # From pinned memory the copy runs beside the computation that is under way.
        return tensor.pin_memory().to(self._device, non_blocking=True)


def lean_transformer(model: SentenceTransformer, dtype: torch.dtype) -> Any | None:
    """The model's transformer without what only costs time, None where its architecture has no such form here."""
    from ibkd_retrieval.encoders.backends.lean import LeanTransformer, is_lean
    from ibkd_retrieval.encoders.machine import fused_gelu_is_faster

    transformer: Any = model[0]
    if not gives_token_states(model) or not is_lean(transformer.auto_model):
        return None
    lean = LeanTransformer(transformer.auto_model)
    if model.device.type == "cpu" and fused_gelu_is_faster(dtype):
        lean.fuse_gelu()
    return lean


def gives_token_states(model: SentenceTransformer) -> bool:
    """Whether all that the model's further modules read of its transformer are the states of its last layer."""
    transformer: Any = model[0]
    return transformer.module_output_name == "token_embeddings" and not getattr(
        transformer.auto_model.config, "output_hidden_states", False
    )
