"""A form of the transformer that converters can trace."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ibkd_retrieval.encoders.backends.lean import LeanTransformer, is_lean


class TracedTransformer(torch.nn.Module):
    """The map `input_ids, attention_mask -> token states`, by `LeanTransformer` where the architecture allows."""

    def __init__(self, model: Any) -> None:
        """Share the parameters of a transformers model, which stays usable."""
        super().__init__()
        self._lean = LeanTransformer(model) if is_lean(model) else None
        # Converters do not know the mask operations of the fused attention.
        if self._lean is None:
            model.set_attn_implementation("eager")
            self._model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the token states, float32 [n, longest, width]."""
        if self._lean is not None:
            states: Tensor = self._lean(input_ids, attention_mask)
        else:
            states = self._model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states
