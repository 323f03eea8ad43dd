"""The manifest of an index folder: what it holds, how it was made, and how to search it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
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
    """Size in bytes and SHA-256 (hex) of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class CorpusRecord:
    """The corpus by the name that opens it again, and the fingerprint of its documents in order."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class EncoderRecord:
    """What decided the vectors; the fields are those of `encoders.protocol.TextEncoder`.

    Attributes:
        backend: what ran the model; "torch" in indexes that are older than the choice.
    """

    name: str
    weight_hash: str
    dim: int
    max_length: int
    prompts: dict[str, str]
    pooling: str | None
    dtype: str
    backend: str = "torch"

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
            # What has but one way to run does not name it.
            backend=getattr(encoder, "backend", "torch"),
        )

    def makes_the_vectors_of(self, other: EncoderRecord) -> bool:
        """Whether both give the same vectors; the name, which may be a folder that was moved, does not count."""
        return dataclasses.replace(self, name="") == dataclasses.replace(other, name="")


@dataclass(frozen=True)
class ShardEntry:
    """One shard: how many documents, and the files (keys of the manifest's `files`) that hold them."""

    documents: int
    vectors: str
    texts: str


@dataclass(frozen=True)
class OperatingPoint:
    """One setting that was tried, on documents taken as queries or on queries given.

    Attributes:
        nprobe: inverted lists visited, None where there are none.
        refine: candidates scored exactly, per result asked for; 0 or None for the structure's own scores.
        recall_at_10: share of the exact ten nearest other documents that was found.
        milliseconds: a query, searched in one batch, on the machine that built the index.
        ef_search: nodes of an HNSW graph kept in view, None for other structures.
        structure: faiss factory string of the index tried, where it was another than the one that was built.
        bytes_per_vector: in memory, of that other index.
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
        """The setting alone."""
        return SearchParams(self.nprobe, self.refine, self.ef_search)


@dataclass(frozen=True)
class Change:
    """What was done to the documents of a finished index.

    Attributes:
        kind: "append", "delete" or "merge".
        documents: how many came or went.
        corpus: where they came from; "" for a deletion.
        fingerprint: of those that came, or of the sorted ids of those that went.
    """

    kind: str
    documents: int
    corpus: str
    fingerprint: str


@dataclass(frozen=True)
class BuildRecord:
    """What the build cost.

    Attributes:
        encode_seconds: while encoding, added over all runs of a resumed build; several processes count once.
        structure_seconds: training, filling, trying and writing the faiss structure.
        documents_per_second: while encoding.
        peak_memory_bytes: largest resident size of the process that finished the build.
    """

    encode_seconds: float
    structure_seconds: float
    documents_per_second: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class IndexManifest:
    """`index.json`, written last: a folder that has one is a finished index.

    Attributes:
        corpus: what the index was begun with; its fingerprint takes in every change since.
        document_count: number of documents that can be found.
        metric: always "inner_product".
        family: the structure built, by a name of `families.FAMILIES`.
        family_options: the family's settings, None where it chose them itself.
        factory: the structure as a faiss factory string.
        shard_size: most documents in a shard.
        files: by path relative to the folder, with "/".
        versions: of Python and of the libraries that took part.
        created: when the manifest was written, ISO 8601 in UTC.
        vector_format: how vectors are stored (`vector_formats`).
        structure: the file of the faiss structure, absent from `files` where the vectors are searched as they lie in
            their shards; another one after each append, so that the old one serves until the manifest names the new
            one. So it is with `doc_ids` and `tombstones`.
        doc_ids: the file of the ids, in row order.
        tombstones: the file of the rows whose documents were deleted, int64 and sorted; None without any.
        deleted_count: how many rows that are.
        changes: what was done to the documents since the index was made, in order.
        trained_rows: how many rows there were when the structure was trained; None in indexes that do not tell.
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

    @property
    def rows(self) -> int:
        """Number of vectors, those of deleted documents included; rows are numbered from 0."""
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
    """Write `index.json`, whole or not at all; return it as written.

    Its format version is the oldest whose readers understand it.
    """
    version = FORMAT_VERSION if _needs_version_2(manifest) else 1
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
    try:
        value = parse(path.read_bytes())
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


def newest_index(folder: Path | str) -> Path:
    """The folder of the index made last among those below `folder`, at most two levels down.

    Raises:
        UserError: there is no finished index.
    """
    folder = Path(folder)
    found = []
    for pattern in (f"*/{MANIFEST}", f"*/*/{MANIFEST}"):
        for path in folder.glob(pattern):
            if any(part.startswith(".") for part in path.relative_to(folder).parts):
                continue  # One that is being made.
            try:
                found.append((read_manifest(path.parent).created, path.parent))
            except UserError:
                continue  # Another program's file, or one a reader of that very folder will be told about.
    if not found:
        raise UserError(f"There is no finished index below {folder}: make one with `build_index(corpus=CORPUS)`.")
    return max(found)[1]


def _check(manifest: IndexManifest) -> None:
    if manifest.rows != sum(shard.documents for shard in manifest.shards):
        raise ValueError("document_count and deleted_count are not the sum of the shards' documents")
    tombstones = [manifest.tombstones] if manifest.tombstones is not None else []
    for name in [name for shard in manifest.shards for name in (shard.vectors, shard.texts)] + tombstones:
        if name not in manifest.files:
            raise ValueError(f"files has no entry {name!r}")
    for name in manifest.files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"the file {name!r} lies outside the folder")
