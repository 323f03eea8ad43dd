"""The examples at the end of every help page."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "": (
        ("All steps once, on documentation that is on this machine", "ibkd quickstart"),
        ("Your own documents, in four steps", "ibkd distill --corpus docs.jsonl"),
        ("", "ibkd index --corpus docs.jsonl"),
        ("", "ibkd search how do I return an item"),
        ("", "ibkd eval --queries questions.csv --qrels clicks.tsv"),
    ),
    "quickstart": (
        ("Two students, their indexes and a report", "ibkd quickstart"),
        ("Fewer steps: faster, but worse students", "ibkd quickstart --steps 100"),
    ),
    "distill": (
        ("A student for your own documents, from the usual teacher", "ibkd distill --corpus docs.jsonl"),
        (
            "A larger student of a better teacher",
            "ibkd distill --corpus docs.jsonl --teacher all-mpnet-base-v2 --layers 3 --dim 384",
        ),
        (
            "A static student: the fastest to train and to run",
            "ibkd distill --corpus docs.jsonl --student static",
        ),
        (
            "Both stages, with the judged training queries of a data set",
            "ibkd distill --corpus scifact --stage both --pairs scifact/train",
        ),
    ),
    "index": (
        ("Your own documents, with the newest student in models/", "ibkd index --corpus docs.jsonl"),
        (
            "A CSV file whose columns have names of their own",
            "ibkd index --corpus shop.csv --id-field sku --text-field name --text-field blurb",
        ),
        (
            "A compressed index of another encoder",
            "ibkd index --corpus docs.jsonl --model all-MiniLM-L6-v2 --type ivf-pq",
        ),
        (
            "New documents into a finished index",
            "ibkd index --append --corpus new.jsonl --output indexes/mine",
        ),
    ),
    "search": (
        ("One question to the newest index", "ibkd search what is soy"),
        ("An interactive prompt: one question after another", "ibkd search --index indexes/mine"),
        ("Two indexes side by side", "ibkd search what is soy --index indexes/teacher --index indexes/student"),
        (
            "A run file for every query of a data set",
            "ibkd search --index indexes/mine --queries scifact --output run.trec",
        ),
    ),
    "eval": (
        (
            "Search an index with judged queries, and score the results",
            "ibkd eval --index indexes/mine --queries scifact --metric ndcg@10",
        ),
        (
            "Your own questions and judgements",
            "ibkd eval --queries questions.csv --qrels clicks.tsv --qrels-threshold 0.5",
        ),
        ("One run against another, with significance", "ibkd eval --run b.trec --baseline a.trec --qrels qrels.tsv"),
        ("A suite of data sets", "ibkd eval --suite nano-beir --model models/mine"),
    ),
    "compare": (
        (
            "What a student costs and saves, as a report",
            "ibkd compare --index indexes/teacher --index indexes/student --output report",
        ),
        (
            "On your own questions, without judgements",
            "ibkd compare --index indexes/a --index indexes/b --queries questions.txt",
        ),
        (
            "A check for CI: at least 97 % of the teacher's score",
            "ibkd compare --index indexes/a --index indexes/b --fail-under ndcg@10=0.97",
        ),
    ),
    "serve": (
        ("A page and a JSON API for the newest index", "ibkd serve"),
        ("Two indexes side by side, on another port", "ibkd serve --index indexes/a --index indexes/b --port 9000"),
        ("A model as an embeddings endpoint", "ibkd serve --embeddings models/mine"),
    ),
    "datasets": (
        ("All sets that have a short name", "ibkd datasets"),
        ("What is known of one, and the commands that use it", "ibkd datasets scifact"),
        ("The sets of a suite", "ibkd datasets --suite beir"),
    ),
    "info": (
        ("What is in models/ and indexes/", "ibkd info"),
        ("One of them, its files compared with their checksums", "ibkd info indexes/mine --verify"),
    ),
    "export": (
        ("Vectors and ids for numpy", "ibkd export indexes/mine --to numpy --output vectors"),
        ("An index that Pyserini searches", "ibkd export indexes/mine --to pyserini --output for-pyserini"),
        ("A model as one ONNX graph", "ibkd export models/mine --to onnx --output mine-onnx"),
        (
            "An index into PostgreSQL with pgvector",
            "ibkd export indexes/mine --to pgvector --url postgresql://me@localhost/search",
        ),
    ),
    "push": (
        ("A private repository for a student", "ibkd push models/mine me/mine --private --license apache-2.0"),
        ("Another branch of it", "ibkd push models/mine me/mine --revision next --language en"),
    ),
    "import": (
        (
            "Vectors and ids in two files, with their texts",
            "ibkd import vectors.npy --ids ids.txt --corpus docs.jsonl --output indexes/mine",
        ),
        (
            "A parquet file, and the model that made its vectors",
            "ibkd import embedded.parquet --model all-MiniLM-L6-v2 --output indexes/mine",
        ),
    ),
    "bench": (("The newest student in models/", "ibkd bench encode"),),
    "bench encode": (
        ("The newest student in models/", "ibkd bench encode"),
        ("Another model, on your own texts", "ibkd bench encode --model all-MiniLM-L6-v2 --corpus docs.jsonl"),
    ),
}
"""What each example does, and its command line; by command. Without a sentence, it goes on with the one before."""

_WIDTH = 76


def epilog_of(command: str) -> str:
    """The examples of a command, as the end of its help page."""
    lines = ["[bold]Examples[/bold]"]
    for does, typed in EXAMPLES[command]:
        lines += ["", f"[dim]# {does}[/dim]"] if does else []
        lines += _folded(typed)
    return "\n".join(lines)


def _folded(typed: str) -> list[str]:
    """A command line, broken as a shell has it where it is long, and before an option."""
    if len(typed) <= _WIDTH:
        return [typed]
    place = typed.rindex(" --", 0, _WIDTH - 2)
    return [f"{typed[:place]} \\", f"    {typed[place + 1 :]}"]
