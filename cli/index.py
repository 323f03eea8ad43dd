"""`ibkd index`: corpus to index folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import reporter, stdout
from .options import (
    CORPUS_HELP,
    INDEXES,
    MODELS,
    BatchTokens,
    Device,
    Dtype,
    Json,
    MaxLength,
    Overwrite,
    Pooling,
    Quiet,
    Resume,
)


def index(
    corpus: Annotated[str, typer.Option(metavar="CORPUS", help=CORPUS_HELP)] = "pydocs",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Encoder: folder or hub name.", show_default="the newest student in models/"
        ),
    ] = None,
    type: Annotated[
        str, typer.Option(help="flat (exact) or ivf-pq (compressed, refined with the exact vectors).")
    ] = "flat",
    output: Annotated[
        Path | None, typer.Option(help="Index folder to make.", show_default="indexes/<corpus>-<model>-<type>")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="INDEX", help="Take vectors and texts from this index; nothing is encoded again."
        ),
    ] = None,
    lists: Annotated[
        int | None, typer.Option(help="Inverted lists of ivf-pq.", show_default="by the number of documents")
    ] = None,
    subquantisers: Annotated[
        int | None, typer.Option(help="Parts a vector is coded in, ivf-pq.", show_default="dimensions / 4")
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Bits a part, 4 or 8, ivf-pq.", show_default="4")] = None,
    nprobe: Annotated[
        int | None, typer.Option(help="Lists visited by default, ivf-pq.", show_default="measured")
    ] = None,
    refine: Annotated[
        int | None, typer.Option(help="Candidates per result scored exactly, ivf-pq.", show_default="measured")
    ] = None,
    shard_size: Annotated[int, typer.Option(help="Documents a shard; a killed run loses at most one.")] = 8192,
    dim: Annotated[
        int | None,
        typer.Option(help="Cut vectors to this length; for students trained with --dims.", show_default="all"),
    ] = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    batch_tokens: BatchTokens = 4096,
    device: Device = "auto",
    dtype: Dtype = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode a corpus and build a searchable index folder; a killed run goes on with --resume."""
    from ibkd_retrieval.corpora.resolve import open_corpus
    from ibkd_retrieval.distill.model_folder import newest_student
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.encoders.names import short_model_name
    from ibkd_retrieval.errors import UserError
    from ibkd_retrieval.indexing.build import build_index
    from ibkd_retrieval.indexing.claim import link_shards
    from ibkd_retrieval.indexing.faiss_binding import load_faiss
    from ibkd_retrieval.indexing.families import family_named
    from ibkd_retrieval.indexing.manifest import read_manifest

    chosen = {"lists": lists, "subquantisers": subquantisers, "bits": bits, "nprobe": nprobe, "refine": refine}
    family = family_named(type, **{name: value for name, value in chosen.items() if value is not None})
    progress = reporter(quiet)
    load_faiss()
    cut = f"-d{dim}" if dim else ""
    begun = read_manifest(source) if source is not None else None
    if begun is not None:
        corpus, model = begun.corpus.name, model or begun.encoder.name
        pooling, max_length = pooling or begun.encoder.pooling, max_length or begun.encoder.max_length or None
        dim = dim or begun.dim
        dtype = begun.encoder.dtype if dtype == "auto" else dtype
    model = model or str(newest_student(MODELS))
    opened = open_corpus(corpus, progress)
    target = output or INDEXES / f"{corpus_slug(corpus)}-{short_model_name(model)}{cut}-{type}"
    if source is not None and target.resolve() == source.resolve():
        raise UserError(f"--from and --output are both {source}: name another --output.")
    progress.say(f"corpus {opened.name} · model {model} · type {type} → {target}")
    encoder = Encoder.load(
        model,
        device=device,
        dtype=dtype,
        pooling=pooling,
        max_length=max_length,
        dim=dim,
        batch_tokens=batch_tokens,
    )
    if begun is not None and source is not None:
        # After the model is known to fit: --overwrite deletes what is there.
        if encoder.weight_hash != begun.encoder.weight_hash:
            raise UserError(
                f"--from {source} holds vectors of {begun.encoder.name}, not of {model}: leave out --from to encode "
                "the corpus, or leave out --model."
            )
        link_shards(source, target, resume=resume, overwrite=overwrite)
    manifest = build_index(
        opened,
        encoder,
        target,
        family=family,
        resume=resume or source is not None,
        overwrite=overwrite and source is None,
        shard_size=shard_size,
        progress=progress,
    )
    if json:
        import dataclasses
        import json as encoder_

        shown = dataclasses.asdict(manifest) | {"output": str(target), "disk_bytes": manifest.disk_bytes}
        stdout().print(encoder_.dumps(shown), markup=False, soft_wrap=True)
        return
    in_memory = manifest.files["index.faiss"].bytes / manifest.document_count
    stdout().print(
        f"{target}: {manifest.document_count:,} documents × {manifest.dim} dimensions, {manifest.factory}, "
        f"{in_memory:,.0f} bytes a document in memory; encoded at {manifest.build.documents_per_second:,.0f} "
        "documents/s",
        markup=False,
    )


def corpus_slug(corpus: str) -> str:
    """A corpus name as part of a folder name."""
    path = Path(corpus.rstrip("/"))
    name = path.name.split(".")[0] if path.exists() else corpus
    return name.replace("/", "-").replace(":", "-")
