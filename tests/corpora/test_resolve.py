"""From what the user typed to documents, queries and judgements."""

import gzip
import os

import pytest

from ibkd_retrieval.corpora.records import Document, Judgement, Query
from ibkd_retrieval.corpora.spec import open_corpus, open_qrels, open_queries, queries_for
from ibkd_retrieval.errors import UserError

CORPUS = '{"_id": "d1", "title": "T", "text": "x"}\n{"_id": "d2", "title": "", "text": "y"}\n'
QUERIES = '{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n{"_id": "q3", "text": "three"}\n'
HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture(autouse=True)
def _ir_datasets_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path_factory.getbasetemp() / "irds"))


@pytest.fixture
def folder(tmp_path):
    beir = tmp_path / "mine"
    (beir / "qrels").mkdir(parents=True)
    (beir / "corpus.jsonl.gz").write_bytes(gzip.compress(CORPUS.encode()))
    (beir / "queries.jsonl").write_text(QUERIES)
    (beir / "qrels" / "test.tsv").write_text(HEADER + "q3\td1\t2\nq1\td2\t1\n")
    (beir / "qrels" / "train.tsv.gz").write_bytes(gzip.compress((HEADER + "q2\td2\t1\n").encode()))
    return beir


def test_a_beir_folder_gives_its_documents_and_the_queries_judged_in_a_split(folder):
    assert list(open_corpus(str(folder)).documents()) == [Document("d1", "x", "T"), Document("d2", "y")]
    test = open_queries(str(folder), need_judgements=True)
    assert test.queries == (Query("q1", "one"), Query("q3", "three"))
    assert test.judgements == (Judgement("q3", "d1", 2), Judgement("q1", "d2", 1))
    assert open_queries(f"{folder}:train").queries == (Query("q2", "two"),)
    assert open_qrels(f"{folder}:train") == (Judgement("q2", "d2", 1),)


def test_a_corpus_named_by_a_relative_path_finds_its_queries_from_another_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    corpora = [open_corpus(spec) for spec in ("mine", "./mine/", "mine:train")]
    monkeypatch.chdir("/")
    assert len({corpus.name for corpus in corpora}) == 2
    sizes = [len(open_queries(queries_for(corpus.name)).queries) for corpus in corpora]
    assert sizes == [2, 2, 1]
    assert [len(list(open_corpus(corpus.name).documents())) for corpus in corpora] == [2, 2, 2]


def test_a_missing_split_is_answered_with_those_there_are(folder):
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    with pytest.raises(UserError, match="no judgements for split test, only for dev, train"):
        open_queries(str(folder))


def test_a_judged_query_without_text_and_a_folder_without_corpus_are_refused(folder):
    (folder / "queries.jsonl").write_text(QUERIES.replace("q3", "q4"))
    with pytest.raises(UserError, match="lacks 1 of the 2 queries judged in split test, q3"):
        open_queries(str(folder))
    with pytest.raises(UserError, match=r"it has no corpus\.jsonl"):
        open_corpus(str(folder.parent))


def test_a_file_is_a_corpus_or_queries_and_qrels_have_their_own(folder):
    corpus = open_corpus(str(folder / "corpus.jsonl.gz"))
    assert corpus.name == str(folder / "corpus.jsonl.gz")
    assert len(list(corpus.documents())) == 2
    assert len(open_queries(str(folder / "queries.jsonl")).queries) == 3
    assert len(open_qrels(str(folder / "qrels" / "test.tsv"))) == 2
    with pytest.raises(UserError, match="`qrels`"):
        open_queries(str(folder / "queries.jsonl"), need_judgements=True)
    with pytest.raises(UserError, match="`queries"):
        queries_for(corpus.name)


def test_a_path_that_is_gone_or_mistyped_is_named_with_its_neighbours(folder):
    with pytest.raises(UserError, match="there is mine"):
        open_corpus(str(folder.parent / "mina"))
    with pytest.raises(UserError, match=r"no longer there.*`queries`"):
        queries_for(str(folder.parent / "gone:train"))


def test_an_unknown_name_is_answered_with_close_matches():
    with pytest.raises(UserError, match=r"unknown corpus 'scifct'.*did you mean scifact"):
        open_corpus("scifct")
    with pytest.raises(UserError, match=r"unknown queries 'msmarko'.*msmarco"):
        open_queries("msmarko")
    with pytest.raises(UserError, match="is empty"):
        open_corpus(" ")
    with pytest.raises(UserError, match="pydocs:train or pydocs:test"):
        open_corpus("pydocs:dev")


@pytest.mark.parametrize(
    ("corpus", "queries"),
    [
        ("msmarco", "msmarco"),
        ("msmarco-passage", "msmarco-passage/dev/small"),
        ("beir/fiqa", "beir/fiqa/test"),
        ("beir/fiqa/dev", "beir/fiqa/dev"),
        ("trec-dl-2019", "trec-dl-2019"),
        ("cqadupstack/gis", "cqadupstack/gis"),
        ("beir/cqadupstack/gis", "beir/cqadupstack/gis"),
        ("lotte/writing/test", "lotte/writing/test/search"),
        ("lotte/writing/dev/forum", "lotte/writing/dev/forum"),
        ("nano-beir/nq", "nano-beir/nq"),
        ("pydocs", "pydocs:test"),
        ("pydocs:test", "pydocs:test"),
    ],
)
def test_the_evaluation_queries_of_a_known_corpus_are_found(corpus, queries):
    assert queries_for(corpus) == queries


def test_a_corpus_without_evaluation_queries_asks_for_them():
    for name in ("clueweb09", "pydocs:train", "no-such-corpus", "cqadupstack", "bioasq"):
        with pytest.raises(UserError, match="`queries"):
            queries_for(name)


@pytest.fixture
def tiny_dataset(tmp_path):
    import ir_datasets
    from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries

    class Local:
        def __init__(self, path):
            self._path = path

        def path(self, force=True):
            return str(self._path)

        def stream(self):
            return open(self._path, "rb")

    (tmp_path / "docs.tsv").write_text("d1\tfirst\nd2\tsecond\n")
    (tmp_path / "queries.tsv").write_text("1\tone\n2\ttwo\n")
    (tmp_path / "qrels").write_text("1 0 d1 2\n")
    name = f"msmarco-passage/trec-dl-{os.path.basename(tmp_path)}"
    dataset = ir_datasets.Dataset(
        TsvDocs(Local(tmp_path / "docs.tsv")),
        TsvQueries(Local(tmp_path / "queries.tsv")),
        TrecQrels(Local(tmp_path / "qrels"), {2: "relevant"}),
    )
    ir_datasets.registry.register(name, dataset)
    yield name
    del ir_datasets.registry._registered[name]


def test_a_data_set_is_read_through_ir_datasets(tiny_dataset, capsys):
    corpus = open_corpus(tiny_dataset)
    assert list(corpus.documents()) == [Document("d1", "first"), Document("d2", "second")]
    assert open_queries(tiny_dataset).queries == (Query("1", "one"), Query("2", "two"))
    judged = open_queries(tiny_dataset, need_judgements=True)
    assert judged.queries == (Query("1", "one"),)
    assert judged.judgements == (Judgement("1", "d1", 2),)
    assert judged.relevance_level == 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [ConnectionError("no route"), RuntimeError("All sources failed"), OSError("MD5")])
def test_a_download_that_fails_says_where_to_and_how_to_do_without(monkeypatch, capsys, error):
    from ir_datasets.util import RequestsDownload

    def refuse(self):
        raise error

    monkeypatch.setattr(RequestsDownload, "stream", refuse)
    with pytest.raises(UserError, match=r"could not be fetched into .*IR_DATASETS_HOME.*`corpus`"):
        next(open_corpus("scifact").documents())
    assert capsys.readouterr() == ("", "")


def test_a_link_that_leads_nowhere_is_named_as_one(tmp_path):
    (tmp_path / "docs.jsonl").symlink_to("gone.jsonl")
    with pytest.raises(UserError, match=r"docs\.jsonl is a link to gone\.jsonl, which is not there"):
        open_corpus(str(tmp_path / "docs.jsonl"))
