"""The student as a training module: from features to unit vectors and the input representation."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from ibkd_retrieval.distill.student import check_freezing
from ibkd_retrieval.encoders.device import choose_dtype
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.students import is_static

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor


class StudentModule(torch.nn.Module):
    """Wraps a sentence-transformers model for training.

    Dropout is off: the target of a text is one fixed vector, and without it a step depends on the seed
    and the step's number alone. The transformer runs in `dtype` under autocast, its weights stay float32;
    `arithmetic` says what "auto" became.
    """

    def __init__(self, model: SentenceTransformer, dtype: str, *, freeze_embeddings: bool = False) -> None:
        """Take over `model` until `close`.

        Args:
            model: float32, on its device.
            dtype: as the user names it.
            freeze_embeddings: leave the token tables as they are.

        Raises:
            UserError: what is to be frozen is all there is.
        """
        super().__init__()
        self.model = model.eval()
        chosen = choose_dtype(dtype, str(model.device))
        # Gradients in float16 vanish without loss scaling; hardware without bfloat16 trains in float32.
        self._dtype = torch.float32 if chosen == torch.float16 else chosen
        self.arithmetic = str(self._dtype).removeprefix("torch.")
        self._static = is_static(model)
        check_freezing(model, freeze_embeddings)
        self._frozen = [p for p in self.token_layer.parameters() if p.requires_grad] if freeze_embeddings else []
        for parameter in self._frozen:
            parameter.requires_grad_(False)
        if self._static:
            return
        self._attention = self.transformer.config._attn_implementation
        if model.device.type == "cpu":
            # The fused attention's backward pass on CPUs takes three times as long as the plain one's.
            self.transformer.set_attn_implementation("eager")

    def close(self) -> None:
        """Restore the student's attention implementation and unfreeze all parameters."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        if not self._static:
            self.transformer.set_attn_implementation(self._attention)

    def as_encoder(self, model: SentenceTransformer, dtype: str) -> Encoder:
        """A copy of the student, or of a model made from it, as an encoder."""
        model = copy.deepcopy(model)
        if not self._static:
            transformer: Any = model[0].auto_model
            transformer.set_attn_implementation(self._attention)
        return Encoder(model, "student in training", dtype=dtype)

    @property
    def transformer(self) -> Any:
        """The transformers model inside, whose class varies with the architecture."""
        return self.model[0].auto_model

    @property
    def token_layer(self) -> torch.nn.Module:
        """The module whose output is the transformer's input representation; a static student is nothing else."""
        if self._static:
            table: Any = self.model[0].embedding
            return table  # type: ignore[no-any-return]
        embeddings = getattr(self.transformer, "embeddings", None)
        if isinstance(embeddings, torch.nn.Module):
            return embeddings
        layer: torch.nn.Module = self.transformer.get_input_embeddings()
        return layer

    def forward(self, features: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Encode padded features.

        Args:
            features: what `pad` gives; with `prompt_lengths` [n] where pooling leaves out so many tokens of each text.

        Returns:
            Unit vectors [n, d] with gradient, and the mean over a text's tokens of the embedding layer's
            output [n, e] without; None in its place for a static student, whose vectors are that mean.
        """
        features = dict(features)
        if self._static:
            return self._unit(self.model[0](features)), None
        prompts = features.pop("prompt_lengths", None)
        device = features["input_ids"].device.type
        embedded: list[Tensor] = []
        hook = self.token_layer.register_forward_hook(lambda module, arguments, output: embedded.append(output))
        try:
            with torch.autocast(device, dtype=self._dtype, enabled=self._dtype != torch.float32):
                out = self.model[0](dict(features))
        finally:
            hook.remove()
        name = self.model[0].module_output_name
        out[name] = out[name].float()
        if prompts is not None:
            # The modules after the transformer know one prompt length a batch; here documents and queries meet.
            positions = torch.arange(out["attention_mask"].shape[1], device=prompts.device)
            out["attention_mask"] = out["attention_mask"] * (positions >= prompts[:, None])
        vectors = self._unit(out)
        mask = features["attention_mask"][..., None].float()
        inputs = (embedded[0].detach().float() * mask).sum(1) / mask.sum(1).clamp_min(1.0)
        return vectors, inputs

    def _unit(self, out: dict[str, Any]) -> Tensor:
        """Unit vectors [n, d] of what the first module gave."""
        for module in list(self.model)[1:]:
            out = module(out)
        return torch.nn.functional.normalize(out["sentence_embedding"], dim=-1)
