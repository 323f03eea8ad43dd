"""The transformer in the form that converters follow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ibkd_retrieval.encoders.backends.lean import LeanTransformer, is_lean


class TracedTransformer(torch.nn.Module):
    """`input_ids, attention_mask -> token states`: lean where the architecture allows."""

    def __init__(self, model: Any) -> None:
        """Share the parameters of a transformers model, which is left in use."""
        super().__init__()
        self._lean = LeanTransformer(model) if is_lean(model) else None
        # With the fused attention a converter would find its mask written in operations that it does not know.
        if self._lean is None:
            model.set_attn_implementation("eager")
            self._model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token states, float32 [n, longest, width]."""
        if self._lean is not None:
            states: Tensor = self._lean(input_ids, attention_mask)
        else:
            states = self._model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states
