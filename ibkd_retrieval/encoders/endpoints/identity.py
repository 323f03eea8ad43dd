"""What stands for the weights of a model that nobody here can read: its vectors of a few fixed texts.

An endpoint's vectors are not stable to the bit: other batches and other hardware round differently. So its weight hash
holds a short sketch of the vectors, and two hashes are of one model if the settings are the same and the sketches are
close. A model keeps the hash that it was first seen with, here or in the record of an index.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import cache_folder, write_json
from ibkd_retrieval.json_io import parse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ibkd_retrieval.encoders.endpoints.address import Address

PROBE = (
    "Which river carries the most boats?",
    "Bread rises because yeast turns sugar into gas.",
    "def mean(values): return sum(values) / len(values)",
    "Die Regierung hat das Gesetz gestern verabschiedet.",
)
"""The texts. They differ in subject, form and language."""
SAME = 0.99
"""The cosine from which two vectors of one text are of one model. Half formats and int8 keep above it."""
_WIDTH = 24
_FORM = re.compile(r"(?P<sketch>[0-9a-f]{8})(?P<settings>[0-9a-f]{8})-(?P<probe>[A-Za-z0-9_-]{128})")


def hash_of(vectors: NDArray[np.float32], settings: str) -> str:
    """The weight hash of a model: 16 hex digits and a sketch.

    Args:
        vectors: unit vectors of `PROBE`, [4, dim].
        settings: everything else that decides its vectors.

    The sketch holds random projections with signs from a hash, [4, 24], in 8 bits. Their squared distance estimates
    that of the vectors.
    """
    import numpy as np

    dim = vectors.shape[1]
    bits = np.frombuffer(hashlib.shake_256(b"endpoint probe").digest(dim * _WIDTH // 8), dtype=np.uint8)
    signs = 2.0 * np.unpackbits(bits).reshape(dim, _WIDTH) - 1.0
    projected = vectors.astype(np.float64) @ signs / np.sqrt(_WIDTH)
    sketch = np.rint(127 * np.clip(projected, -1, 1)).astype(np.int8).tobytes()
    digests = [hashlib.sha256(each).hexdigest()[:8] for each in (sketch, f"{dim} {settings}".encode())]
    return f"{''.join(digests)}-{base64.urlsafe_b64encode(sketch).decode()}"


def same_weights(one: str, other: str) -> bool:
    """Whether two weight hashes are of one model: equal, or of an endpoint with close sketches.

    Example:
        >>> same_weights("0a1b", "0a1b"), same_weights("0a1b", "0a1c")
        (True, False)
    """
    if one == other:
        return True
    found = [_FORM.fullmatch(each) for each in (one, other)]
    if not all(found):
        return False
    import numpy as np

    first, second = (each for each in found if each is not None)
    if first["settings"] != second["settings"]:
        return False
    try:
        sketches = [np.frombuffer(base64.urlsafe_b64decode(each["probe"]), dtype=np.int8) for each in (first, second)]
    except binascii.Error:
        return False
    ours, theirs = (each.reshape(len(PROBE), _WIDTH) / 127 for each in sketches)
    # Half the squared distance of unit vectors is 1 - cosine.
    return bool(((ours - theirs) ** 2).sum(axis=1).mean() / 2 <= 1 - SAME)


def folder_of(address: Address, prompts: Mapping[str, str]) -> Path:
    """The folder in the user's cache for what is known of a model, whichever host serves it."""
    settings = hashlib.sha256(settings_of(address, prompts).encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", address.model)[-80:]
    return cache_folder() / "endpoints" / f"{name}-{settings}"


def settings_of(address: Address, prompts: Mapping[str, str]) -> str:
    """Everything but the host that an address and the prompts say of a vector."""
    return repr([address.model, address.settings, sorted(prompts.items())])


def recognise(encoder: Any, recorded: str) -> None:
    """Give an encoder the weight hash of a record, if that is of the same model."""
    if same_weights(encoder.weight_hash, recorded):
        encoder.weight_hash = recorded


def check_used(address: Address) -> None:
    """Check that an endpoint that a record names was used here before.

    The record may be a stranger's, and texts and the key would be sent to it.

    Raises:
        UserError: it was not.
    """
    if not any(address.url in Known(folder).urls for folder in (cache_folder() / "endpoints").glob("*")):
        raise UserError(
            f"The index names the endpoint {address} as its model, which was not used here before: name it with "
            "`model` if texts, and the key in OPENAI_API_KEY, may be sent to it."
        )


class Known:
    """The file `known.json` in the folder of a model: the hashes it was seen with, newest last, and where it was."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "known.json"
        try:
            found: Any = parse(self._path.read_bytes())
            self.hashes, self.urls = ([str(each) for each in found[name]] for name in ("hashes", "urls"))
        except (OSError, ValueError, KeyError, TypeError):
            self.hashes, self.urls = [], []

    def recognise(self, hash: str) -> str:
        """The hash by which a model is known already, or its own."""
        return next((each for each in reversed(self.hashes) if same_weights(each, hash)), hash)

    def remember(self, hash: str, url: str) -> None:
        """Write a hash and the base of an API down."""
        if self.hashes[-1:] == [hash] and url in self.urls:
            return
        self.hashes = [*(each for each in self.hashes if each != hash), hash]
        self.urls = list(dict.fromkeys([*self.urls, url]))
        write_json(self._path, {"hashes": self.hashes, "urls": self.urls})
