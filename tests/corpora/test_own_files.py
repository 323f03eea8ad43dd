"""One's own files as they come out of other programs: names of fields, headers, quotes, folders, click logs."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ibkd_retrieval.corpora import formats
from ibkd_retrieval.corpora.records import Document, Judgement, Query
from ibkd_retrieval.corpora.spec import open_corpus, open_qrels, open_queries
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.progress import SILENT


class Said:
    """Progress that keeps what it is told."""

    task = staticmethod(SILENT.task)

    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


def documents(folder, name, content, **fields):
    (folder / name).write_text(content)
    said = Said()
    corpus = open_corpus(folder / name, said, **fields)
    first, second = list(corpus.documents()), list(corpus.documents())
    assert first == second
    return first, [line.removeprefix(f"{folder / name}: ") for line in said.lines]


RECORD = {"article_no": 7, "headline": "T", "body": "x y", "url": "u", "year": 1999}
EXPECTED = Document("7", "x y", "T", {"url": "u", "year": 1999})
TOLD = "id <- article_no, text <- headline + body; not embedded: url, year"


def test_usual_names_are_found_in_json_lines_and_what_was_read_is_said_once(tmp_path):
    assert documents(tmp_path, "c.jsonl", json.dumps(RECORD)) == ([EXPECTED], [TOLD])


def test_usual_names_are_found_in_parquet(tmp_path):
    pq.write_table(pa.Table.from_pylist([RECORD]), tmp_path / "c.parquet")
    said = Said()
    assert list(open_corpus(tmp_path / "c.parquet", said).documents()) == [EXPECTED]
    assert said.lines == [f"{tmp_path / 'c.parquet'}: {TOLD}"]


def test_lists_of_values_and_ids_with_spaces_are_kept_from_every_source(tmp_path):
    record = {
        "id": "report 7 b",
        "text": "x",
        "tags": ["a", "b c"],
        "years": [1999, 2001],
        "none": [],
        "deep": [{}, [1]],
        "embedding": [0.5, 1],
    }
    kept = Document("report 7 b", "x", "", {"tags": ["a", "b c"], "years": [1999, 2001]})
    assert documents(tmp_path, "c.jsonl", json.dumps(record))[0] == [kept]
    del record["deep"]
    record["embedding"] = [0.5, 1.0]
    table = pa.Table.from_pylist([record | {"none": ["n"]}])
    pq.write_table(table, tmp_path / "c.parquet")
    kept = Document(*kept[:3], {**kept.fields, "none": ["n"]})
    for source in (tmp_path / "c.parquet", table.to_pandas(), table.to_pylist()):
        assert list(open_corpus(source).documents()) == [kept]
    with pytest.raises(UserError, match="half of a surrogate"):
        list(open_corpus([record | {"tags": ["\ud800"]}]).documents())


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "semicolons.csv", "tabs.csv"])
def test_a_header_is_no_document(tmp_path, name):
    split = {"c.csv": ",", "semicolons.csv": ";"}.get(name, "\t")
    rows = [["Article No", "Headline", "Body", "url"], ["7", "T", "x y", "9.5"], ["8", "", "z", "007"]]
    found, said = documents(tmp_path, name, "".join(split.join(row) + "\n" for row in rows))
    assert found == [Document("7", "x y", "T", {"url": 9.5}), Document("8", "z", "", {"url": "007"})]
    assert said == ["id <- Article No, text <- Headline + Body; not embedded: url"]


@pytest.mark.parametrize("header", ['"id"\t"text"', '\ufeff"ID"\t"Text"', ' "id" \t "text" '])
def test_a_header_in_quotes_is_no_document_either(tmp_path, header):
    found, _ = documents(tmp_path, "c.tsv", f"{header}\r\n1\triver\r\n")
    assert found == [Document("1", "river")]


def test_the_passages_of_dpr_are_read_with_their_quotes_and_columns(tmp_path):
    content = (
        'id\ttext\ttitle\n1\t"The ""river"" bank, by boat"\tRiver\n2\t"""Cheese"" is milk"\tCheese\n3\tsay "x" now\ty\n'
    )
    found, _ = documents(tmp_path, "psgs.tsv", content)
    assert found == [
        Document("1", 'The "river" bank, by boat', "River"),
        Document("2", '"Cheese" is milk', "Cheese"),
        Document("3", 'say "x" now', "y"),
    ]


def test_a_quoted_cell_of_a_csv_may_hold_commas_quotes_and_lines(tmp_path):
    found, _ = documents(tmp_path, "c.csv", 'id,text\n1,"a, ""b""\n\nc"\n\n2,d\n')
    assert found == [Document("1", 'a, "b"\n\nc'), Document("2", "d")]
    assert documents(tmp_path, "bare.csv", "1,x\n2,y\n") == (
        [Document("1", "x"), Document("2", "y")],
        ["no header; id <- column 1, text <- column 2"],
    )


@pytest.mark.parametrize(
    ("fields", "expected", "told"),
    [
        ({"text_field": "url"}, Document("7", "u", "", {"headline": "T", "body": "x y", "year": 1999}), "text <- url;"),
        (
            {"text_field": ["headline", "url"]},
            Document("7", "T u", "", {"body": "x y", "year": 1999}),
            "headline + url;",
        ),
        (
            {"id_field": "year", "text_field": ["body"], "title_field": "url"},
            Document("1999", "x y", "u", {"article_no": 7, "headline": "T"}),
            "id <- year, text <- url + body; not embedded: article_no, headline",
        ),
        (
            {"id_field": "year"},
            Document("1999", "x y", "T", {"article_no": 7, "url": "u"}),
            "id <- year, text <- headline + body",
        ),
    ],
)
def test_chosen_fields_go_before_the_usual_names(tmp_path, fields, expected, told):
    found, said = documents(tmp_path, "c.jsonl", json.dumps(RECORD), **fields)
    assert found == [expected]
    assert told in said[0]
    assert list(open_corpus([RECORD], **fields).documents()) == [expected]


def test_columns_without_a_header_are_chosen_by_their_number(tmp_path):
    found, _ = documents(tmp_path, "c.tsv", "u\tx\t7\tz\n", id_field="3", text_field=["2", "4"])
    assert found == [Document("7", "x z", "", {"1": "u"})]


def test_the_row_numbers_that_pandas_writes_are_a_column_without_a_name(tmp_path):
    found, said = documents(tmp_path, "c.csv", ",id,text\n0,a,x\n1,b,y\n")
    assert found == [Document("a", "x", "", {"1": 0}), Document("b", "y", "", {"1": 1})]
    assert said == ["id <- id, text <- text; not embedded: 1"]


def test_one_column_of_texts_is_numbered(tmp_path):
    for content in ('text\nx\n\n"y, z"\n', 'x\n\n"y, z"\n'):
        found, said = documents(tmp_path, "c.csv", content)
        assert found == [Document("1", "x"), Document("2", "y, z")]
        assert said[0].startswith("one column; id <- number of the text")


def test_two_fields_that_could_be_the_text_are_said(tmp_path):
    _, said = documents(tmp_path, "c.jsonl", '{"id": 1, "text": "x", "abstract": "y"}')
    assert "`text_field` chooses among text, abstract" in said[0]


def test_documents_without_text_are_counted_and_said_once(tmp_path):
    _, said = documents(tmp_path, "c.csv", "id,title,text\n1,,\n2,T,\n3,, \n4,,x\n")
    assert said[1:] == ["2 of 4 documents have no text"]


def test_a_folder_of_texts_is_a_corpus(tmp_path):
    (tmp_path / "in" / ".git").mkdir(parents=True)
    for name, text in (
        ("b.md", "# B\n"),
        ("a b.txt", "x\ny"),
        ("in/c.TXT", "z"),
        ("in/.git/d.txt", "-"),
        ("e.pdf", "-"),
    ):
        (tmp_path / name).write_text(text)
    said = Said()
    corpus = open_corpus(tmp_path, said)
    assert list(corpus.documents()) == [
        Document("a%20b.txt", "x\ny"),
        Document("b.md", "# B"),
        Document("in/c.TXT", "z"),
    ]
    assert corpus.name == str(tmp_path)
    assert "3 files" in said.lines[0]


def test_the_notes_beside_a_model_or_a_data_set_are_no_corpus(tmp_path):
    for name in ("README.md", "config.json", "modules.json"):
        (tmp_path / name).write_text("notes")
    with pytest.raises(UserError, match=r"it has no corpus\.jsonl .* or one of \.txt and \.md files"):
        open_corpus(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("c.csv", "id,text\n1,x\n2,y,z\n", {}, r"line 3: expected 2 columns as in the header \(id, text\), found 3"),
        ("c.csv", 'id,text\n1,"x\n2,y\n', {}, "line 2: a quoted cell is malformed"),
        ("c.csv", "id,price\n1,9.50\n2,3\n", {"text_field": "price"}, "only numbers, 9.50 first: .* of id, price"),
        ("c.jsonl", '{"id": 1, "year": 3, "text": "x"}', {"text_field": "year"}, "the text is int"),
        ("c.csv", "id,text\n1,x\n", {"text_field": "body"}, "no field body for `text_field`; there are id, text"),
        ("c.jsonl", '{"id": 1, "text": "x"}', {"id_field": "key"}, "no field key for `id_field`; there are id, text"),
        ("c.jsonl", '{"id": 1, "url": "x", "n": 2}', {}, "no text; .* there are id, url, n: choose one as"),
        ("c.csv", "url,text,n\nu,x,1\n", {}, "no id; .* there are url, text, n: choose one as `id_field`"),
        ("c.csv", "id,text,text\n1,x,y\n", {}, "two columns are called text"),
        ("c.csv", "text\nx\ny,z\n", {}, "line 3: expected 1 column"),
        ("c.json", '[{"id": 1}, 3]', {}, "no text"),
        ("c.json", '[{"id": 1', {}, "not JSON"),
        ("c.json", "[" * 100_000, {}, "not JSON"),
        ("c.jsonl", '{"a":' * 100_000, {}, "line 1: not JSON"),
        ("c.jsonl", '{"id": ' + "[" * 100_000, {}, "line 1: not JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_its_place(tmp_path, name, content, fields, message):
    with pytest.raises(UserError, match=message) as raised:
        documents(tmp_path, name, content, **fields)
    assert str(tmp_path / name) in str(raised.value)


def test_fields_of_a_known_set_cannot_be_chosen():
    for source in ("scifact", "pydocs", open_corpus(["x"])):
        with pytest.raises(UserError, match="leave out `id_field`"):
            open_corpus(source, text_field="body")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_line_is_bounded_even_where_it_is_compressed(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(formats, "LONGEST_LINE", 1 << 20)
    content = b'{"id": 1, "text": "' + b"x" * (1 << 20) + b'"}'
    (tmp_path / f"c.jsonl{ending}").write_bytes(gzip.compress(content) if ending else content)
    with pytest.raises(UserError, match="line 1: longer than 1 MiB"):
        list(open_corpus(tmp_path / f"c.jsonl{ending}").documents())


def test_a_date_beyond_the_year_9999_is_refused(tmp_path):
    far = pa.array([2**31 - 1], pa.date32())
    pq.write_table(pa.table({"id": ["a"], "text": ["x"], "day": far}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match="rows 1 to 1: a date or time cannot be read"):
        list(open_corpus(tmp_path / "c.parquet").documents())


def test_queries_are_read_from_any_names(tmp_path):
    for name, content in (
        ("q.tsv", "qid\tquery\nq1\twho\n"),
        ("q.csv", "Question ID,Question\nq1,who\n"),
        ("q.jsonl", '{"number": "q1", "title": "who"}'),
        ("q.json", '[\n{"number": "q1",\n"title": "who"}]\n'),
        ("q.tsv", "doc\ttext\nq1\twho\n"),
        ("q.csv", "ref,question\nq1,who\n"),
    ):
        (tmp_path / name).write_text(content)
        assert open_queries(tmp_path / name).queries == (Query("q1", "who"),)
    (tmp_path / "q.csv").write_text("nr,frage\nq1,who\n")
    assert open_queries(tmp_path / "q.csv", id_field="nr", text_field="frage").queries == (Query("q1", "who"),)


def test_a_query_id_that_repeats_is_refused(tmp_path):
    (tmp_path / "q.csv").write_text("qid,query\n1,who\n1,what\n")
    with pytest.raises(UserError, match="query id 1 appears twice"):
        open_queries(tmp_path / "q.csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("j.csv", "query,clicked_doc\nq1,d1\n"),
        ("j.csv", "clicked_doc,query\nd1,q1\n"),
        ("j.tsv", "q1\td1\n"),
        ("j.tsv", "q1\t0\td1\t1\n"),
        ("j.tsv", "q1 0 d1 1\n"),
        ("j.csv", "q1,d1,1\n"),
        ("j.csv", "user,query_id,doc_id,label\nu,q1,d1,+1\n"),
        ("j.jsonl", '{"qid": "q1", "docid": "d1", "rel": 1}'),
        ("j.jsonl", '{"qid": "q1", "docid": "d1", "rel": 1.0}'),
        ("j.csv", "query,artikel\nq1,d1\n"),
        ("j.csv", "user,query,clicked_url\nu,q1,d1\n"),
        ("j.txt", "q1 0 d1 +1\n"),
    ],
)
def test_judgements_are_read_from_click_logs_and_labels(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert open_qrels(tmp_path / name) == (Judgement("q1", "d1", 1),)


def test_fractional_weights_need_a_threshold(tmp_path):
    (tmp_path / "j.csv").write_text("query,doc_id,weight\nq,a,0.2\nq,b,0.5\nq,a,0.1\nq,c,3\n")
    with pytest.raises(UserError, match=r"the relevance is '0.2'; expected a whole number, or `qrels_threshold`"):
        open_qrels(tmp_path / "j.csv")
    found = open_qrels(tmp_path / "j.csv", qrels_threshold=0.5)
    assert found == (Judgement("q", "a", 0), Judgement("q", "b", 1), Judgement("q", "c", 1))


def test_judgements_may_name_a_query_by_its_text(tmp_path):
    (tmp_path / "j.csv").write_text("query,article_no\nWho  is it,d1\nunknown,d2\n")
    said = Said()
    asked = open_queries([("q1", "who is it"), ("q2", "what")], True, said, qrels=tmp_path / "j.csv")
    assert asked.queries == (Query("q1", "who is it"),)
    assert asked.judgements == (Judgement("q1", "d1", 1),)
    assert "query <- query, document <- article_no, no column of grades: every pair is relevant" in said.lines[-1]


@pytest.mark.parametrize("grade", ["１", "1_0", "0x1", "1e0", "nan", "", "٣", "1.5"])
@pytest.mark.parametrize("name", ["j.tsv", "j.txt"])
def test_only_grades_that_trec_eval_reads_are_read(tmp_path, grade, name):
    (tmp_path / name).write_text(f"q 0 a {grade}\n" if name == "j.txt" else f"q\ta\t{grade}\n")
    with pytest.raises(UserError, match="line 1"):
        open_qrels(tmp_path / name)
