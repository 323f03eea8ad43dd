"""`ibkd eval` on run files and on suites: tables, files, tests against baselines, and what is refused."""

import csv
import gzip
import importlib.util
import io
import json
import shutil

import pytest

from helpers.tiny_models import tokenizer, transformer
from ibkd_retrieval.encoders.encoder import Encoder

QRELS = "q1 0 a 2\nq1 0 b 1\nq2 0 a 1\nq3 0 c 1\nq4 0 d 2\nq5 0 e 1\nq6 0 f 1\n"
GOOD = "".join(f"q{n} Q0 {doc} 1 2.0 good\nq{n} Q0 z 2 1.0 good\n" for n, doc in enumerate("aacdef", 1))
POOR = "".join(f"q{n} Q0 z 1 2.0 poor\nq{n} Q0 {doc} 2 1.0 poor\n" for n, doc in enumerate("aacdef", 1))


@pytest.fixture
def files(shell):
    folder = shell.folder
    (folder / "qrels.txt").write_text(QRELS)
    (folder / "good.trec").write_text(GOOD)
    (folder / "poor.trec").write_text(POOR)
    return folder


def test_scores_come_with_intervals_and_with_what_was_not_scored(shell, files):
    (files / "some.trec").write_text("".join(GOOD.splitlines(keepends=True)[2:]) + "extra Q0 a 1 1 good\n")
    out = shell.must("eval", "--run", "some.trec", "--qrels", "qrels.txt", "--metric", "mrr@10").out.splitlines()
    assert out[0].split() == ["metric", "score", "95%", "interval"]
    assert out[1].split()[:2] == ["mrr@10", "0.8333"]
    low, high = (float(word.strip("[],")) for word in out[1].split()[2:])
    assert 0 < low < 0.8333 < high <= 1
    for words in ("6 judged queries", "1 of them missing", "1 queries without judgements", "50.0% of the first 10"):
        assert words in out[2]
    assert "5,000 resamples, seed 0" in out[3]


def test_runs_and_baselines_stand_in_one_table_with_their_tests(shell, files):
    args = ("eval", "--run", "good.trec", "--run", "poor.trec", "--qrels", "qrels.txt", "--metric", "MRR@10")
    shown = json.loads(shell.must(*args, "--baseline", "poor.trec", "--json").out)
    assert shown["MRR@10"] == 1
    assert [run["MRR@10"] for run in shown["runs"]] == [1, 0.5]
    assert [(each["difference"], each["wins"], each["ties"]) for each in shown["contrasts"]] == [(0.5, 6, 0)]
    # Six queries: all 64 swaps are looked at, and two of them are as extreme. A run is not tested against itself.
    assert shown["contrasts"][0]["randomisation_p"] == 2 / 64
    assert shown["contrasts"][0]["randomisation_p_holm"] == 2 / 64
    table = shell.must(*args, "--baseline", "poor.trec").out
    assert "win/tie/loss" in table
    assert "6/0/0" in table
    assert "Holm's correction for 1 comparison" in table


def test_seed_and_resamples_decide_the_intervals(shell, files):
    (files / "mixed.trec").write_text(GOOD[: len(GOOD) // 2] + POOR[len(POOR) // 2 :])
    args = ("eval", "--run", "mixed.trec", "--qrels", "qrels.txt", "--metric", "mrr", "--json")
    first, same, other = (json.loads(shell.must(*args, "--resamples", 50, "--seed", seed).out) for seed in (1, 1, 2))
    assert first == same
    assert first["intervals"] != other["intervals"]


def test_the_data_set_of_a_qrels_file_sets_the_level_and_the_name_of_a_set_is_enough(shell, files):
    args = ("eval", "--run", "good.trec", "--qrels", "qrels.txt", "--metric", "mrr@10", "--json")
    shown = json.loads(shell.must(*args, "--queries", "trec-dl-2019").out)
    assert shown["relevance_level"] == 2
    assert shown["mrr@10"] == pytest.approx(2 / 6)
    assert json.loads(shell.must(*args).out)["relevance_level"] == 1


@pytest.mark.parametrize("option", ["--output", "--per-query"])
def test_a_result_that_cannot_be_written_is_refused_before_the_work(option, shell, files):
    (files / "file").write_text("")
    answer = shell("eval", "--run", "nowhere.trec", "--qrels", "qrels.txt", option, "file/result.tsv")
    assert answer.code == 2
    assert "result.tsv cannot be written" in answer.err


@pytest.mark.parametrize("form", ["csv", "latex", "json", "table"])
def test_a_result_in_a_file_is_the_printed_one(form, shell, files):
    args = ("eval", "--run", "good.trec", "--qrels", "qrels.txt", "--metric", "nDCG@10", "--format", form)
    printed = shell.must(*args).out
    assert shell.must(*args, "--output", "result").out == ""
    assert (files / "result").read_text().split() == printed.split()
    assert "nDCG@10" in printed


def test_every_querys_value_goes_to_a_file(shell, files):
    args = ("eval", "--run", "poor.trec", "--qrels", "qrels.txt", "--metric", "RR@10", "--per-query", "values.tsv")
    shell.must(*args)
    rows = list(csv.reader(io.StringIO((files / "values.tsv").read_text()), delimiter="\t"))
    assert rows == [["query_id", "metric", "value"], *([f"q{n}", "RR@10", "0.5"] for n in range(1, 7))]


def test_a_level_in_the_name_or_the_option_moves_what_is_relevant(shell, files):
    args = ("eval", "--run", "good.trec", "--qrels", "qrels.txt", "--json")
    in_name = json.loads(shell.must(*args, "--metric", "mrr@10-l2").out)
    by_option = json.loads(shell.must(*args, "--metric", "mrr@10", "--relevance-level", 2).out)
    assert in_name["mrr@10-l2"] == by_option["mrr@10"] == pytest.approx(2 / 6)
    assert by_option["relevance_level"] == 2


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("x.trec", GOOD + "q1 Q0 a 3 0.5 good\n", "line 13: document a appears twice for query q1"),
        ("x.trec", GOOD + "q1 Q0 y 3 high good\n", "line 13: the fifth column is 'high'"),
        ("x.trec", GOOD + "q1 Q0 y 3 nan good\n", "line 13: the fifth column is 'nan'"),
        ("x.trec", GOOD + "q1 Q0 y 3 good\n", "line 13: 5 columns where 6"),
        ("x.trec.gz", gzip.compress(GOOD.encode(), mtime=0)[:-6], "cannot be read to its end"),
        ("x.trec", "other Q0 a 1 1.0 x\n", "x.trec (queries other, ...) and the judgements"),
    ],
)
@pytest.mark.parametrize("as_baseline", [False, True])
def test_a_wrong_run_is_refused_in_one_sentence(shell, files, name, text, sentence, as_baseline):
    (files / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    runs = ("--run", "good.trec", "--baseline", name) if as_baseline else ("--run", name)
    answer = shell("eval", *runs, "--qrels", "qrels.txt")
    assert answer.code == 2
    assert answer.err.startswith("ibkd: ")
    assert sentence in answer.err
    assert answer.out == ""


@pytest.mark.parametrize("form", ["table", "csv", "json", "latex"])
@pytest.mark.parametrize("output", [(), ("--output", "out/scores")])
def test_a_name_is_shown_as_it_is_whatever_it_looks_like(form, output, shell, files):
    names = ["dense[cls]:key:", "dense[k=10] :a:\t:x:", "[bold]"]
    for name in names:
        (files / f"{name}.trec").write_text(GOOD)
    (files / "a[").mkdir()
    (files / "a[" / "[bold].trec").write_text(POOR)
    runs = [word for name in (*names, "a[/[bold]") for word in ("--run", f"{name}.trec")]
    answer = shell.must("eval", *runs, "--qrels", "qrels.txt", "--format", form, *output)
    shown = (files / "out/scores").read_text() if output else answer.out
    for name in (*names[:2], "a[/[bold].trec"):
        # A tab is spaces in a table.
        assert {"json": json.dumps(name)[1:-1], "table": name.split("\t")[0]}.get(form, name) in shown


def test_a_baseline_that_answers_other_queries_is_refused(shell, files):
    lines = GOOD.splitlines(keepends=True)
    (files / "first.trec").write_text("".join(lines[:8]))
    (files / "last.trec").write_text("".join(lines[6:]))
    answer = shell("eval", "--run", "first.trec", "--baseline", "last.trec", "--qrels", "qrels.txt")
    assert answer.code == 2
    assert "last.trec answers 3 judged queries and first.trec 4, of which they share 1" in answer.err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--metric", "ndgc@10"), "did you mean ndcg@10"),
        (("--format", "xml"), "Unknown format `xml`: use table, json, csv or latex."),
        (("--format", "csv", "--json"), "contradict each other"),
        (("--per-query", "values.xlsx"), "is written as .tsv or .jsonl"),
        (("--index", "here"), "either --run or --index"),
        (("--resamples", "0"), "--resamples must be at least 1, not 0"),
        (("--data-dir", "."), "give --suite too"),
        (("--suite", "beir"), "brings its own queries"),
        (("--seed", -1), "--seed must be at least 0"),
        (("--type", "ivf-pq"), "give --suite too"),
        (("--workers", 2), "give --suite too"),
        (("--engine", "bm25"), "leave out the options of searching"),
        (("--rerank", "x"), "leave out the options of searching"),
        (("--k", 10), "--k cannot be used with --run"),
        (("--device", "cuda"), "--device cannot be used with --run"),
        (("--baseline", "good.trec"), "its own baseline"),
        (("--qrels", "none.txt"), "No judgement reaches the relevance level 1"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(shell, files, more, sentence):
    (files / "none.txt").write_text("q1 0 a 0\n")
    judged = () if "--qrels" in more else ("--qrels", "qrels.txt")
    answer = shell("eval", "--run", "good.trec", *judged, *more)
    assert answer.code == 2
    assert sentence in answer.err
    assert answer.out == ""


@pytest.fixture
def suite(shell, beir):
    """A folder of three data sets, two of them parts of one."""
    for name in ("alone", "forum/one", "forum/two"):
        shutil.copytree(beir, shell.folder / "sets" / name)
    lines = (shell.folder / "sets/forum/two/qrels/test.tsv").read_text().splitlines(keepends=True)
    (shell.folder / "sets/forum/two/qrels/test.tsv").write_text("".join(lines[:9]))
    return "sets"


def test_a_suite_is_indexed_scored_and_averaged_over_sets(shell, suite, teacher):
    # In bfloat16, which some processors take by themselves, a random model's near ties fall either way.
    exact = ("--dtype", "float32")
    args = ("eval", "--suite", suite, "--model", teacher, "--metric", "mrr@10", "--json", *exact)
    shown = json.loads(shell.must(*args).out)
    scores = {name: member["scores"]["mrr@10"] for name, member in shown["members"].items()}
    assert scores["alone"] == scores["forum/one"] != scores["forum/two"]
    forum = (scores["forum/one"] + scores["forum/two"]) / 2
    assert shown["average"]["mrr@10"] == pytest.approx((scores["alone"] + forum) / 2)
    assert (shown["averaged_sets"], shown["sets"]) == (2, 2)
    kept = json.loads((shell.folder / "indexes/sets/suite.json").read_text())
    assert kept["systems"]["teacher flat"]["average"] == shown["average"]
    index = shell.folder / "indexes" / "sets" / "teacher-alone"
    one = shell.must("eval", "--index", index, "--queries", "sets/alone", "--metric", "mrr@10", "--json", *exact)
    assert json.loads(one.out)["mrr@10"] == scores["alone"]


@pytest.mark.cluster
def test_a_suite_is_encoded_on_a_cluster(nodes, shell, suite, teacher):
    args = ("eval", "--suite", suite, "--model", teacher, "--dtype", "float32", "--json")
    shown = [shell.must(*args, "--output", "here"), shell.must(*args, "--output", "there", "--cluster", nodes.address)]
    one, other = (json.loads(each.out)["average"] for each in shown)
    assert one == other
    manifests = (shell.folder / at / "teacher-alone" / "index.json" for at in ("here", "there"))
    one, other = (json.loads(each.read_text())["files"] for each in manifests)
    assert one == other


def test_a_finished_data_set_of_a_suite_is_not_done_again(shell, suite, teacher):
    args = ("eval", "--suite", suite, "--model", teacher, "--json")
    first = shell.must(*args)
    # As a file of an earlier version has it, which said more of a data set.
    path = shell.folder / "indexes/sets/suite.json"
    kept = json.loads(path.read_text())
    kept["systems"]["teacher flat"]["members"]["alone"]["main_metric"] = "ndcg@10"
    path.write_text(json.dumps(kept))
    # Without its documents nothing could be encoded again.
    for name in ("alone", "forum/one", "forum/two"):
        (shell.folder / "sets" / name / "corpus.jsonl").write_text("")
    again = shell.must(*args)
    assert json.loads(again.out) == json.loads(first.out)
    assert again.err.count("scored before") == 3


def test_a_data_set_of_a_suite_is_scored_again_where_its_queries_or_judgements_changed(shell, suite, teacher):
    args = ("eval", "--suite", suite, "--model", teacher, "--metric", "mrr@10", "--json")
    first = json.loads(shell.must(*args).out)["members"]
    shell.must(*args[:4], teacher, "--metric", "ndcg@5")
    queries, qrels = shell.folder / "sets/alone/queries.jsonl", shell.folder / "sets/forum/one/qrels/test.tsv"
    queries.write_text(queries.read_text().replace('"text": "', '"text": "other '))
    qrels.write_text("".join(qrels.read_text().splitlines(keepends=True)[:5]))
    again = shell.must(*args)
    assert again.err.count("scored before") == 1
    second = json.loads(again.out)["members"]
    for name in ("alone", "forum/one"):
        assert second[name]["scores"] != first[name]["scores"]
    assert second["forum/one"]["queries"] == 2
    kept = json.loads((shell.folder / "indexes/sets/suite.json").read_text())["systems"]["teacher flat"]["members"]
    assert {name: set(each["scores"]) for name, each in kept.items()} == {
        "alone": {"mrr@10"}, "forum/one": {"mrr@10"}, "forum/two": {"mrr@10", "ndcg@5"},
    }  # fmt: skip


def test_ways_of_searching_a_suite_are_kept_beside_each_other(shell, suite, teacher):
    (shell.folder / "ids.txt").write_text("".join(f"d{number}\n" for number in range(100)))
    args = ("eval", "--suite", suite, "--model", teacher, "--metric", "mrr@10", "--quiet")
    ways = {
        "teacher flat": (),
        "teacher flat k-5 relevance-level-2": ("-k", 5, "--relevance-level", 2),
        "teacher flat filter-@ids.txt exclude-self": ("--filter", "@ids.txt", "--exclude-self"),
    }
    for way in ways.values():
        shell.must(*args, *way)
    kept = json.loads((shell.folder / "indexes/sets/suite.json").read_text())["systems"]
    assert list(kept) == list(ways)
    assert shell.must(*args[:-1]).err.count("scored before") == 3


def test_a_suite_is_scored_again_where_a_model_or_a_list_of_ids_changed_under_its_name(shell, suite, teacher, tmp_path):
    from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

    config = transformer().config
    config.num_labels = 1
    cross = tmp_path / "cross"
    BertForSequenceClassification(config).save_pretrained(cross)
    tokenizer().save_pretrained(cross)
    (shell.folder / "ids.txt").write_text("".join(f"d{number}\n" for number in range(100)))
    args = ("eval", "--suite", suite, "--model", teacher, "--filter", "@ids.txt", "--rerank", cross)
    args += ("--rerank-depth", 2)
    shell.must(*args)
    assert shell.must(*args).err.count("scored before") == 3
    (shell.folder / "ids.txt").write_text("".join(f"d{number}\n" for number in range(50)))
    assert "scored before" not in shell.must(*args).err
    model = AutoModelForSequenceClassification.from_pretrained(cross)
    model.classifier.weight.data += 1
    model.save_pretrained(cross)
    assert "scored before" not in shell.must(*args).err


def test_a_suite_is_scored_again_where_its_query_model_changed_under_its_name(shell, suite, teacher, stranger):
    newest = shutil.copytree(teacher, shell.folder / "models" / "newest")
    (newest / "ibkd.json").write_text("{}")
    shutil.copytree(teacher, shell.folder / "asking")
    args = ("eval", "--suite", suite, "--query-model", "./asking", "--metric", "mrr@10")
    shell.must(*args)
    assert shell.must(*args).err.count("scored before") == 3
    shutil.rmtree(shell.folder / "asking")
    shutil.copytree(stranger, shell.folder / "asking")
    of_the_index = Encoder.load(str(teacher), device="cpu").weight_hash
    learned = {"teacher": {"name": "newest", "weight_hash": of_the_index}, "settings": {"output_space": "teacher"}}
    (shell.folder / "asking" / "ibkd.json").write_text(json.dumps(learned))
    assert "scored before" not in shell.must(*args).err


def test_what_fails_in_a_suite_is_named_and_the_average_is_not_of_all(shell, suite, teacher):
    with (shell.folder / "sets/forum/two/corpus.jsonl").open("a") as file:
        file.write("{\n")
    answer = shell("eval", "--suite", suite, "--model", teacher, "--metric", "mrr@10")
    assert answer.code == 1
    assert "1 of 3 data sets are not scored. forum/two: " in answer.err.splitlines()[-1]
    assert "average of 1 of 2" in answer.out
    kept = json.loads((shell.folder / "indexes/sets/suite.json").read_text())["systems"]["teacher flat"]
    assert set(kept["members"]) == {"alone", "forum/one"}
    assert kept["average"] == kept["members"]["alone"]["scores"]
    # Mended, the suite goes on: what was done stays done.
    text = (shell.folder / "sets/forum/one/corpus.jsonl").read_text()
    (shell.folder / "sets/forum/two/corpus.jsonl").write_text(text)
    mended = shell.must("eval", "--suite", suite, "--model", teacher, "--metric", "mrr@10")
    assert mended.err.count("scored before") == 2
    assert "average of" not in mended.out


@pytest.mark.parametrize(("form", "mark"), [("csv", "teacher flat,average,"), ("latex", r"\bottomrule")])
def test_a_suite_is_shown_in_every_format(form, mark, shell, suite, teacher):
    assert mark in shell.must("eval", "--suite", suite, "--model", teacher, "--format", form).out


def test_an_unknown_suite_or_model_is_refused(shell, suite, teacher):
    assert "did you mean beir" in shell("eval", "--suite", "bier", "--model", teacher).err
    assert shell("eval", "--suite", suite, "--model", "./none").code == 2
    assert shell("eval", "--suite", suite, "--model", teacher, "--type", "none").code == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--hybrid", "foo"), "Unknown fusion `foo`"),
        (("--k", 0), "must be at least 1, not 0"),
        (("--weight", 0.5, "--weight", 0.5), "give --hybrid"),
        (("--nprobe", 4), "An index of type flat takes no --nprobe"),
        (("--type", "hnsw", "--nprobe", 4), "An index of type hnsw takes no --nprobe"),
        (("--type", "ivf-pq", "--nprobe", 0), "nprobe of an index of type ivf-pq must be at least 1"),
        (("--rerank", "./nosuch"), "No model at ./nosuch"),
        (("--recall", 2), "must be above 0 and at most 1"),
        (("--filter", "year"), "year"),
        (("--resamples", 10), "--resamples cannot be used with --suite"),
        (("--seed", 1), "--seed cannot be used with --suite"),
        (("--relevance-level", 0), "--relevance-level must be at least 1, not 0"),
        (("--filter", "@nosuch.txt"), "nosuch.txt"),
    ],
)
def test_what_every_search_of_a_suite_would_fail_on_is_told_before_anything_is_indexed(
    more, said, shell, suite, teacher
):
    answer = shell("eval", "--suite", suite, "--model", teacher, *more)
    assert answer.code == 2
    assert said in answer.err
    assert not (shell.folder / "indexes").exists()


@pytest.mark.skipif(importlib.util.find_spec("pyserini") is not None, reason="Pyserini is installed")
def test_an_engine_that_a_suite_needs_and_is_not_installed_is_told_before_anything_is_indexed(shell, suite, teacher):
    answer = shell("eval", "--suite", suite, "--model", teacher, "--hybrid", "rrf", "--engine", "lucene")
    assert answer.code == 2
    assert "ibkd-retrieval[pyserini]" in answer.err
    assert not (shell.folder / "indexes").exists()


def test_a_mistyped_query_model_of_a_suite_is_told_before_anything_is_indexed(shell, suite):
    answer = shell("eval", "--suite", suite, "--query-model", "./nosuch")
    assert answer.code == 2
    assert "No model at ./nosuch" in answer.err


def test_without_judgements_a_run_is_compared_with_a_baseline(shell, files):
    answer = shell.must("eval", "--run", "poor.trec", "--baseline", "good.trec", "--json")
    shown = json.loads(answer.out)
    assert 0 < shown["overlap@10"] <= 1
    assert shown["agreement_with"] == "good.trec"
    table = shell.must("eval", "--run", "poor.trec", "--baseline", "good.trec").out
    assert "rbo" in table
    assert "agreement with good.trec on " in table
    refused = shell("eval", "--run", "poor.trec")
    assert refused.code == 2
    assert "give --qrels, or one --baseline" in refused.err
