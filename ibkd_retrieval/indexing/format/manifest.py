"""The manifest of an index folder: its contents, its encoder, its build and its search parameters."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import write_json
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.format.layout import DOC_IDS, FORMAT, FORMAT_VERSION, MANIFEST, STRUCTURE, is_index
from ibkd_retrieval.json_io import decode, parse

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.protocol import TextEncoder


@dataclass(frozen=True)
class FileRecord:
    """The measure of a file.

    Attributes:
        bytes: size.
        sha256: checksum, in hex digits.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True)
class CorpusRecord:
    """The corpus of an index.

    Attributes:
        name: the name that opens it again.
        fingerprint: hash of its documents in their order, and of every change since.
    """

    name: str
    fingerprint: str

    def changed(self, change: Change) -> CorpusRecord:
        """The corpus after a change. The same changes in the same order give the same fingerprint."""
        chain = f"{self.fingerprint} {change.kind} {change.fingerprint}"
        return CorpusRecord(self.name, hashlib.sha256(chain.encode()).hexdigest())


HASH_VERSION = 2
"""The weight hash includes every setting that decides a vector. Version 1 included a few."""


UNNAMED_MODEL = "(not named)"
"""The model name in the manifest of an index whose vectors were imported without their model. It is never shown."""


@dataclass(frozen=True)
class EncoderRecord:
    """The encoder of the vectors. The fields are those of `encoders.protocol.TextEncoder`.

    Attributes:
        backend: the backend that ran the model. "torch" in older indexes, which do not record it.
        hash_version: which settings the weight hash includes. 1 in older indexes, which do not record it.
        vectors: digest of the vectors if they were imported without their model. "" for others, and in older indexes.
    """

    name: str
    weight_hash: str
    dim: int
    max_length: int
    prompts: dict[str, str]
    pooling: str | None
    dtype: str
    backend: str = "torch"
    hash_version: int = dataclasses.field(default=1, compare=False)
    vectors: str = dataclasses.field(default="", compare=False)

    @classmethod
    def of(cls, encoder: TextEncoder) -> EncoderRecord:
        """Describe `encoder`."""
        return cls(
            name=encoder.name,
            weight_hash=encoder.weight_hash,
            dim=encoder.dim,
            max_length=encoder.max_length,
            prompts=dict(encoder.prompts),
            pooling=encoder.pooling,
            dtype=encoder.dtype,
            # An encoder with a single backend does not name it.
            backend=getattr(encoder, "backend", "torch"),
            hash_version=HASH_VERSION,
        )

    @property
    def called(self) -> str:
        """The name as it is shown: "none" if the vectors were imported without their model."""
        return "none" if self.name == UNNAMED_MODEL else self.name

    @property
    def space(self) -> str:
        """What stands for the vector space: the weight hash, or else the digest of the vectors."""
        return self.weight_hash or self.vectors

    def refuse_unnamed(self, folder: Path) -> None:
        """Refuse to encode texts for an index whose vectors were imported without their model.

        Raises:
            UserError: the model is not named.
        """
        if self.name == UNNAMED_MODEL:
            raise UserError(
                f"The index {folder} was imported without the model of its vectors, so it can be searched by vectors "
                "only: import them again with `import_vectors(model=MODEL)`, or distil a student of them with "
                f'`distill(teacher="{folder}", student=MODEL, output_space="teacher")` and name it as `query_model`.'
            )

    def refuse_moved(self, folder: Path) -> None:
        """Refuse to take a model from where it was recorded, if there is nothing any more.

        Raises:
            UserError: the model was a folder, which is gone.
        """
        if Path(self.name).is_absolute() and not Path(self.name).exists():
            raise UserError(
                f"The index {folder} was made with the model {self.name}, which is not there any more: "
                "if it was moved, name its new folder as `model`."
            )

    @property
    def former_hash(self) -> str:
        """The weight hash if it is the one of version 0.1.0, which leaves settings out. "" for a complete hash."""
        return self.weight_hash if self.hash_version < HASH_VERSION else ""

    def makes_the_vectors_of(self, other: EncoderRecord) -> bool:
        """Whether both give the same vectors. The name is ignored, because a model folder can be moved."""
        from ibkd_retrieval.encoders.endpoints.identity import same_weights

        same = self.weight_hash if same_weights(self.weight_hash, other.weight_hash) else other.weight_hash
        return dataclasses.replace(self, name="") == dataclasses.replace(other, name="", weight_hash=same)


@dataclass(frozen=True)
class ShardEntry:
    """One shard.

    Attributes:
        documents: number of documents.
        vectors: the file of the vectors, a key of the manifest's `files`.
        texts: the file of the documents, a key of the manifest's `files`.
    """

    documents: int
    vectors: str
    texts: str


@dataclass(frozen=True)
class PartEntry:
    """One part of a structure that is kept in several files.

    Attributes:
        file: the file of the faiss index, a key of the manifest's `files`. Its ids are rows of the whole index.
        rows: number of its vectors. Parts follow each other by row.
    """

    file: str
    rows: int


@dataclass(frozen=True)
class OperatingPoint:
    """One measurement of search parameters, on given queries or on documents used as queries.

    Attributes:
        nprobe: inverted lists visited. None for structures without lists.
        refine: candidates rescored exactly per result. 0 or None keeps the structure's own scores.
        recall_at_10: recall@10 against exact search.
        milliseconds: time per query, searched in one batch on the machine that built the index.
        ef_search: size of the candidate list of an HNSW graph. None for other structures.
        structure: faiss factory string of the measured index, if it is not the index that was built.
        bytes_per_vector: bytes of memory per vector of that measured index.
    """

    nprobe: int | None
    refine: int | None
    recall_at_10: float
    milliseconds: float
    ef_search: int | None = None
    structure: str | None = None
    bytes_per_vector: float | None = None

    @property
    def search_params(self) -> SearchParams:
        """The search parameters of this measurement."""
        return SearchParams(self.nprobe, self.refine, self.ef_search)


@dataclass(frozen=True)
class Change:
    """One change to the documents of a finished index.

    Attributes:
        kind: "append", "delete" or "merge".
        documents: number of documents added or deleted.
        corpus: name of the corpus they came from. "" for a deletion.
        fingerprint: fingerprint of the added documents, or of the sorted ids of the deleted ones.
    """

    kind: str
    documents: int
    corpus: str
    fingerprint: str


@dataclass(frozen=True)
class BuildRecord:
    """The cost of the build.

    Attributes:
        encode_seconds: encoding time over all runs of a resumed build. Parallel processes count once.
        structure_seconds: time to train, fill, measure and write the faiss structure.
        documents_per_second: encoding speed.
        peak_memory_bytes: largest resident size of the process that finished the build.
    """

    encode_seconds: float
    structure_seconds: float
    documents_per_second: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class IndexManifest:
    """`index.json`, which is written last. A folder with this file is a finished index.

    Attributes:
        corpus: the corpus of the first build. Its fingerprint includes every change since.
        document_count: number of documents that can be found.
        metric: always "inner_product".
        family: the name of the family (`families.FAMILIES`).
        family_options: the family's options. None is a value that the family chose.
        factory: the structure as a faiss factory string.
        shard_size: maximum number of documents in a shard.
        files: size and checksum of each file, by path relative to the folder, with "/".
        versions: versions of Python and of the libraries used.
        created: time when the manifest was written, ISO 8601 in UTC.
        vector_format: how vectors are stored (`vector_formats`).
        structure: the file of the faiss structure. It is absent from `files` if the shards are searched directly.
            Each append writes a new file, and the old one serves until the manifest names the new one. The same
            holds for `doc_ids` and `tombstones`.
        doc_ids: the file of the ids, in row order.
        tombstones: the file of deleted rows, int64 and sorted. None if no document is deleted.
        deleted_count: number of deleted rows.
        changes: the changes to the documents since the first build, in order.
        trained_rows: number of rows when the structure was trained. None in older indexes.
        parts: the parts of a structure that is kept in several files. Empty for one file, or none.
    """

    format_version: int
    corpus: CorpusRecord
    document_count: int
    encoder: EncoderRecord
    metric: str
    family: str
    family_options: dict[str, int | float | str | bool | None]
    factory: str
    search: SearchParams
    shard_size: int
    shards: tuple[ShardEntry, ...]
    files: dict[str, FileRecord]
    build: BuildRecord
    versions: dict[str, str]
    created: str
    operating_points: tuple[OperatingPoint, ...] = field(default=())
    vector_format: str = "float32"
    structure: str = STRUCTURE
    doc_ids: str = DOC_IDS
    tombstones: str | None = None
    deleted_count: int = 0
    changes: tuple[Change, ...] = ()
    trained_rows: int | None = None
    parts: tuple[PartEntry, ...] = ()

    @property
    def structure_files(self) -> tuple[str, ...]:
        """The files of the structure: one, or its parts. Empty if the shards are searched directly."""
        if self.parts:
            return tuple(part.file for part in self.parts)
        return (self.structure,) if self.structure in self.files else ()

    def is_in(self, parts: int | None) -> bool:
        """Whether the structure is in as many parts as asked for. There are no more parts than shards."""
        return parts is None or max(1, len(self.parts)) == min(parts, max(1, len(self.shards)))

    @property
    def structure_bytes(self) -> int:
        """Size of the files of the structure."""
        return sum(self.files[name].bytes for name in self.structure_files)

    @property
    def rows(self) -> int:
        """Number of vectors, deleted documents included. Rows are numbered from 0."""
        return self.document_count + self.deleted_count

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.encoder.dim

    @property
    def disk_bytes(self) -> int:
        """Size of all files of the index, without the manifest."""
        return sum(record.bytes for record in self.files.values())


def write_manifest(folder: Path | str, manifest: IndexManifest) -> IndexManifest:
    """Write `index.json` whole or not at all, and return it as written.

    Its format version is the oldest whose readers understand it.
    """
    version = FORMAT_VERSION if manifest.parts else 2 if _needs_version_2(manifest) else 1
    manifest = dataclasses.replace(manifest, format_version=version)
    write_json(Path(folder) / MANIFEST, {"format": FORMAT, **dataclasses.asdict(manifest)})
    return manifest


def _needs_version_2(manifest: IndexManifest) -> bool:
    return (
        manifest.vector_format != "float32"
        or manifest.tombstones is not None
        or manifest.structure not in manifest.files
        or (manifest.structure, manifest.doc_ids) != (STRUCTURE, DOC_IDS)
    )


def read_manifest(folder: Path | str) -> IndexManifest:
    """Read `index.json` of a finished index.

    Raises:
        UserError: the folder is absent, not an index, unfinished, damaged, or of a newer format.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        raise UserError(f"There is no index folder {folder}: make one with `build_index(output='{folder}')`.")
    if not path.exists():
        if is_index(folder):
            raise UserError(f"The index in {folder} is unfinished: finish it with `build_index(resume=True)`.")
        raise UserError(f"{folder} is not an index folder (it has no {MANIFEST}): make one with `build_index()`.")
    return manifest_of(path.read_bytes, path)


def manifest_of(read: Callable[[], bytes], path: Path | str) -> IndexManifest:
    """The manifest that `read` gives the text of. `path` names it in errors.

    Raises:
        UserError: it cannot be read, or is of a newer format.
    """
    try:
        value = parse(read())
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ValueError(f'it does not say "format": "{FORMAT}"')
        version = value.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise UserError(
                f"{path} has index format {version}, this version of ibkd-retrieval reads up to {FORMAT_VERSION}: "
                "upgrade with `pip install -U ibkd-retrieval`."
            )
        manifest = decode(IndexManifest, value)
        _check(manifest)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a readable index manifest ({error}): make the index again with "
            "`build_index(overwrite=True)`."
        ) from error
    return manifest


def finished_indexes(folder: Path | str) -> list[tuple[Path, IndexManifest]]:
    """The finished indexes below `folder`, at most two levels down, with their manifests. The newest comes first.

    Raises:
        UserError: there is none.
    """
    folder = Path(folder)
    found = []
    for pattern in (f"*/{MANIFEST}", f"*/*/{MANIFEST}"):
        for path in folder.glob(pattern):
            if any(part.startswith(".") for part in path.relative_to(folder).parts):
                continue  # An index that is being built.
            try:
                found.append((path.parent, read_manifest(path.parent)))
            except UserError:
                continue  # Another program's file, or a damaged index. Opening that folder names the damage.
    if not found:
        raise UserError(f"There is no finished index below {folder}: make one with `build_index(corpus=CORPUS)`.")
    return sorted(found, key=lambda each: (each[1].created, each[0]), reverse=True)


def _check(manifest: IndexManifest) -> None:
    if manifest.rows != sum(shard.documents for shard in manifest.shards):
        raise ValueError("document_count and deleted_count are not the sum of the shards' documents")
    tombstones = [manifest.tombstones] if manifest.tombstones is not None else []
    if manifest.parts and manifest.rows != sum(part.rows for part in manifest.parts):
        raise ValueError("document_count and deleted_count are not the sum of the parts' rows")
    parts = [part.file for part in manifest.parts]
    for name in [name for shard in manifest.shards for name in (shard.vectors, shard.texts)] + tombstones + parts:
        if name not in manifest.files:
            raise ValueError(f"files has no entry {name!r}")
    for name in manifest.files:
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"the file {name!r} lies outside the folder")
