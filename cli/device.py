"""A GPU that was asked for and is not there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ibkd_retrieval.errors import UserError

if TYPE_CHECKING:
    from ibkd_retrieval.progress import Progress


def device_there(device: str, progress: Progress) -> str:
    """The device asked for; "cpu" where that is a GPU and neither torch nor faiss sees one, which is said.

    Raises:
        UserError: there is no such device.
    """
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu)(:\d+)?", device):
        raise UserError(f"Unknown device `{device}`: use auto, cpu, cuda or cuda:N.")
    if not device.startswith("cuda"):
        return device
    import torch

    from ibkd_retrieval.indexing.gpu import gpu_count

    if torch.cuda.is_available() or gpu_count():
        return device
    progress.say(f"No GPU is here, for torch or for faiss: what `--device {device}` asks for runs on the CPU.")
    return "cpu"
