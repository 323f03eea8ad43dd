"""The student as a training module: from features to unit vectors and the input representation."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from ibkd_retrieval.distill.student import check_freezing
from ibkd_retrieval.encoders.device import choose_dtype
from ibkd_retrieval.encoders.encoder import Encoder
from ibkd_retrieval.encoders.students import is_static
from ibkd_retrieval.errors import UserError, first_line

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor


class StudentModule(torch.nn.Module):
    """Wraps a sentence-transformers model for training.

    Dropout is off. The target of a text is a fixed vector, and without dropout a step depends on the seed and its
    number only. The transformer computes in `dtype` under autocast. Its weights stay float32.

    Attributes:
        arithmetic: the number format of the computation, after "auto" is resolved.
    """

    def __init__(self, model: SentenceTransformer, dtype: str, *, freeze_embeddings: bool = False) -> None:
        """Take over `model` until `close`.

        Args:
            model: the float32 model on its device.
            dtype: number format of the computation, or "auto".
            freeze_embeddings: whether the token tables are frozen.

        Raises:
            UserError: nothing would be left to train.
        """
        super().__init__()
        self.model = model.eval()
        chosen = choose_dtype(dtype, str(model.device))
        # Gradients in float16 vanish without loss scaling. Hardware without bfloat16 trains in float32.
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
            # On CPUs, the backward pass of fused attention takes three times as long as that of plain attention.
            self.transformer.set_attn_implementation("eager")
        self._check_format(dtype)

    def _check_format(self, asked: str) -> None:
        """Train in float32 what does not compute in a half format, and refuse what does not compute at all.

        Raises:
            UserError: the student cannot be trained, or not in the number format that is asked for.
        """
        if (fault := self._fault()) and asked == "auto" and self._dtype != torch.float32:
            self._dtype, self.arithmetic = torch.float32, "float32"
            fault = self._fault()
        if fault:
            raise UserError(
                f"The student's architecture ({type(self.transformer).__name__}) cannot be trained in "
                f"{self.arithmetic} ({fault.rstrip('.')}): give another `student`."
            )

    def _fault(self) -> str:
        ids = torch.ones((2, 4), dtype=torch.long, device=self.model.device)
        try:
            with torch.no_grad():
                self({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            if "memory" in str(error):
                raise
            return first_line(error)
        return ""

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
        """The transformers model inside."""
        return self.model[0].auto_model

    @property
    def token_layer(self) -> torch.nn.Module:
        """The module whose output is the transformer's input representation. A static student has only this one."""
        if self._static:
            table: Any = self.model[0].embedding
            return table  # type: ignore[no-any-return]
        embeddings = getattr(self.transformer, "embeddings", None)
        if isinstance(embeddings, torch.nn.Module):
            return embeddings
        layer: torch.nn.Module = self.transformer.get_input_embeddings()
        return layer

    def casting(self) -> torch.autocast:
        """The context in which the transformer runs in the number format of the computation."""
        return torch.autocast(self.model.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32)

    def forward(self, features: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Encode padded features.

        Args:
            features: the result of `pad`. `prompt_lengths` [n] are the numbers of tokens that pooling leaves out.

        Returns:
            Unit vectors [n, d] with gradient, and the mean of the embedding layer's output over the tokens of each text
            [n, e] without gradient. The latter is None for a static student, whose vectors are that mean.
        """
        features = dict(features)
        if self._static:
            return self._unit(self.model[0](features)), None
        prompts = features.pop("prompt_lengths", None)
        embedded: list[Any] = []
        hook = self.token_layer.register_forward_hook(lambda module, arguments, output: embedded.append(output))
        try:
            with self.casting():
                out = self.model[0](dict(features))
        finally:
            hook.remove()
        name = self.model[0].module_output_name
        out[name] = out[name].float()
        if prompts is not None:
            # The modules after the transformer know one prompt length per batch. This batch has documents and queries.
            positions = torch.arange(out["attention_mask"].shape[1], device=prompts.device)
            out["attention_mask"] = out["attention_mask"] * (positions >= prompts[:, None])
        # Within `casting` too, what comes after the transformer runs in float32.
        with torch.autocast(self.model.device.type, enabled=False):
            vectors = self._unit(out)
        mask = features["attention_mask"][..., None].float()
        inputs = (self._embedded(embedded, features["input_ids"]).float() * mask).sum(1) / mask.sum(1).clamp_min(1.0)
        return vectors, inputs

    def _embedded(self, outputs: list[Any], ids: Tensor) -> Tensor:
        """The output of the embedding layer [n, tokens, e], or the token vectors where the model has no such layer."""
        found = outputs[0] if outputs else None
        found = found[0] if isinstance(found, tuple) else found
        # T5 and BART look tokens up in another module that has the same table, XLNet with the tokens first.
        if found is None or found.shape[:2] != ids.shape or found.ndim != 3:
            return torch.nn.functional.embedding(ids, self.transformer.get_input_embeddings().weight.detach())
        return found.detach()  # type: ignore[no-any-return]

    def _unit(self, out: dict[str, Any]) -> Tensor:
        """The unit vectors [n, d] from the output of the first module."""
        for module in list(self.model)[1:]:
            out = module(out)
        return torch.nn.functional.normalize(out["sentence_embedding"], dim=-1)
