"""`describe_folder` and `inventory`: what a model or index folder is, and which ones are here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ibkd_retrieval.distill.config import RECORD
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import INDEXES, MODELS
from ibkd_retrieval.indexing.format.layout import MANIFEST


@dataclass(frozen=True)
class FolderDescription:
    """A folder described.

    Attributes:
        folder: the folder.
        facts: what is recorded of it, for a reader. Long lists are counted.
        record: what is recorded of it, whole.
        verified: what was verified, in words. "" if nothing was.
    """

    folder: Path
    facts: dict[str, Any]
    record: dict[str, Any]
    verified: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record."""
        return self.record


def describe_folder(folder: Path | str, *, verify: bool = False) -> FolderDescription:
    """Describe a model folder or an index folder.

    Args:
        folder: the folder of a finished student or of an index.
        verify: compare the files of an index, or the weights of a student, with what is recorded.

    Raises:
        UserError: there is neither, or a file of it is missing or damaged.

    Example:
        >>> import tempfile
        >>> from ibkd_retrieval.indexing.api import import_vectors
        >>> folder = tempfile.mkdtemp()
        >>> made = import_vectors([[1.0, 0.0], [0.0, 1.0]], folder, ids=["a", "b"])
        >>> describe_folder(folder).facts["document_count"]
        2
    """
    folder = Path(folder)
    if (folder / RECORD).is_file():
        from ibkd_retrieval.distill.output.folder import read_student, verify_student

        record = read_student(folder)
        if verify:
            verify_student(folder)
        return FolderDescription(
            folder, record, record, "weights, modules and tokens are as recorded" if verify else ""
        )
    from ibkd_retrieval.indexing.describe import describe

    found = describe(folder, verify=verify)
    return FolderDescription(folder, found.whole, found.to_json(), "every file is as recorded" if verify else "")


@dataclass(frozen=True)
class Listed:
    """A student or an index that is here.

    Attributes:
        folder: the folder, as a path below the working folder.
        kind: "student" or "index".
        model: the teacher of a student, or the encoder of an index. "" if vectors were imported without one.
        documents: number of documents of an index. None for a student.
        dim: dimensions of the vectors. None if the record does not say.
        type: index type. "" for a student.
        bytes: size on disk.
        created: date and time in UTC, as ISO 8601.
    """

    folder: str
    kind: str
    model: str
    documents: int | None
    dim: int | None
    type: str
    bytes: int
    created: str

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON holds them."""
        return asdict(self)


def inventory(models: Path | str = MODELS, indexes: Path | str = INDEXES) -> list[Listed]:
    """List the finished students and indexes below two folders, each newest first.

    Args:
        models: the folder of the students.
        indexes: the folder of the indexes. Those of suites lie one level deeper.

    Example:
        >>> import tempfile
        >>> from ibkd_retrieval.indexing.api import import_vectors
        >>> folder = tempfile.mkdtemp()
        >>> made = import_vectors([[1.0, 0.0], [0.0, 1.0]], f"{folder}/mine", ids=["a", "b"])
        >>> [(each.kind, each.documents, each.dim) for each in inventory("models", folder)]
        [('index', 2, 2)]
    """
    students = [_student(path.parent) for path in Path(models).glob(f"*/{RECORD}") if not _hidden(path)]
    found = [each for depth in ("*", "*/*") for each in Path(indexes).glob(f"{depth}/{MANIFEST}") if not _hidden(each)]
    listed = [each for path in found if (each := _index(path.parent)) is not None]
    return [*_newest_first(students), *_newest_first(listed)]


def _hidden(path: Path) -> bool:
    """Whether a file is of a folder that is being made."""
    return any(part.startswith(".") and part != ".." for part in path.parts[-3:])


def _newest_first(found: list[Listed]) -> list[Listed]:
    return sorted(found, key=lambda each: each.created, reverse=True)


def _student(folder: Path) -> Listed:
    from ibkd_retrieval.distill.output.folder import read_student

    try:
        record: dict[str, Any] = read_student(folder)
    except UserError:
        record = {}  # Damaged: it is listed, and describing it says what is wrong.
    teacher, student = (part if isinstance(part := record.get(name), dict) else {} for name in ("teacher", "student"))
    written = datetime.fromtimestamp((folder / RECORD).stat().st_mtime, UTC)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Listed(
        folder=str(folder),
        kind="student",
        model=str(teacher.get("name", "")),
        documents=None,
        dim=student.get("dim"),
        type="",
        bytes=size,
        created=str(record.get("created") or written.isoformat(timespec="seconds")),
    )


def _index(folder: Path) -> Listed | None:
    from ibkd_retrieval.indexing.format.manifest import UNNAMED_MODEL, read_manifest

    try:
        made = read_manifest(folder)
    except UserError:
        return None  # Another program's file, or one a reader of that very folder will be told about.
    return Listed(
        folder=str(folder),
        kind="index",
        model="" if made.encoder.name == UNNAMED_MODEL else made.encoder.name,
        documents=made.document_count,
        dim=made.dim,
        type=made.family,
        bytes=made.disk_bytes,
        created=made.created,
    )
