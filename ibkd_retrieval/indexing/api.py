"""The public functions that build, change and export indexes."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ibkd_retrieval.cluster import connected
from ibkd_retrieval.corpora.spec import open_corpus
from ibkd_retrieval.encoders.autotune.load import newest_student
from ibkd_retrieval.encoders.endpoints.address import Address, is_endpoint
from ibkd_retrieval.encoders.endpoints.identity import check_used
from ibkd_retrieval.encoders.protocol import TextEncoder
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.files import INDEXES, check_name
from ibkd_retrieval.indexing.append import append_documents
from ibkd_retrieval.indexing.build import build_index as build
from ibkd_retrieval.indexing.building.encoding import prepare_encoding
from ibkd_retrieval.indexing.building.plan import begun_encoder
from ibkd_retrieval.indexing.combine import combine_indexes
from ibkd_retrieval.indexing.config import PROMPTS, EncodingConfig, IndexConfig
from ibkd_retrieval.indexing.contents import open_contents
from ibkd_retrieval.indexing.delete import delete_documents
from ibkd_retrieval.indexing.describe import IndexDescription, folder_of
from ibkd_retrieval.indexing.exporting import export_index
from ibkd_retrieval.indexing.exporting.databases import DATABASES, ExportedTable, export_to_database
from ibkd_retrieval.indexing.faiss_binding import device_there, load_faiss
from ibkd_retrieval.indexing.families.family import FEWEST_DOCUMENTS
from ibkd_retrieval.indexing.format.manifest import read_manifest
from ibkd_retrieval.indexing.importing.documents import read_ids
from ibkd_retrieval.indexing.importing.folder import import_vectors as bring_in
from ibkd_retrieval.indexing.importing.formats import open_vectors
from ibkd_retrieval.indexing.newer import newer_documents
from ibkd_retrieval.indexing.remote import UploadedIndex, refuse_remote, upload_index
from ibkd_retrieval.progress import SILENT, Progress, as_progress
from ibkd_retrieval.stores import address_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ibkd_retrieval.corpora.records import Corpus
    from ibkd_retrieval.indexing.families import Family

_LOADING = ("dtype", "pooling", "max_length")
"""Options that say how a model is loaded, whatever it encodes."""


def build_index(
    corpus: Any = "pydocs",
    model: str | os.PathLike[str] | TextEncoder | None = None,
    output: Path | str | None = None,
    *,
    config: IndexConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | Progress = False,
    **options: Any,
) -> IndexDescription:
    """Encode a corpus and make an index folder of it.

    Args:
        corpus: a name, a path, or the documents (`open_corpus`).
        model: a folder, a hub name or an encoder. None is the newest student in `models/`.
        output: the folder to make. None is `indexes/CORPUS-MODEL-TYPE`.
        config: the configuration. `options` override it.
        resume: continue an unfinished index, or repair a finished one.
        overwrite: replace the index in `output`. It stays whole until the new one is finished.
        progress: True for progress bars, or an object that receives the progress.
        options: fields of `IndexConfig`, `StructureConfig` and `EncodingConfig` by name, such as `type="ivf-pq"`.

    Returns:
        A description of the index.

    Raises:
        UserError: there is no such corpus, model or option, the folder is taken, or the corpus is unfit.
        WorkFailed: an encoder process died, or the disk is full.

    Example:
        >>> build_index(["a boat on the river"], "models/mine", "indexes/mine", type="flat")  # doctest: +SKIP
        <index indexes/mine: 1 documents of 384 dimensions, type flat, model models/mine>
    """
    from ibkd_retrieval.encoders.loading import short_model_name

    progress = as_progress(progress)
    config = _on_device(IndexConfig.of(config, "build_index", **options), progress)
    family = config.structure.family(Path(output) if resume and output is not None else None)
    model = _model(str(newest_student()) if model is None else model, config.encoding)
    opened = open_corpus(corpus, progress)
    settled = _settled(family, opened)
    called = model if isinstance(model, str) else model.name
    cut = f"-d{config.encoding.dim}" if config.encoding.dim else ""
    folder = INDEXES / f"{corpus_slug(opened.name)}-{short_model_name(called)}{cut}-{settled.name}"
    folder = folder if output is None else Path(output)
    check_name(folder)
    progress.say(f"corpus {opened.name} · model {called} · type {settled.name} → {folder}")
    encoding = config.encoding.computing_as(begun_encoder(folder)) if resume else config.encoding
    with connected(encoding.cluster):
        encoder, memory, processes = prepare_encoding(model, encoding, opened, progress)
        made = build(
            opened,
            encoder,
            folder,
            family=family,
            resume=resume,
            overwrite=overwrite,
            vector_format=config.vectors or "float32",
            memory=memory,
            processes=processes,
            device=encoding.device,
            parts=config.structure.parts,
            progress=progress,
        )
    return IndexDescription(folder, made, encoder)


def append(
    index: Any,
    corpus: Any,
    model: str | os.PathLike[str] | TextEncoder | None = None,
    *,
    replace: bool = False,
    since: str | None = None,
    config: IndexConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | Progress = False,
    **options: Any,
) -> IndexDescription:
    """Encode the documents of a corpus and add them to a finished index.

    A search sees the old index until all documents are added, and then all of them at once.

    Args:
        index: its folder, or the index opened.
        corpus: a name, a path, or the documents. Without `replace`, their ids must not be in the index.
        model: the encoder of the index: a folder, a hub name or an encoder. None is the recorded one.
        replace: let documents with ids of the index take the place of those, in the same step.
        since: a field of the documents, such as the time of the last change. Only documents whose value is above the
            largest in the index are added. If there are none, nothing changes.
        config: the configuration. `options` override it.
        resume: continue an interrupted append.
        overwrite: discard an interrupted append.
        progress: True for progress bars, or an object that receives the progress.
        options: fields of `EncodingConfig` by name.

    Raises:
        UserError: there is no sound index, the model is another one, an id is taken, or values of `since` do not
            compare.
        WorkFailed: an encoder process died, or the disk is full.

    Example:
        >>> append("indexes/mine", [{"_id": "d9", "text": "one more"}])  # doctest: +SKIP
        >>> append("indexes/mine", "articles.jsonl", replace=True, since="updated")  # doctest: +SKIP
    """
    progress = as_progress(progress)
    config = _on_device(IndexConfig.of(config, "append", **options), progress)
    refuse_remote(index)
    folder = folder_of(index)
    begun = read_manifest(folder).encoder
    begun.refuse_unnamed(folder)
    if model is None:
        begun.refuse_moved(folder)
        if is_endpoint(begun.name):
            check_used(Address.parse(begun.name))
    model = _model(begun.name if model is None else model, config.encoding)
    opened = open_corpus(corpus, progress)
    if since is not None:
        opened = newer_documents(open_contents(folder), opened, since, progress)
        if not opened.count:
            return IndexDescription(folder, read_manifest(folder))
    with connected(config.encoding.cluster):
        encoder, memory, processes = prepare_encoding(model, config.encoding.like(begun), opened, progress)
        progress.say(f"corpus {opened.name} · model {encoder.name} → {folder}")
        made = append_documents(
            opened,
            encoder,
            folder,
            replace=replace,
            resume=resume,
            restart=overwrite,
            memory=memory,
            processes=processes,
            progress=progress,
        )
    return IndexDescription(folder, made)


def delete(index: Any, ids: Iterable[str] | Path) -> IndexDescription:
    """Delete documents from a finished index by id. All are deleted, or none.

    Args:
        index: its folder, or the index opened.
        ids: the ids, or the path of a file that lists them: one a line, or a column.

    Raises:
        UserError: there is no sound index, or it does not hold an id.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> made = import_vectors([[1.0, 0.0], [0.0, 1.0]], folder, ids=["a", "b"])
        >>> delete(folder, ["a"]).manifest.document_count
        1
    """
    if isinstance(ids, str):
        raise UserError(f"`ids` is the text {ids!r}: give a list of ids, or the path of a file as a `pathlib.Path`.")
    refuse_remote(index)
    folder = folder_of(index)
    wanted: Collection[str] = list(read_ids(ids)) if isinstance(ids, Path) else list(ids)
    return IndexDescription(folder, delete_documents(folder, wanted))


def combine(
    from_: Any,
    output: Path | str | None = None,
    *,
    config: IndexConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | Progress = False,
    **options: Any,
) -> IndexDescription:
    """Make an index of the documents of one or several others, without encoding anything.

    Args:
        from_: an index, or a list of indexes of one model.
        output: the folder to make. None is a folder of `indexes/` named after the one source.
        config: the configuration. `options` override it.
        resume: continue an interrupted run.
        overwrite: replace the index in `output`. It stays whole until the new one is finished.
        progress: True for progress bars, or an object that receives the progress.
        options: fields of `StructureConfig` by name, `vectors`, and the `device` to train on.

    Raises:
        UserError: a source is missing, damaged or of another model, two hold the same id, or the folder is taken.

    Example:
        >>> combine("indexes/mine", type="ivf-pq")  # doctest: +SKIP
    """
    progress = as_progress(progress)
    config = _on_device(IndexConfig.of(config, "combine", **options), progress)
    family = config.structure.family(Path(output) if resume and output is not None else None)
    several = isinstance(from_, list | tuple)
    sources = [folder_of(each) for each in (from_ if several else [from_])]
    if output is None and len(sources) != 1:
        raise UserError("An index of several others needs a folder: name it with `output`.")
    folder = _folder_beside(sources[0], family) if output is None else Path(output)
    progress.say(f"{', '.join(map(str, sources))} · type {family.name} → {folder}")
    made = combine_indexes(
        sources,
        folder,
        family=family,
        vector_format=config.vectors,
        resume=resume,
        overwrite=overwrite,
        device=config.encoding.device,
        parts=config.structure.parts,
        progress=progress,
    )
    return IndexDescription(folder, made)


def import_vectors(
    path: Path | str | NDArray[np.floating[Any]] | Sequence[Sequence[float]],
    output: Path | str,
    *,
    ids: Path | str | Sequence[str] | None = None,
    corpus: Any = None,
    model: str | os.PathLike[str] | TextEncoder | None = None,
    normalise: bool = False,
    allow_pickle: bool = False,
    config: IndexConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | Progress = False,
    **options: Any,
) -> IndexDescription:
    """Make an index folder of vectors that were encoded elsewhere.

    Args:
        path: where the vectors are (`.npy`, parquet, a folder of Pyserini or Tevatron), or the vectors [n, dim].
        output: the folder to make.
        ids: n ids, or the path of a file that lists them, for vectors that come without ids.
        corpus: the texts, found by id: a name, a path, or the documents.
        model: the encoder that made the vectors. None allows searches by vector only.
        normalise: scale every vector to length 1, so that the inner product is the cosine.
        allow_pickle: unpickle Tevatron's files, which can run any program.
        config: the configuration. `options` override it.
        resume: continue an interrupted import.
        overwrite: replace the index in `output`. It stays whole until the new one is finished.
        progress: True for progress bars, or an object that receives the progress.
        options: fields of `StructureConfig` by name, `vectors`, `device`, and with a model `dtype`, `pooling` and
            `max_length`.

    Raises:
        UserError: the vectors or ids are unfit, or the folder is taken.

    Example:
        >>> import tempfile
        >>> made = import_vectors([[3.0, 4.0]], tempfile.mkdtemp(), ids=["a"], normalise=True)
        >>> made.manifest.document_count, made.manifest.dim
        (1, 2)
    """
    progress = as_progress(progress)
    config = IndexConfig.of(config, "import_vectors", **options)
    loading = [name for name in _LOADING if getattr(config.encoding, name) not in (None, "auto")]
    if model is None and loading:
        raise UserError(f"{', '.join(f'`{name}`' for name in loading)} cannot be used without `model`: name the model.")
    config = _on_device(config, progress)
    family = config.structure.family(Path(output) if resume else None)
    source = open_vectors(path, ids=ids, allow_pickle=allow_pickle)
    encoder = None if model is None else _encoder(model, config.encoding, progress)
    made = bring_in(
        source,
        output,
        encoder=encoder,
        corpus=None if corpus is None else open_corpus(corpus, progress),
        family=family,
        normalise=normalise,
        resume=resume,
        overwrite=overwrite,
        vector_format=config.vectors or "float32",
        device=config.encoding.device,
        parts=config.structure.parts,
        progress=progress,
    )
    return IndexDescription(Path(output), made, encoder)


def export(
    source: Any,
    to: str,
    output: Path | str | None = None,
    *,
    exact: bool = False,
    int8: bool = False,
    teacher: str | os.PathLike[str] | None = None,
    url: str | None = None,
    table: str = "documents",
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | Progress = False,
) -> Path | ExportedTable | UploadedIndex:
    """Write an index or a model in another tool's format, or load an index into a vector database or an object store.

    A folder appears whole or not at all. A database is loaded shard by shard. Then its vectors are indexed, its rows
    are counted, and its answers are compared with exact search.

    Args:
        source: an index: its folder, or the index opened. For "onnx" and "openvino": a model, by
            folder or hub name. For "router": a student in its teacher's space. None is the newest student in
            `models/`.
        to: "pyserini", "numpy" or "parquet" for an index, "onnx" or "openvino" for a model, "router" for a student and
            its teacher in one sentence-transformers folder; "lancedb", "pgvector" or "qdrant" for an index into a
            database; "store" for an index as it is, into an object store.
        output: a new or an empty folder. None for a database or a store.
        exact: for "pyserini": write exact vectors, whatever the index's type.
        int8: for a model: also write the graph with weights in int8.
        teacher: for "router": the teacher, where it is not in the place that the student's record names.
        url: for a database: its address, such as `postgresql://USER@HOST/DATABASE`, `http://HOST:6333` or a folder.
            For a store: where the index goes, `s3://BUCKET/NAME` or `gs://BUCKET/NAME`.
        table: for a database: the table or collection to make.
        resume: for a database: continue an interrupted export of the same index.
        overwrite: for a database or a store: replace the table, or another index.
        progress: True for progress bars, or an object that receives the progress.

    Returns:
        The folder, or what the table of the database or the store holds.

    Raises:
        UserError: there is no such format, no sound index or model, the folder or table is taken, or the database
            cannot be reached.
        MissingPackage: a package for the format is not installed.
        WorkFailed: the database went away, or its answers have an overlap@10 below 0.99 with exact search.

    Example:
        >>> import tempfile
        >>> folder, out = tempfile.mkdtemp(), tempfile.mkdtemp()
        >>> made = import_vectors([[1.0, 0.0]], folder, ids=["a"])
        >>> sorted(each.name for each in export(made, "numpy", out).iterdir())
        ['ids.txt', 'vectors.npy']
    """
    progress = as_progress(progress)
    if int8 and to not in ("onnx", "openvino"):
        raise UserError(f"`int8` is for `to='onnx'` or `to='openvino'`: leave it out for {to}.")
    if to in DATABASES:
        if url is None or output is not None:
            raise UserError(f"An export to {to} goes to the database that `url` names: give it, and no `output`.")
        return export_to_database(
            folder_of(source), to, url, table=table, resume=resume, overwrite=overwrite, progress=progress
        )
    if to == "store":
        if url is None or output is not None:
            raise UserError("An export to a store goes to `url`, such as s3://BUCKET/NAME: give it, and no `output`.")
        return upload_index(folder_of(source), url, overwrite=overwrite, progress=progress)
    if output is None or url is not None:
        raise UserError(f"An export to {to} makes a folder: name a new one with `output`, and give no `url`.")
    if teacher is not None and to != "router":
        raise UserError(f"`teacher` is for `to='router'`: leave it out for {to}.")
    if to == "router":
        from ibkd_retrieval.encoders.exporting_routers import export_router

        student = newest_student() if source is None else source
        routed = export_router(student, output, teacher=None if teacher is None else os.fspath(teacher))
        progress.say(
            f"Queries by {student}, documents by {routed.teacher}. The vectors differ from the models' by at most "
            f"{routed.largest_difference:.1e}."
        )
        return routed.folder
    if to in ("onnx", "openvino"):
        from ibkd_retrieval.encoders.exporting import export_model

        made = export_model(newest_student() if source is None else source, output, to, int8=int8)
        progress.say(f"The vectors differ from the model's by at most {made.largest_difference:.1e}.")
        if made.int8_cosine is not None:
            progress.say(f"The vectors in int8 have a cosine of at least {made.int8_cosine:.4f} with the model's.")
        return made.folder
    export_index(folder_of(source), output, to, exact=exact, progress=progress)
    return Path(output)


def corpus_slug(corpus: str) -> str:
    """A corpus name as part of a folder name."""
    path = Path(corpus.rstrip("/"))
    name = path.name.split(".")[0] if path.exists() or address_of(corpus) else corpus
    return name.replace("/", "-").replace(":", "-")


def _on_device(config: IndexConfig, progress: Progress) -> IndexConfig:
    load_faiss()  # Before torch: the first to load OpenMP decides how its threads wait.
    return IndexConfig.of(config, device=device_there(config.encoding.device, progress))


def _model(model: str | os.PathLike[str] | TextEncoder, config: EncodingConfig) -> str | TextEncoder:
    """The model's name, or the loaded encoder.

    Raises:
        UserError: the encoder is loaded already, and an option says how to load it.
    """
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    usual = EncodingConfig()
    given = [f"`{name}`" for name in (*_LOADING, "backend", "dim") if getattr(config, name) != getattr(usual, name)]
    if given:
        raise UserError(
            f"{', '.join(given)} cannot be used with a loaded encoder: load it that way, or name its model."
        )
    return model


def _encoder(model: str | os.PathLike[str] | TextEncoder, config: EncodingConfig, progress: Progress) -> TextEncoder:
    from ibkd_retrieval.encoders.encoder import Encoder

    named = _model(model, config)
    if not isinstance(named, str):
        return named
    settings = {name: getattr(config, name) for name in ("device", *_LOADING, *PROMPTS)}
    return Encoder.load(named, progress=progress, **settings)


def _settled(family: Family, corpus: Corpus) -> Family:
    """The family that is built for this number of documents. The folder is named after it."""
    few = corpus.count
    if few is None:
        few = sum(1 for _ in islice(corpus.documents(), FEWEST_DOCUMENTS))
    return family.suited_to(few, SILENT)


def _folder_beside(source: Path, family: Family) -> Path:
    """The default folder of another index of the vectors of `source`."""
    manifest = read_manifest(source)
    name = source.resolve().name.removesuffix(f"-{manifest.family}")
    return INDEXES / f"{name}-{family.suited_to(manifest.document_count, SILENT).name}"
