"""The cache of teacher vectors, which are computed once.

There is a folder per teacher and maximum length. It holds `manifest.json`, and two files per shard:

- `NNNNN.keys.npy`: 128-bit hashes of prompt and text, uint64 [n, 2].
- `NNNNN-HHHHHHHHHHHHHHHH.vectors.npy`: unit vectors, float16 [n, D]. H is the hash of the keys. After the array there
  are 16 bytes, the hash of everything before them. Shards of earlier versions lack these.

A shard exists if its keys file does, which is written after the vectors. Other files are left by a killed run, and are
overwritten. If two runs append at the same time, a shard of one may be lost, and its texts are encoded again. The keys
of one are never joined to the vectors of the other. A shard is compared with its hash before its vectors are used.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.distill.data.texts import KeyIndex, text_keys
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import atomic_write, is_leftover, write_json
from ibkd_retrieval.json_io import parse
from ibkd_retrieval.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch

    from ibkd_retrieval.encoders.protocol import Kind, TextEncoder
    from ibkd_retrieval.indexing.building.cluster import ClusterEncoders
    from ibkd_retrieval.progress import Task


FORMAT_VERSION = 1
SHARD_SIZE = 4096
_DIGEST = 16
TEACHERS = "teachers"
"""The folder of all caches, in the user's cache folder for this toolkit."""


class TeacherVectors(Protocol):
    """Unit vectors of one teacher or several, by text."""

    @property
    def teacher(self) -> TextEncoder:
        """The teacher."""

    @property
    def folder(self) -> Path:
        """The folder of the cache and of other results of this teacher."""

    @property
    def dim(self) -> int:
        """The number D of dimensions."""

    def rows(self, texts: Sequence[str], kind: Kind = "document", progress: Progress = SILENT) -> NDArray[np.int64]:
        """The positions [n] of the texts' vectors. Missing vectors are computed first."""

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The unit vectors [n, D] at positions [n]."""


class TextPart(NamedTuple):
    """Texts of a shard to be.

    Attributes:
        positions: their positions [n] among all texts.
        texts: the texts.
    """

    positions: NDArray[np.int64]
    texts: list[str]

    def __str__(self) -> str:
        return f"A shard of teacher vectors ({len(self.texts)} texts, from {self.texts[0][:40]!r})"


class TeacherCache:
    """Unit teacher vectors by text.

    Attributes:
        folder: the folder of the cache.
        teacher: the teacher.
        nodes: encoders on a cluster. None encodes here.
    """

    nodes: ClusterEncoders | None = None

    def __init__(self, folder: Path, teacher: TextEncoder) -> None:
        """Open or start the cache of a teacher.

        Args:
            folder: folder of the cache. It is created if absent.
            teacher: the teacher.

        Raises:
            UserError: the folder holds another teacher's vectors, or is not a cache.
        """
        self.folder = folder
        self.teacher = teacher
        identity = {
            "format_version": FORMAT_VERSION,
            "teacher": teacher.weight_hash,
            "dim": teacher.dim,
            "max_length": teacher.max_length,
            "dtype": teacher.dtype,
        }
        manifest = folder / "manifest.json"
        if manifest.is_file():
            try:
                found = parse(manifest.read_text("utf-8"))
                found.pop("name", None)
            except (ValueError, AttributeError, TypeError) as error:
                raise UserError(f"{manifest} is damaged: delete {folder} and run again to rebuild it.") from error
            if found != identity:
                differs = ", ".join(key for key in identity if found.get(key) != identity[key])
                raise UserError(
                    f"The teacher cache {folder} belongs to another teacher or setting (differs in {differs}): "
                    "give another `cache` folder."
                )
        elif folder.is_dir() and not all(is_leftover(path) for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty and no teacher cache: give another `cache` folder.")
        else:
            write_json(manifest, identity | {"name": teacher.name})
        self._keys: list[NDArray[np.uint64]] = []
        self._index: KeyIndex | None = None
        self._shards: list[NDArray[np.float16]] = []
        self._starts: list[int] = [0]
        self._paths: list[Path] = []
        self._checked: set[int] = set()
        self._open_appended()

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def dim(self) -> int:
        """The number D of dimensions."""
        return self.teacher.dim

    def rows(self, texts: Sequence[str], kind: Kind = "document", progress: Progress = SILENT) -> NDArray[np.int64]:
        """The positions [n] of the texts' vectors. Missing texts are encoded first, shard by shard."""
        # An endpoint may be told the kind of a text, which decides the vector as a prompt does.
        told: Mapping[str, str] = getattr(self.teacher, "input_types", {})
        keys = text_keys(texts, f"{told.get(kind, '')}{self.teacher.prompts[kind]}")
        found = self._find(keys)
        if (found < 0).any():
            # Another process may have encoded them since this one opened the cache.
            self._open_appended()
            found = self._find(keys)
        absent = np.flatnonzero(found < 0)
        if len(absent):
            _, first = np.unique(keys[absent], axis=0, return_index=True)
            missing = absent[np.sort(first)]
            # Texts of similar length share a shard. So there is little padding, though shards are encoded separately.
            missing = missing[np.argsort([len(texts[position]) for position in missing], kind="stable")]
            with progress.task("teacher vectors", len(texts), "texts", done=len(texts) - len(missing)) as task:
                parts = (missing[start : start + SHARD_SIZE] for start in range(0, len(missing), SHARD_SIZE))
                for part, vectors in self._encoded(parts, texts, kind, task):
                    self._append(keys[part], vectors)
            found = self._find(keys)
        for shard in np.unique(np.searchsorted(self._starts, found, side="right") - 1).tolist():
            self._check(shard)
        return found

    def _encoded(
        self, parts: Iterator[NDArray[np.int64]], texts: Sequence[str], kind: Kind, task: Task
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Encode texts part by part, here or on the nodes. The nodes finish them in any order."""
        if self.nodes is None:
            for part in parts:
                yield part, self.teacher.encode([texts[position] for position in part], kind, task)
            return
        chosen = (TextPart(part, [texts[position] for position in part]) for part in parts)
        for done, vectors in self.nodes.vectors(chosen, lambda part: part.texts, str, kind):
            task.advance(len(done.texts))
            yield done.positions, vectors

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The unit vectors [n, D] at positions [n]."""
        out = np.empty((len(rows), self.dim), dtype=np.float32)
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        for shard in np.unique(shards):
            chosen = shards == shard
            out[chosen] = self._shards[shard][rows[chosen] - self._starts[shard]]
        return _unit(out)

    def _check(self, shard: int) -> None:
        """Compare a shard with its hash, once.

        Raises:
            UserError: the shard is damaged.
        """
        if shard in self._checked:
            return
        content, vectors = self._paths[shard].read_bytes(), self._shards[shard]
        behind = len(content) - cast(np.memmap[Any, Any], vectors).offset - vectors.nbytes
        if behind and (behind != _DIGEST or content[-_DIGEST:] != _digest(content[:-_DIGEST])):
            raise UserError(f"{self._paths[shard]} is damaged: delete {self.folder} and run again to rebuild it.")
        self._checked.add(shard)

    def _find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        if self._index is None:
            self._keys = [np.concatenate([np.empty((0, 2), dtype=np.uint64), *self._keys])]
            self._index = KeyIndex(self._keys[0])
        return self._index.find(keys)

    def _append(self, keys: NDArray[np.uint64], vectors: NDArray[np.float32]) -> None:
        unit = _unit(vectors)
        if not np.isfinite(unit).all():
            raise UserError(
                f'The teacher `{self.teacher.name}` gives vectors that are not finite: try `dtype="float32"`.'
            )
        number = len(self._shards)
        with atomic_write(self._vectors_path(number, keys)) as file:
            written = io.BytesIO()
            np.save(written, unit.astype(np.float16))
            file.write(written.getvalue() + _digest(written.getvalue()))
        with atomic_write(self._keys_path(number)) as file:
            np.save(file, keys)
        self._open_shard(keys)

    def _open_appended(self) -> None:
        while self._keys_path(len(self._shards)).is_file():
            self._open_shard(self._read(self._keys_path(len(self._shards))))

    def _open_shard(self, keys: NDArray[np.uint64]) -> None:
        path = self._vectors_path(len(self._shards), keys)
        vectors = self._read(path, mmap_mode="r")
        if vectors.shape != (len(keys), self.dim):
            raise UserError(f"{path} does not fit its keys file: delete {self.folder} and run again to rebuild it.")
        start = len(self)
        self._keys.append(keys)
        self._index = None
        self._shards.append(vectors)
        self._paths.append(path)
        self._starts.append(start + len(keys))

    def _keys_path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.keys.npy"

    def _vectors_path(self, number: int, keys: NDArray[np.uint64]) -> Path:
        return self.folder / f"{number:05d}-{hashlib.blake2b(keys.tobytes(), digest_size=8).hexdigest()}.vectors.npy"

    def _read(self, path: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
        try:
            return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)  # type: ignore[no-any-return]
        except (OSError, ValueError, EOFError, TypeError, OverflowError, SyntaxError, TokenError) as error:
            raise UserError(f"{path} is damaged: delete {self.folder} and run again to rebuild it.") from error


def as_cached(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors [n, D] as a cache gives them: unit vectors, rounded to float16."""
    return _unit(_unit(vectors).astype(np.float16).astype(np.float32))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()


_BLOCK = 32_768
_MOST_OF_FREE_MEMORY = 0.25


class StepVectors:
    """Unit teacher vectors by their position in the cache.

    On a GPU, a step takes less time than gathering thousands of vectors on the CPU and copying them. So the GPU holds
    the vectors of all training texts in float16, the format of the cache, if they fit.
    """

    def __init__(
        self, cache: TeacherVectors, rows: NDArray[np.int64], device: str, *, held: bool | None = None
    ) -> None:
        """Prepare to give the vectors at `rows` of `cache`.

        Args:
            cache: the teacher cache.
            rows: positions in the cache that training will use.
            device: device of the tensors.
            held: whether the device keeps all vectors. None keeps them on a GPU if a quarter of its free memory is
                enough.
        """
        self._cache, self._device = cache, device
        self._known = np.unique(rows)
        self._held: torch.Tensor | None = None
        if held if held is not None else self._fit():
            self._held = self._sent()

    def at(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """The unit vectors [n, D] at positions [n], in float32."""
        import torch

        if self._held is None:
            return torch.from_numpy(self._cache.vectors(rows)).to(self._device)
        places = torch.from_numpy(np.searchsorted(self._known, rows)).to(self._device)
        return torch.nn.functional.normalize(self._held[places].float(), dim=-1)

    def _fit(self) -> bool:
        import torch

        if not self._device.startswith("cuda"):
            return False
        free, _ = torch.cuda.mem_get_info(self._device)
        return 2 * len(self._known) * self._cache.dim <= _MOST_OF_FREE_MEMORY * free

    def _sent(self) -> torch.Tensor:
        import torch

        out = torch.empty((len(self._known), self._cache.dim), dtype=torch.float16, device=self._device)
        for start in range(0, len(self._known), _BLOCK):
            block = self._cache.vectors(self._known[start : start + _BLOCK]).astype(np.float16)
            out[start : start + len(block)] = torch.from_numpy(block).to(self._device)
        return out
