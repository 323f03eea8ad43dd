"""Suites of data sets, named or in a folder."""

import pytest

from ibkd_retrieval.corpora import irds
from ibkd_retrieval.corpora.catalog.descriptions import SUITES, SuiteMember, open_suite
from ibkd_retrieval.corpora.catalog.registry import KNOWN_SETS
from ibkd_retrieval.corpora.records import Judgement
from ibkd_retrieval.corpora.spec import open_corpus, open_queries
from ibkd_retrieval.errors import UserError


@pytest.fixture(autouse=True)
def _ir_datasets_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path_factory.getbasetemp() / "irds"))


class Remarks:
    """A progress that keeps what it is told."""

    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


def beir_folder(path, *splits):
    (path / "qrels").mkdir(parents=True)
    (path / "corpus.jsonl").write_text('{"_id": "d", "text": "x"}\n')
    (path / "queries.jsonl").write_text('{"_id": "q", "text": "one"}\n{"_id": "unjudged", "text": "two"}\n')
    for split in splits:
        (path / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    return path


def test_every_member_of_a_named_suite_is_a_known_set_that_has_judgements():
    for members in SUITES.values():
        assert len({member.name for member in members}) == len(members)
        for member in members:
            known = KNOWN_SETS[member.name]
            assert (member.corpus, member.queries) == (known.corpus, known.queries)
            assert (member.metric, member.relevance_level) == (known.metric, known.relevance_level)
            assert irds.has_judgements(member.queries)


def test_beir_has_the_14_public_sets_with_the_12_parts_of_cqadupstack_in_one_group():
    members = open_suite("beir")
    groups = [member.group for member in members]
    assert len(set(groups)) == 14
    assert groups.count("cqadupstack") == 12
    assert {member.metric for member in members} == {"ndcg@10"}
    assert all(member.group == member.name for member in members if member.group != "cqadupstack")


def test_msmarco_is_scored_by_the_metric_of_each_of_its_query_sets():
    assert [(m.name, m.metric, m.relevance_level) for m in open_suite("msmarco")] == [
        ("msmarco", "mrr@10", 1),
        ("trec-dl-2019", "ndcg@10", 2),
        ("trec-dl-2020", "ndcg@10", 2),
    ]


def test_members_are_read_from_the_data_dir_where_it_has_them(tmp_path):
    local = beir_folder(tmp_path / "scifact", "test", "train")
    part = beir_folder(tmp_path / "cqadupstack" / "android", "test")
    (tmp_path / "nfcorpus").mkdir()
    remarks = Remarks()
    members = {member.name: member for member in open_suite("beir", tmp_path, remarks)}
    assert members["scifact"] == SuiteMember("scifact", str(local), f"{local}:test", "ndcg@10", 1, "scifact")
    assert members["cqadupstack/android"].corpus == str(part)
    assert members["cqadupstack/android"].group == "cqadupstack"
    elsewhere = {member for member in members.values() if not member.corpus.startswith(str(tmp_path))}
    assert elsewhere == set(SUITES["beir"]) & elsewhere
    assert len(elsewhere) == len(members) - 2
    (remark,) = remarks.said
    assert remark.startswith(f"2 of the {len(members)} data sets of beir are in {tmp_path}")


def test_a_folder_of_beir_folders_is_a_suite_in_the_order_of_names(tmp_path, monkeypatch):
    data = tmp_path / "sets"
    beir_folder(data / "pages", "dev", "train")
    beir_folder(data / "forums" / "b", "test")
    beir_folder(data / "forums" / "a", "test", "dev")
    beir_folder(data / "trec-dl-2019", "test")
    beir_folder(data / "msmarco", "train", "dev", "test")
    beir_folder(data / "taught", "train")
    (data / "notes").mkdir()
    (data / ".hidden").mkdir()
    monkeypatch.chdir(tmp_path)
    remarks = Remarks()
    members = open_suite("sets", progress=remarks)
    assert [(m.name, m.group, m.queries.rpartition(":")[2], m.metric, m.relevance_level) for m in members] == [
        ("forums/a", "forums", "test", "ndcg@10", 1),
        ("forums/b", "forums", "test", "ndcg@10", 1),
        ("msmarco", "msmarco", "dev", "mrr@10", 1),
        ("pages", "pages", "dev", "ndcg@10", 1),
        ("taught", "taught", "train", "ndcg@10", 1),
        ("trec-dl-2019", "trec-dl-2019", "test", "ndcg@10", 2),
    ]
    said = [(remark.split()[0], remark.split("its split ")[1].split()[0]) for remark in remarks.said]
    assert said == [("msmarco", "dev"), ("pages", "dev"), ("taught", "train")]
    monkeypatch.chdir("/")
    for member in members:
        assert [document.doc_id for document in open_corpus(member.corpus).documents()] == ["d"]
        assert open_queries(member.queries, need_judgements=True).judgements == (Judgement("q", "d", 1),)


def test_an_unknown_suite_is_answered_with_a_close_one_or_with_those_there_are(tmp_path):
    with pytest.raises(
        UserError, match=r"unknown suite 'biir', and there is no folder .*: did you mean beir, or a folder"
    ):
        open_suite("biir")
    with pytest.raises(UserError, match=r"unknown suite .*/gone: name one of beir, nano-beir, .*, or a folder"):
        open_suite(str(tmp_path / "gone"))
    with pytest.raises(UserError, match="unknown suite ''"):
        open_suite("")


def test_a_folder_without_beir_folders_and_one_that_is_a_beir_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no BEIR folder: put each data set into a sub-folder"):
        open_suite(str(tmp_path))
    one = beir_folder(tmp_path / "one", "test")
    with pytest.raises(UserError, match="is a single BEIR folder: name the folder it lies in"):
        open_suite(str(one))
    with pytest.raises(UserError, match=r"there is no folder .*/gone"):
        open_suite("beir", tmp_path / "gone")


def test_a_member_without_judgements_or_queries_or_a_clear_split_is_refused(tmp_path):
    data = tmp_path / "sets"
    beir_folder(data / "a", "test")
    unclear = beir_folder(data / "b", "dev", "late", "train")
    with pytest.raises(UserError, match=f"{unclear} has no judgements for split test, but for dev, late, train"):
        open_suite(str(data))
    for split in ("dev", "late", "train"):
        (unclear / "qrels" / f"{split}.tsv").unlink()
    with pytest.raises(UserError, match=f"{unclear} has no judgements; put them into"):
        open_suite(str(data))
    (unclear / "queries.jsonl").unlink()
    with pytest.raises(UserError, match=r"it has no queries\.jsonl"):
        open_suite(str(data))
