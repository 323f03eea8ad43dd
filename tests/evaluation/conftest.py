import pytest

from ibkd_retrieval.indexing.config import SearchParams

DOCUMENTS, QUERIES = 1100, 30


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A teacher and a student on disk, and their flat and compressed indexes of one corpus with judged queries."""
    from helpers.tiny_models import save_sentence_transformer, sentences
    from ibkd_retrieval.corpora.records import Corpus, Document, Judgement, Query, QuerySet
    from ibkd_retrieval.encoders.encoder import Encoder
    from ibkd_retrieval.indexing.build import build_index
    from ibkd_retrieval.indexing.combine import combine_indexes

    folder = tmp_path_factory.mktemp("world")
    texts = sentences(DOCUMENTS)
    documents = [Document(f"d{place}", text, f"page {place}") for place, text in enumerate(texts)]
    corpus = Corpus("pages", DOCUMENTS, lambda: list(documents))
    queries = QuerySet(
        "pages:test",
        tuple(Query(f"q{place}", " ".join(texts[7 * place].split()[:4])) for place in range(QUERIES)),
        tuple(Judgement(f"q{place}", f"d{7 * place}", 2) for place in range(QUERIES))
        + tuple(Judgement(f"q{place}", f"d{7 * place + 1}", 1) for place in range(QUERIES)),
    )
    encoders = {
        name: Encoder.load(str(save_sentence_transformer(folder / name, **shape)), device="cpu", dtype="float32")
        for name, shape in {"teacher": {"layers": 3}, "student": {"layers": 1, "hidden": 16, "seed": 1}}.items()
    }
    for name, encoder in encoders.items():
        build_index(corpus, encoder, folder / f"{name}-flat", shard_size=400)
    combine_indexes([folder / "teacher-flat"], folder / "teacher-ivf-pq", family="ivf-pq")

    class World:
        def searcher(self, index, encoder=None, **settings):
            from ibkd_retrieval.indexing.index import open_index
            from ibkd_retrieval.search.searcher import Searcher

            chosen = encoders[index.split("-")[0]] if encoder is None else encoder
            return Searcher(open_index(folder / index), chosen, **settings)

    World.folder, World.queries, World.encoders, World.documents = folder, queries, encoders, documents
    return World()


@pytest.fixture(scope="session")
def compared(world):
    """A comparison of a teacher, the teacher compressed and a student, with next to no timing."""
    from ibkd_retrieval.evaluation.compare.comparison import Resampling
    from ibkd_retrieval.evaluation.compare.systems import ComparedData, Measuring, compare_systems

    searchers = {
        "teacher": world.searcher("teacher-flat"),
        "teacher ivf-pq": world.searcher("teacher-ivf-pq", search_params=SearchParams(nprobe=4)),
        "student": world.searcher("student-flat"),
    }
    measuring = Measuring(
        rounds=2,
        latency_queries=4,
        batch=40,
        throughput_documents=4,
        curve_queries=3,
        memory_queries=0,
        resampling=Resampling(samples=200, permutations=99, seed=1),
    )
    data = ComparedData("pages", world.queries, searchers)
    return data, compare_systems([data], ["ndcg@10", "recall@20", "mrr"], measuring, command="ibkd compare")
