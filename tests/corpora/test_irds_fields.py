"""What is kept of the records of ir_datasets beside their text."""

import datetime
from typing import NamedTuple

import pytest

from ibkd_retrieval.corpora import irds
from ibkd_retrieval.corpora.records import NO_FIELDS, Document
from ibkd_retrieval.corpora.spec import open_corpus
from ibkd_retrieval.errors import UserError


@pytest.fixture(autouse=True)
def _ir_datasets_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path_factory.getbasetemp() / "irds"))


@pytest.fixture
def registered():
    """Register records as a data set of ir_datasets; gives its documents as this library reads them."""
    import ir_datasets
    from ir_datasets.formats import BaseDocs

    names = []

    def read(*records):
        class Records(BaseDocs):
            def docs_iter(self):
                return iter(records)

            def docs_cls(self):
                return type(records[0])

            def docs_count(self):
                return len(records)

        names.append(f"records-{len(names)}")
        ir_datasets.registry.register(names[-1], ir_datasets.Dataset(Records()))
        return list(open_corpus(names[-1]).documents())

    yield read
    for name in names:
        del ir_datasets.registry._registered[name]


def test_scalars_and_lists_beside_the_text_are_fields(registered):
    from ir_datasets.datasets.beir import BeirSciDoc, BeirTitleUrlDoc
    from ir_datasets.formats import GenericDoc

    assert registered(BeirTitleUrlDoc("d1", "text", "title", "u")) == [Document("d1", "text", "title", {"url": "u"})]
    science = registered(
        BeirSciDoc("d1", "text", "title", ["A"], 1999, [], []), BeirSciDoc("d2", "x", "", [], None, [], [])
    )
    assert science == [Document("d1", "text", "title", {"authors": ["A"], "year": 1999}), Document("d2", "x")]
    (plain,) = registered(GenericDoc("d1", "text"))
    assert plain.fields is science[1].fields is NO_FIELDS


def test_what_forms_the_text_is_no_field(registered):
    from ir_datasets.datasets.cord19 import Cord19Doc, Cord19FullTextDoc, Cord19FullTextSection

    kept = {"doi": "10.1", "date": "2020"}
    short = Cord19Doc("d1", "T", "10.1", "2020", "A 2020")
    assert registered(short) == [Document("d1", short.default_text(), fields=kept)]
    full = Cord19FullTextDoc("d1", "T", "10.1", "2020", "A", (Cord19FullTextSection("H", "B"),))
    (read,) = registered(full)
    assert read.text == full.default_text()
    assert read.fields == kept


def test_a_time_is_kept_as_text_and_bytes_are_left_out(registered):
    class Letter(NamedTuple):
        doc_id: str
        text: str
        at: datetime.datetime
        raw: bytes
        html: str

        def default_text(self):
            return self.text

    letter = Letter("d1", "Dear", datetime.datetime(2020, 2, 29, 12), b"Dear", "<p>Dear")
    assert registered(letter) == [Document("d1", "Dear", fields={"at": "2020-02-29T12:00:00"})]


def test_the_text_of_every_class_of_documents_is_told_from_its_fields():
    import ir_datasets

    datasets = [ir_datasets.load(name) for name in irds.dataset_ids()]
    classes = {dataset.docs_cls() for dataset in datasets if dataset.has_docs()}
    assert len(classes) > 40
    for each in classes:
        names = irds._field_names(each)
        assert set(names) <= set(each._fields)
        assert not {"doc_id", "title", "text", "body", "abstract"} & set(names), each


def test_records_without_a_text_are_refused_with_what_to_do(registered):
    class Trial(NamedTuple):
        doc_id: str
        condition: str

    with pytest.raises(UserError, match=r"documents of records-0 are records .* export them to JSON lines"):
        registered(Trial("d1", "cold"))
