import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.search.runs import run_files as runs_module
from ibkd_retrieval.search.runs import run_lines, strictly_decreasing
from ibkd_retrieval.search.runs.run_files import Run, read_run, write_run

SCORES = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-12])
DOC_IDS = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=4)
RANKINGS = st.dictionaries(DOC_IDS, SCORES, max_size=12)
RUNS = st.dictionaries(DOC_IDS, RANKINGS, min_size=1, max_size=4)


def run_of(rankings, tag="test"):
    return Run.from_lists(
        list(rankings),
        [list(ranking) for ranking in rankings.values()],
        [list(r.values()) for r in rankings.values()],
        tag,
    )


def lists(run):
    return {query: list(zip(ids.tolist(), scores.tolist(), strict=True)) for query, ids, scores in run}


@given(RUNS)
def test_documents_stand_by_float32_score_then_by_utf8_bytes_both_descending(rankings):
    for query, found in lists(run_of(rankings)).items():
        wanted = sorted(
            rankings[query], key=lambda doc_id: (np.float32(rankings[query][doc_id]), doc_id.encode()), reverse=True
        )
        assert [doc_id for doc_id, _ in found] == wanted


@given(st.lists(SCORES, min_size=1, max_size=30))
def test_written_scores_strictly_decrease_in_float32_and_after_parsing_their_text(values):
    scores = np.sort(np.array(values, dtype=np.float32).astype(np.float64))[::-1]
    lowered = strictly_decreasing(scores)
    parsed = np.array([float(f"{value:.9g}") for value in lowered.tolist()])
    assert (np.diff(lowered) < 0).all()
    assert (np.diff(parsed) < 0).all()
    assert (parsed.astype(np.float32) == lowered).all()
    assert (np.abs(lowered[lowered != 0]) >= np.finfo(np.float32).tiny).all()


def test_scores_that_do_not_tie_are_written_as_they_are():
    scores = np.array([3.5, 1.25, 0.0, -0.1, -7.0], dtype=np.float32)
    np.testing.assert_array_equal(strictly_decreasing(scores.astype(np.float64)), scores)


@pytest.mark.parametrize("end", [np.finfo(np.float32).max, np.finfo(np.float32).min])
def test_ties_at_the_ends_of_the_float32_range_stay_finite(end):
    lowered = strictly_decreasing(np.full(5, float(end)))
    assert np.isfinite(lowered).all()
    assert (np.diff(lowered) < 0).all()


@given(RUNS, st.sampled_from(["trec", "msmarco"]), st.sampled_from(["", ".gz"]))
def test_a_run_that_is_written_and_read_has_the_same_queries_and_order(tmp_path_factory, rankings, kind, suffix):
    path = tmp_path_factory.mktemp("runs") / f"run.txt{suffix}"
    run = run_of(rankings)
    write_run(run, path, kind)
    if not len(run.doc_ids):
        with pytest.raises(UserError, match="is empty"):
            read_run(path)
        return
    again = lists(read_run(path))
    assert list(again) == [query for query, ranking in rankings.items() if ranking]
    for query, ranked in again.items():
        assert [doc_id for doc_id, _ in ranked] == [doc_id for doc_id, _ in lists(run)[query]]


@given(RUNS)
def test_lines_in_any_order_with_blank_lines_and_tabs_read_the_same(tmp_path_factory, rankings):
    lines = [
        f"{query}\tQ0  {doc_id} 9 {score!r}\ttag\r"
        for query, ranking in rankings.items()
        for doc_id, score in ranking.items()
    ]
    if not lines:
        return
    folder = tmp_path_factory.mktemp("runs")
    (folder / "straight").write_text("\n".join(lines), encoding="utf-8", newline="")
    (folder / "mixed").write_text("\n\n" + "\n \n".join(lines[::-1]) + "\n\n", encoding="utf-8", newline="")
    straight = lists(read_run(folder / "straight"))
    assert straight == lists(read_run(folder / "mixed"))
    assert straight == {query: ranked for query, ranked in lists(run_of(rankings)).items() if ranked}


@pytest.mark.parametrize("name", ["run", "run.gz"])  # Compressed, the file is smaller than what is read of it.
def test_a_file_larger_than_one_block_reads_the_same(tmp_path, monkeypatch, name):
    run = run_of({f"q{query}": {f"d{doc}": doc % 7 for doc in range(50)} for query in range(20)})
    write_run(run, tmp_path / name)
    whole = lists(read_run(tmp_path / name))
    monkeypatch.setattr(runs_module, "_READ_BYTES", 100)
    assert lists(read_run(tmp_path / name)) == whole


LINES = st.lists(
    st.tuples(st.sampled_from(["q1", "q2", "é"]), DOC_IDS, SCORES)
    | st.sampled_from(
        ["", " ", "q1 Q0 d 1 2.0 t x", "q1 Q0 d 1 nan t", "q1  Q0 d 1 1.0 t", "q1 Q0  1 1.0 t", "q1\td\t1"]
    ),
    max_size=12,
)


@given(LINES, st.sampled_from([" ", "\t"]), st.booleans())
def test_parsing_at_once_reads_and_refuses_what_parsing_by_line_does(tmp_path_factory, lines, gap, ended):
    text = "\n".join(
        line if isinstance(line, str) else gap.join((line[0], "Q0", line[1], "1", repr(line[2]), "t")) for line in lines
    )
    path = tmp_path_factory.mktemp("runs") / "run"
    path.write_text(text + "\n" * ended, encoding="utf-8", newline="")

    def told():
        try:
            run = read_run(path)
        except UserError as error:
            return str(error)
        return lists(run), run.query_ids, run.tag

    by_line = told()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_lines, "_LARGE", 0)
        assert told() == by_line


@pytest.mark.parametrize("kind", ["trec", "msmarco"])
def test_a_tidy_block_is_parsed_at_once(tmp_path, monkeypatch, kind):
    run = run_of({f"q{query}": {f"d{doc}": float(doc) for doc in range(9)} for query in range(5)})
    write_run(run, tmp_path / "run", kind)
    wanted = lists(read_run(tmp_path / "run"))
    monkeypatch.setattr(run_lines, "_LARGE", 0)
    monkeypatch.setattr(run_lines, "_parse_by_line", None)
    assert lists(read_run(tmp_path / "run")) == wanted


def test_an_msmarco_rank_becomes_its_negative_as_score(tmp_path):
    (tmp_path / "run.tsv").write_text("q\tb\t2\nq\ta\t1\n")
    run = read_run(tmp_path / "run.tsv")
    assert lists(run) == {"q": [("a", -1.0), ("b", -2.0)]}
    assert run.tag == "run"


def test_zstandard_and_a_byte_order_mark_are_read(tmp_path):
    import pyarrow as pa

    with pa.OSFile(str(tmp_path / "run.zst"), "wb") as file, pa.CompressedOutputStream(file, "zstd") as out:
        out.write("\ufeffq Q0 a 1 2.5 mine\n".encode())
    run = read_run(tmp_path / "run.zst")
    assert lists(run) == {"q": [("a", 2.5)]}
    assert run.tag == "mine"


def test_a_gzipped_run_has_the_same_bytes_every_time(tmp_path):
    run = run_of({"q": {"a": 1.0, "b": 1.0}})
    write_run(run, tmp_path / "one.gz")
    write_run(run, tmp_path / "two.gz")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.gz").read_bytes()) == b"q Q0 b 1 1 test\nq Q0 a 2 0.99999994 test\n"


GOOD = "q Q0 a 1 2.0 t\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (GOOD + "q Q0 b 2 t\n", "line 2: 5 columns where 6 are needed as on the first line"),
        (GOOD + "q Q0 b 2\nq Q0 b 2 1 t x y\n", "line 2: 4 columns where 6"),
        (GOOD + "q Q0 b c 2 1 t\nq Q0 b 1 t\n", "line 2: 7 columns where 6"),
        ("q b\n", r"line 1: 2 columns where 6 \(TREC\) or 3 \(MS MARCO\) are needed"),
        ("q,b,1\n", "line 1: 1 columns"),
        (GOOD + "q Q0 b 2 1_0 t\n", "line 2: the fifth column is '1_0', where a score, a finite number"),
        (GOOD + "q Q0 b 2 １ t\n", "line 2: the fifth column is '１', where a score, a finite number"),
        (GOOD + "\n" + "q Q0 b 2 high t\n", "line 3: the fifth column is 'high', where a score, a finite number"),
        (GOOD + "q Q0 b 2 nan t\n", "line 2: the fifth column is 'nan'"),
        (GOOD + "q Q0 b 2 -inf t\n", "line 2: the fifth column is '-inf'"),
        (GOOD + "q Q0 b 2 1e39 t\n", "line 2: the fifth column is '1e39'"),
        (GOOD + "p Q0 a 1 1 t\nq Q0 a 2 1 t\n", r"line 3: document a appears twice for query q \(first on line 1\)"),
        ("q\ta\t1\nq\tb\t0\n", "line 2: the third column is '0', where a rank, a whole number from 1"),
        ("q\ta\t1\nq\tb\t2.5\n", "line 2: the third column is '2.5'"),
        ("", "is empty"),
        ("\n \n", "is empty"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_wrong_run_is_refused_with_file_and_line(tmp_path, text, sentence, suffix):
    path = tmp_path / f"wrong.run{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix else text.encode())
    with pytest.raises(UserError, match=sentence) as caught:
        read_run(path)
    assert str(path) in str(caught.value)


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path):
    (tmp_path / "run").write_bytes(GOOD.encode() + b"q Q0 \xff 2 1 t\n")
    with pytest.raises(UserError, match=r"run, line 2: the text is not UTF-8"):
        read_run(tmp_path / "run")


@pytest.mark.parametrize("keep", [5, 30, -8, -1])
def test_a_gzip_file_that_ends_early_is_refused(tmp_path, keep):
    data = gzip.compress("".join(f"q Q0 d{doc} 1 {doc} t\n" for doc in range(200)).encode())
    (tmp_path / "run.gz").write_bytes(data[:keep])
    with pytest.raises(UserError, match=r"run\.gz cannot be read to its end"):
        read_run(tmp_path / "run.gz")


def test_a_zstandard_file_that_ends_early_is_refused(tmp_path):
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write("".join(f"q Q0 d{doc} 1 {doc} t\n" for doc in range(200)).encode())
    (tmp_path / "run.zst").write_bytes(sink.getvalue().to_pybytes()[:-20])
    with pytest.raises(UserError, match=r"run\.zst cannot be read to its end"):
        read_run(tmp_path / "run.zst")


def test_a_gzip_file_that_is_not_one_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "run.gz").write_text(GOOD)
    with pytest.raises(UserError, match=r"run\.gz cannot be read"):
        read_run(tmp_path / "run.gz")
    with pytest.raises(UserError, match="There is no run at"):
        read_run(tmp_path / "absent")
    with pytest.raises(UserError, match="cannot be read"):
        read_run(tmp_path)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_a_sentence(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("runs") / "any"
    path.write_bytes(data)
    try:
        told = str(path) if len(read_run(path).doc_ids) else ""
    except UserError as error:
        told = str(error)
    assert str(path) in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((["q"], [["a", "a"]], [[2.0, 1.0]]), "Document a appears twice for query q"),
        ((["q"], [["a", "b"]], [[2.0, float("nan")]]), "Query q gives document b the score nan"),
        ((["q"], [["a"]], [[float("inf")]]), "the score inf"),
        ((["q"], [["a"]], [[1e300]]), "the score 1e"),
        ((["q"], [["a"]], [[]]), "Query q has 1 documents and 0 scores"),
        ((["q", "q"], [[], []], [[], []]), "Query q appears twice"),
        ((["q"], [], []), "got 1 queries, 0 lists"),
    ],
)
def test_lists_that_make_no_run_are_refused(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        Run.from_lists(*arguments)


@pytest.mark.parametrize(
    ("rankings", "tag"),
    [({"a b": {"d": 1}}, "t"), ({"q": {"d e": 1}}, "t"), ({"q": {"": 1}}, "t"), ({"q": {"d": 1}}, ""), ({"": {}}, "t")],
)
def test_ids_that_a_run_file_cannot_hold_are_refused_and_leave_no_file(tmp_path, rankings, tag):
    with pytest.raises(UserError, match="is empty or holds white space"):
        write_run(run_of(rankings, tag), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_and_an_unwritable_compression_are_refused(tmp_path):
    run = run_of({"q": {"d": 1}})
    with pytest.raises(UserError, match="Run format 'csv' is not known"):
        write_run(run, tmp_path / "run", "csv")
    with pytest.raises(UserError, match=r"not as \.zst"):
        write_run(run, tmp_path / "run.zst")


def test_a_line_that_never_ends_is_refused_before_it_fills_the_memory(tmp_path):
    zeros = gzip.compress(bytes(runs_module.LONGEST_LINE), 1)
    (tmp_path / "r.trec.gz").write_bytes(gzip.compress(b"q1 Q0 d1 1 0.5 tag\nq1 Q0 d2 2 ") + 3 * zeros)
    with pytest.raises(UserError, match=r"r\.trec\.gz holds a line longer than 32 MiB"):
        read_run(tmp_path / "r.trec.gz")
