"""`ibkd index`: corpus to index folder, and what can be done to one later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibkd_retrieval.indexing.building.encoding import EncodingConfig

from ..device import device_there
from ..display.console import print_json, reporter, stdout
from ..options.common import (
    CORPUS_HELP,
    INDEXES,
    Backend,
    Device,
    EncoderDtype,
    Json,
    MaxLength,
    Overwrite,
    Pooling,
    Quiet,
    Resume,
)
from ..options.index import check_job, chosen_family, folder_beside, refuse, settled_family

if TYPE_CHECKING:
    from ibkd_retrieval.corpora.records import Corpus
    from ibkd_retrieval.indexing.families import Family
    from ibkd_retrieval.indexing.format.manifest import IndexManifest
    from ibkd_retrieval.progress import Progress


def index(
    corpus: Annotated[str | None, typer.Option(metavar="CORPUS", help=CORPUS_HELP, show_default="pydocs")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Encoder: folder or hub name.", show_default="the newest student in models/"
        ),
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(
            help="flat (exact), ivf-pq, ivf-flat, hnsw, sq8, rabitq or factory (approximate).",
            show_default="flat; resumed, what it was",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Index folder to make.", show_default="indexes/<corpus>-<model>-<type>")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="INDEX", help="Make it from this index: no corpus, no model, no encoding."),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(metavar="INDEX", help="Make it from several indexes of one model; name each with --merge."),
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add the corpus to the finished index named by --output.")
    ] = False,
    delete: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Delete documents, one id a line, from the index named by --output."),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(help="Store vectors as float32, float16 or int8; the last two round.", show_default="float32"),
    ] = None,
    factory: Annotated[
        str | None, typer.Option(metavar="STRING", help="A faiss factory string, as in OPQ48,IVF4096,PQ48x4fs.")
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(help="Share of the exact ten nearest to find; without --type, the type is chosen by trial."),
    ] = None,
    memory_per_vector: Annotated[
        int | None, typer.Option(metavar="BYTES", help="Most memory a vector may take while searched, for --recall.")
    ] = None,
    latency: Annotated[
        float | None, typer.Option(metavar="MILLISECONDS", help="Most time a query may take, for --recall.")
    ] = None,
    lists: Annotated[
        int | None, typer.Option(help="Inverted lists.", show_default="by the number of documents")
    ] = None,
    subquantisers: Annotated[
        int | None, typer.Option(help="Parts a vector is coded in, ivf-pq.", show_default="dimensions / 4")
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Bits a part, ivf-pq (4 or 8) and rabitq.")] = None,
    nprobe: Annotated[int | None, typer.Option(help="Lists visited by default.", show_default="measured")] = None,
    refine: Annotated[
        int | None, typer.Option(help="Candidates per result scored exactly.", show_default="measured")
    ] = None,
    ef_search: Annotated[
        int | None, typer.Option(help="Nodes kept in view by default, hnsw.", show_default="measured")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Encoder processes: they share the cores, or take a GPU each in turn.")
    ] = 1,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Most memory to take, such as 2GB or 512MB; an index type that needs more is refused.",
            show_default="a quarter of the machine's",
        ),
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            help="Documents a shard; a killed run loses the few in the making.",
            show_default="8192, less in little memory",
        ),
    ] = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    dim: Annotated[
        int | None,
        typer.Option(help="Cut vectors to this length; for students trained with --dims.", show_default="all"),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            help="Most tokens in one batch, padding counted.",
            show_default="4096 (65536 on a GPU), less in little memory",
        ),
    ] = None,
    device: Device = "auto",
    dtype: EncoderDtype = "auto",
    backend: Backend = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode a corpus and build a searchable index folder; a killed run goes on with --resume.

    A finished index grows with --append and shrinks with --delete; --from and --merge make new ones of finished ones.
    """
    from ibkd_retrieval.indexing.append import append_documents
    from ibkd_retrieval.indexing.combine import combine_indexes
    from ibkd_retrieval.indexing.delete import delete_documents
    from ibkd_retrieval.indexing.faiss_binding import load_faiss
    from ibkd_retrieval.indexing.format.manifest import read_manifest

    progress = reporter(quiet)
    load_faiss()
    device = device_there(device, progress)
    chosen = {
        "factory": factory,
        "recall": recall,
        "lists": lists,
        "subquantisers": subquantisers,
        "bits": bits,
        "nprobe": nprobe,
        "refine": refine,
        "ef_search": ef_search,
    }
    chosen = {name: value for name, value in chosen.items() if value is not None}
    budget = {"--memory-per-vector": memory_per_vector, "--latency": latency}
    jobs = {"--from": source, "--merge": merge, "--append": append, "--delete": delete}
    options = EncodingConfig(
        model=model,
        device=device,
        dtype=dtype,
        backend=backend,
        pooling=pooling,
        max_length=max_length,
        dim=dim,
        batch_tokens=batch_tokens,
        workers=workers,
        memory=memory,
        shard_size=shard_size,
    )
    structure = {"--type": type, "--vectors": vectors, **budget} | {f"--{name}": chosen[name] for name in chosen}
    check_job(jobs, {"--corpus": corpus, **options.given()}, structure, output)
    if delete is not None and output is not None:
        refuse("--delete", {"--resume": resume, "--overwrite": overwrite})
        from ibkd_retrieval.indexing.importing.ids import read_ids

        manifest, target = delete_documents(output, list(read_ids(delete))), output
    elif append and output is not None and corpus is not None:
        begun = read_manifest(output).encoder
        added = _opened(corpus, progress)
        encoder, sizes, processes = options.like(begun).load(added, progress)
        progress.say(f"corpus {corpus} · model {encoder.name} → {output}")
        target = output
        manifest = append_documents(
            added,
            encoder,
            target,
            resume=resume,
            restart=overwrite,
            memory=sizes,
            processes=processes,
            progress=progress,
        )
    elif source is not None or merge:
        family = chosen_family(type, chosen, budget, output if resume else None)
        sources = [source] if source is not None else merge or []
        target = output or folder_beside(sources[0], family)
        progress.say(f"{', '.join(map(str, sources))} · type {family.name} → {target}")
        manifest = combine_indexes(
            sources,
            target,
            family=family,
            vector_format=vectors,
            resume=resume,
            overwrite=overwrite,
            device=device,
            progress=progress,
        )
    else:
        manifest, target = _build(
            corpus or "pydocs", options, chosen_family(type, chosen, budget, output if resume else None), output,
            vectors, resume, overwrite, progress,
        )  # fmt: skip
    _print(manifest, target, json)


def _build(
    corpus: str,
    options: EncodingConfig,
    family: Family,
    output: Path | None,
    vectors: str | None,
    resume: bool,
    overwrite: bool,
    progress: Progress,
) -> tuple[IndexManifest, Path]:
    from ibkd_retrieval.encoders.loading import short_model_name
    from ibkd_retrieval.indexing.build import build_index
    from ibkd_retrieval.indexing.building.plan import begun_encoder

    options = options.with_model()
    opened = _opened(corpus, progress)
    settled = settled_family(family, opened)
    cut = f"-d{options.dim}" if options.dim else ""
    target = output or INDEXES / f"{corpus_slug(corpus)}-{short_model_name(options.model or '')}{cut}-{settled.name}"
    progress.say(f"corpus {opened.name} · model {options.model} · type {settled.name} → {target}")
    if resume:
        options = options.computing_as(begun_encoder(target))
    encoder, sizes, processes = options.load(opened, progress)
    manifest = build_index(
        opened,
        encoder,
        target,
        family=family,
        resume=resume,
        overwrite=overwrite,
        vector_format=vectors or "float32",
        memory=sizes,
        processes=processes,
        device=options.device,
        progress=progress,
    )
    return manifest, target


def _opened(corpus: str, progress: Progress) -> Corpus:
    from ibkd_retrieval.corpora.spec import open_corpus

    return open_corpus(corpus, progress)


def _print(manifest: IndexManifest, target: Path, json: bool) -> None:
    if json:
        import dataclasses

        shown = dataclasses.asdict(manifest) | {"output": str(target), "disk_bytes": manifest.disk_bytes}
        print_json(shown)
        return
    structure = manifest.files.get(manifest.structure)
    in_memory = 0 if structure is None else structure.bytes / manifest.rows
    gone = f" ({manifest.deleted_count:,} deleted)" if manifest.deleted_count else ""
    stdout().print(
        f"{target}: {manifest.document_count:,} documents{gone} × {manifest.dim} dimensions, {manifest.factory}, "
        f"{in_memory:,.0f} bytes a document in memory; encoded at {manifest.build.documents_per_second:,.0f} "
        "documents/s",
    )


def corpus_slug(corpus: str) -> str:
    """A corpus name as part of a folder name."""
    path = Path(corpus.rstrip("/"))
    name = path.name.split(".")[0] if path.exists() else corpus
    return name.replace("/", "-").replace(":", "-")
