"""The table of known data sets, against the catalogue that ir_datasets brings along."""

import pytest

from ibkd_retrieval.corpora import irds
from ibkd_retrieval.corpora.catalog.registry import (
    KNOWN_SETS,
    catalogued_ids,
    entry_count,
    main_metric,
    queries_are_documents,
    relevance_level_of,
)
from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.errors import UserError

FETCHED = {name: known for name, known in KNOWN_SETS.items() if known.corpus}


@pytest.fixture(autouse=True)
def _ir_datasets_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path_factory.getbasetemp() / "irds"))


def test_every_id_of_the_table_exists_in_ir_datasets_over_the_same_documents():
    import ir_datasets

    for known in FETCHED.values():
        handler = ir_datasets.load(known.corpus).docs_handler()
        for queries in filter(None, (known.queries, known.train, known.dev)):
            assert irds.has_judgements(queries), queries
            assert ir_datasets.load(queries).docs_handler() == handler, queries
        assert known.relevance_level == relevance_level_of(known.queries), known.name


def test_the_counts_of_the_catalogue_are_those_that_ir_datasets_gives():
    import ir_datasets

    assert set(irds.dataset_ids()) >= {known.corpus for known in FETCHED.values()} <= catalogued_ids()
    for known in FETCHED.values():
        corpus, queries = ir_datasets.load(known.corpus), ir_datasets.load(known.queries)
        assert entry_count(known.corpus, "docs") == corpus.docs_metadata()["count"]
        assert entry_count(known.queries, "docs") == corpus.docs_metadata()["count"]
        assert entry_count(known.queries, "queries") == queries.queries_metadata()["count"]
        assert entry_count(known.queries, "qrels") == queries.qrels_metadata()["count"]
    assert entry_count("no/such/id", "docs") is None


def test_no_training_or_dev_queries_of_beir_are_left_out():
    for known in FETCHED.values():
        if known.corpus.startswith("beir/"):
            for split in ("train", "dev"):
                dataset_id = f"{known.corpus}/{split}"
                if irds.has_dataset(dataset_id) and dataset_id != known.queries:
                    assert getattr(known, split) == dataset_id


def test_every_set_of_the_catalogue_s_benchmarks_has_a_short_name():
    def evaluated(dataset_id):
        if dataset_id.startswith("lotte/"):
            return "/test/" in dataset_id
        return dataset_id.startswith(("beir/", "nano-beir/")) and not dataset_id.endswith(("/train", "/dev"))

    known = {known.queries for known in FETCHED.values()}
    judged = {name for name in irds.dataset_ids() if evaluated(name) and irds.has_judgements(name)}
    # BEIR evaluates MS MARCO on dev; v2 of Touché stands for it.
    assert judged - known == {"beir/msmarco/test", "beir/webis-touche2020"}


def test_a_set_is_fetched_or_averaged_over_fetched_parts_or_says_how_to_get_it():
    for known in KNOWN_SETS.values():
        assert sum(map(bool, (known.corpus, known.parts, known.obtain))) == 1, known.name
        assert bool(known.corpus) == bool(known.queries)
        assert all(part in FETCHED for part in known.parts)
        assert known.licence


@pytest.mark.parametrize("name", ["bioasq", "signal1m", "trec-news", "robust04"])
def test_a_set_that_cannot_be_fetched_is_answered_with_how_to_get_it(name):
    for refused in (open_corpus, open_queries):
        with pytest.raises(UserError, match=rf"{name} cannot be fetched .*BEIR folder.*`corpus`"):
            refused(name)


def test_an_averaged_set_is_answered_with_its_parts():
    for refused in (open_corpus, open_queries):
        with pytest.raises(
            UserError, match=r"cqadupstack is the average of 12 sets: name one of cqadupstack/android, "
        ):
            refused("cqadupstack")


def test_the_first_metric_is_the_one_of_the_literature():
    specs = ("msmarco", "msmarco-passage/dev/small", "trec-dl-2019", "beir/nq", "/x", "lotte/writing/test/forum", "")
    expected = ["mrr@10", "mrr@10", "ndcg@10", "ndcg@10", "ndcg@10", "success@5", "ndcg@10"]
    assert [main_metric(spec) for spec in specs] == expected


def test_the_queries_of_arguana_and_quora_are_documents_by_every_name():
    own = {name for name, known in KNOWN_SETS.items() if known.queries_are_documents}
    assert own == {"arguana", "quora", "nano-beir/arguana", "nano-beir/quora"}
    for name in (*own, "beir/arguana", "beir/quora", "beir/quora/dev", "beir/quora/test"):
        assert queries_are_documents(name)
    for name in ("", "scifact", "beir/scifact/test", "beir/quorax", "cqadupstack", "/data/quora-like"):
        assert not queries_are_documents(name)
