"""A GPU that was asked for and is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ibkd_retrieval.progress import Progress


def device_there(device: str, progress: Progress) -> str:
    """The device asked for; "cpu" where that is a GPU and neither torch nor faiss sees one, which is said."""
    if not device.startswith("cuda"):
        return device
    import torch

    from ibkd_retrieval.indexing.gpu import gpu_count

    if torch.cuda.is_available() or gpu_count():
        return device
    progress.say(f"No GPU is here, for torch or for faiss: what `--device {device}` asks for runs on the CPU.")
    return "cpu"
