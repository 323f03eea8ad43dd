"""Arrays into .npy files, with errors that say what happened."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def save_array(file: IO[bytes], array: NDArray[Any]) -> None:
    """Write `array` as `np.save` does, byte for byte.

    `np.save` writes past the Python file, and a full disk is then an error without a number or a name.

    Raises:
        OSError: the disk is full or fails.
    """
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    if array.size:
        file.write(array.reshape(-1).view(np.uint8).data)
