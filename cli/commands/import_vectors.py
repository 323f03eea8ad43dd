"""`ibkd import`: vectors made elsewhere to an index folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..device import device_there
from ..display.console import print_json, reporter, stdout
from ..options.common import CORPUS_HELP, Device, Dtype, Json, MaxLength, Overwrite, Pooling, Quiet, Resume
from ..options.index import chosen_family, refuse


def import_vectors(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help=".npy file (with --ids) or folder of vectors.npy and ids.txt; parquet file or folder; Pyserini folder "
            "(index, docid); Tevatron's .pkl file or folder (with --allow-pickle).",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Index folder to make.")],
    ids: Annotated[
        Path | None, typer.Option(help="Ids of a .npy file: one a line, first column of a .tsv, column of a .parquet.")
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="CORPUS",
            help=f"Texts, found by id: {CORPUS_HELP}",
            show_default="those of a parquet file, else none",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Encoder that made the vectors: folder or hub name.",
            show_default="none: search by vectors only",
        ),
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(
            help="flat (exact) or ivf-pq (compressed, refined with the exact vectors).",
            show_default="flat; resumed, what it was",
        ),
    ] = None,
    vectors: Annotated[
        str,
        typer.Option(help="How exact vectors are stored: float32, float16 (half the bytes) or int8 (a quarter)."),
    ] = "float32",
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Scale vectors to length 1: inner product becomes cosine.")
    ] = False,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Read pickle files. Unsafe: such a file can run any program on this machine while it is read, so use "
            "it only for files that you or somebody you trust made.",
        ),
    ] = False,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an index of vectors that were encoded elsewhere; a killed run goes on with --resume."""
    from ibkd_retrieval.corpora.spec import open_corpus
    from ibkd_retrieval.indexing.faiss_binding import load_faiss
    from ibkd_retrieval.indexing.importing.detect import open_vectors
    from ibkd_retrieval.indexing.importing.folder import import_vectors

    progress = reporter(quiet)
    family = chosen_family(type, {}, {}, output if resume else None)
    load_faiss()
    device = device_there(device, progress)
    if model is None:
        # The structure is trained on the device; the rest is for the encoder.
        refuse(
            "vectors without --model",
            {"--dtype": None if dtype == "auto" else dtype, "--pooling": pooling, "--max-length": max_length},
        )
    source = open_vectors(path, ids=ids, allow_pickle=allow_pickle)
    encoder = None
    if model is not None:
        from ibkd_retrieval.encoders.encoder import Encoder

        encoder = Encoder.load(model, device=device, dtype=dtype, pooling=pooling, max_length=max_length)
    manifest = import_vectors(
        source,
        output,
        encoder=encoder,
        corpus=open_corpus(corpus, progress) if corpus is not None else None,
        family=family,
        normalise=normalise,
        resume=resume,
        overwrite=overwrite,
        vector_format=vectors,
        device=device,
        progress=progress,
    )
    if json:
        import dataclasses

        shown = dataclasses.asdict(manifest) | {"output": str(output), "disk_bytes": manifest.disk_bytes}
        print_json(shown)
        return
    by = f"of {manifest.encoder.name}" if encoder is not None else "searchable by vectors only (no --model was named)"
    stdout().print(
        f"{output}: {manifest.document_count:,} vectors × {manifest.dim} dimensions, {manifest.factory}, {by}",
    )
