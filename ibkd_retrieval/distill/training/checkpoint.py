"""Checkpoints: the state of a run and its best weights, as safetensors and JSON files. Loading runs no code."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ibkd_retrieval.errors import UserError, reason_of
from ibkd_retrieval.files import sha256_file, sync_directory, sync_tree, write_json
from ibkd_retrieval.json_io import parse

if TYPE_CHECKING:
    import torch

_KEPT = 2


class Stateful(Protocol):
    """An object with weights to save: a torch module, or a copy of its weights."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights by name."""

    def load_state_dict(self, state_dict: dict[str, torch.Tensor], /) -> object:
        """Load weights."""


def save_checkpoint(
    folder: Path,
    step: int,
    modules: Mapping[str, Stateful],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Write `folder/step-NNNNNNN`, whole or not at all. Then delete all but the newest two checkpoints.

    Args:
        folder: folder of all checkpoints.
        step: number of finished steps.
        modules: the trained modules, by name.
        optimizer: the optimiser of their parameters.
        state: plain values: settings, fingerprints, dev figures.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:07d}"
    temporary = folder / f".step-{step:07d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for name, module in modules.items():
        save_file(
            {k: v.detach().contiguous().clone() for k, v in module.state_dict().items()},
            temporary / f"{name}.safetensors",
        )
    tensors = {
        f"{index}.{key}": value.contiguous().clone()
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
        if isinstance(value, torch.Tensor)
    }
    save_file(tensors, temporary / "optimizer.safetensors")
    sync_tree(temporary)
    files = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
    value = state | {"step": step, "files": files}
    write_json(temporary / "state.json", value | {"sha256": _digest(value)})
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    sync_directory(folder)
    for old in list_checkpoints(folder)[:-_KEPT]:
        remove_checkpoint(old)


def remove_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint. If the process is killed meanwhile, the checkpoint is no longer listed."""
    (checkpoint / "state.json").unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def list_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "state.json").is_file())


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The plain values of a checkpoint.

    Raises:
        UserError: the state file or another file of the checkpoint is damaged.
    """
    try:
        state: dict[str, Any] = parse((checkpoint / "state.json").read_text("utf-8"))
        if state.pop("sha256", recorded := _digest(state)) != recorded:
            raise ValueError
        for name, checksum in state.pop("files", {}).items():
            if not (checkpoint / name).is_file() or sha256_file(checkpoint / name) != checksum:
                raise ValueError
        missing = [name for name in ("identity", "seconds", "history", "ended", "step") if name not in state]
        # A run of 0.1.0 had no regression beside the contrast.
        if "objective_settings" in (settings := state.get("identity", {}).get("settings", {})):
            settings["objective_settings"].setdefault("regression_weight", 0.0)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{checkpoint} is damaged: delete it to resume from the one before.") from error
    if missing:
        raise UserError(f"{checkpoint} is damaged (lacks {missing[0]}): delete it to resume from the one before.")
    return state


def _digest(state: dict[str, Any]) -> str:
    value = {name: each for name, each in state.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def load_checkpoint(checkpoint: Path, modules: Mapping[str, Stateful], optimizer: torch.optim.Optimizer) -> None:
    """Load the state of modules and optimiser.

    Raises:
        UserError: a file is damaged or belongs to another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        for name, module in modules.items():
            module.load_state_dict(load_file(checkpoint / f"{name}.safetensors"))
        saved = optimizer.state_dict()
        saved["state"] = {}
        for key, value in load_file(checkpoint / "optimizer.safetensors").items():
            index, name = key.split(".", 1)
            saved["state"].setdefault(int(index), {})[name] = value
        optimizer.load_state_dict(saved)
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        raise UserError(
            f"{checkpoint} cannot be resumed ({reason_of(error)}): delete it to resume from the one before."
        ) from error


class BestWeights:
    """A copy of some modules' weights from the evaluation with the highest dev figure.

    Checkpoints include it, so that a resumed run stops at the same step as an uninterrupted one.
    """

    def __init__(self, modules: Mapping[str, torch.nn.Module], figures: Sequence[float] = ()) -> None:
        """Start before the first evaluation, or after evaluations with these `figures`."""
        self._modules = modules
        self._tensors: dict[str, torch.Tensor] = {}
        self.value = max(figures, default=-math.inf)
        self.evaluations_since = len(figures) - 1 - list(figures).index(self.value) if figures else 0

    def update(self, value: float) -> None:
        """Copy the modules' weights if `value` is higher than all earlier ones."""
        if not value > self.value:
            self.evaluations_since += 1
            return
        self.value, self.evaluations_since = value, 0
        self._tensors = {
            f"{name}.{key}": tensor.detach().cpu().clone()
            for name, module in self._modules.items()
            for key, tensor in module.state_dict().items()
        }

    def restore(self) -> None:
        """Load the best weights into the modules."""
        for name, module in self._modules.items():
            prefix = f"{name}."
            module.load_state_dict(
                {key.removeprefix(prefix): t for key, t in self._tensors.items() if key.startswith(prefix)}
            )

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights of the copy."""
        return self._tensors

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Load the copy of a checkpoint."""
        self._tensors = dict(tensors)
