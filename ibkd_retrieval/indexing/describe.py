"""Describes an index as a record."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.indexing.format.integrity import verify_index
from ibkd_retrieval.indexing.format.manifest import IndexManifest, read_manifest

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class IndexDescription:
    """The description of an index folder.

    Attributes:
        folder: the index folder.
        manifest: the manifest of the index.
        encoder: the encoder of the documents, if it is loaded.
    """

    folder: Path
    manifest: IndexManifest
    encoder: TextEncoder | None = field(default=None, compare=False)

    @property
    def bytes_per_document(self) -> float:
        """Memory of the search structure, in bytes per document. 0 if the files are scanned."""
        return self.manifest.structure_bytes / self.manifest.rows

    @property
    def facts(self) -> dict[str, str]:
        """The main facts, in words."""
        made, deleted = self.manifest, self.manifest.deleted_count
        gone = f" ({deleted:,} deleted)" if deleted else ""
        return {
            "documents": f"{made.document_count:,}{gone}",
            "dimensions": f"{made.dim:,}",
            "type": made.family,
            "factory string": made.factory + (f", in {len(made.parts)} parts" if made.parts else ""),
            "vectors": made.vector_format,
            "model": made.encoder.called,
            "corpus": made.corpus.name,
            "bytes a document in memory": f"{self.bytes_per_document:,.0f}",
            "bytes on disk": f"{made.disk_bytes:,}",
            "created": made.created,
        }

    @property
    def whole(self) -> dict[str, Any]:
        """The manifest, with files and shards counted instead of listed."""
        whole = dataclasses.asdict(self.manifest)
        whole["encoder"]["name"] = self.manifest.encoder.called
        return whole | {
            "files": f"{len(self.manifest.files)} files, {self.manifest.disk_bytes:,} bytes",
            "shards": len(self.manifest.shards),
        }

    def to_json(self) -> dict[str, Any]:
        """The description as a JSON object."""
        known = dataclasses.asdict(self.manifest)
        return known | {"output": str(self.folder), "disk_bytes": self.manifest.disk_bytes}

    def to_pandas(self) -> pd.DataFrame:
        """The main facts as a table with the columns `fact` and `value`."""
        import pandas as pd

        return pd.DataFrame(list(self.facts.items()), columns=["fact", "value"])

    def __repr__(self) -> str:
        facts = self.facts
        return (
            f"<index {self.folder}: {facts['documents']} documents of {facts['dimensions']} dimensions, "
            f"type {facts['type']}, model {facts['model']}>"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(fact)}</th><td>{escape(value)}</td></tr>" for fact, value in self.facts.items()
        )
        return f"<table><caption>{escape(str(self.folder))}</caption>{rows}</table>"


def describe(index: Any, *, verify: bool = False) -> IndexDescription:
    """Describe an index.

    Args:
        index: its folder, or the index opened.
        verify: compare the checksum of every file with the one recorded.

    Raises:
        UserError: there is no finished index, or a file of it is missing or damaged.

    Example:
        >>> import tempfile
        >>> from ibkd_retrieval.indexing.api import import_vectors
        >>> folder = tempfile.mkdtemp()
        >>> made = import_vectors([[1.0, 0.0], [0.0, 1.0]], folder, ids=["a", "b"])
        >>> describe(folder, verify=True).manifest.document_count
        2
    """
    folder = folder_of(index)
    return IndexDescription(folder, verify_index(folder) if verify else read_manifest(folder))


def folder_of(index: Any) -> Path:
    """The folder of an index that is given as a path, as an address in an object store, or opened."""
    from ibkd_retrieval.indexing.remote import local_folder

    return local_folder(getattr(index, "folder", index))
