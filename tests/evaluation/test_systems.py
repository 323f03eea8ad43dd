import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest

from ibkd_retrieval.corpora.records import Judgement, Query, QuerySet
from ibkd_retrieval.errors import UserError
from ibkd_retrieval.evaluation.agreement import AGREEMENT
from ibkd_retrieval.evaluation.compare.comparison import Resampling
from ibkd_retrieval.evaluation.compare.rankings import ComparedData, rank_all
from ibkd_retrieval.evaluation.compare.report import read_comparison
from ibkd_retrieval.evaluation.compare.systems import Measuring, compare_systems
from ibkd_retrieval.evaluation.metrics import evaluate_run
from ibkd_retrieval.evaluation.report import summary_sentence
from ibkd_retrieval.evaluation.report.glance import glances
from ibkd_retrieval.evaluation.report.write import comparison_as_html, comparison_as_markdown
from ibkd_retrieval.indexing.config import SearchParams
from ibkd_retrieval.indexing.index import open_index
from ibkd_retrieval.search.searcher import Searcher


@pytest.fixture(scope="module")
def results(compared):
    _, report = compared
    (data,) = report.data_sets
    return data.systems


def brute_force(world, name):
    """Rows of all documents for each query, best first."""
    index, encoder = world.searcher(f"{name}-flat").index, world.encoders[name]
    queries = encoder.encode([query.text for query in world.queries.queries], "query")
    return np.argsort(-(queries @ np.concatenate(list(index.vectors())).T), axis=1, kind="stable")


def test_scores_are_those_of_a_search_to_the_metrics_own_depth(compared, world):
    data, report = compared
    for name, searcher in data.searchers.items():
        for metric, depth in (("ndcg@10", 10), ("recall@20", 20), ("mrr", 1000)):
            run = searcher.search_batch(world.queries.queries, depth)
            score = report.data_sets[0].systems[name].scores[metric].mean
            assert score == evaluate_run(run, world.queries.judgements, [metric]).scores[metric], (name, metric)


def test_recall_is_against_the_exact_search_of_the_same_vectors(results, compared, world):
    data, _ = compared
    assert results["teacher"].recall_against_exact == results["student"].recall_against_exact == {"10": 1, "100": 1}
    order = brute_force(world, "teacher")
    searcher = data.searchers["teacher ivf-pq"]
    vectors = searcher.encode(world.queries.queries)
    for depth in (10, 100):
        _, rows = searcher.index.search(vectors, depth, SearchParams(nprobe=4))
        shares = [len(set(ours) & set(exact[:depth])) / depth for ours, exact in zip(rows, order, strict=True)]
        assert results["teacher ivf-pq"].recall_against_exact[str(depth)] == pytest.approx(np.mean(shares), abs=0.004)


def test_agreement_is_with_the_first_system(results, world):
    assert results["teacher"].agreement.overlap_at_10 == results["teacher"].agreement.rbo == pytest.approx(1)
    teacher, student = brute_force(world, "teacher")[:, :10], brute_force(world, "student")[:, :10]
    shares = [len(set(ours) & set(theirs)) / 10 for ours, theirs in zip(student, teacher, strict=True)]
    assert results["student"].agreement.overlap_at_10 == pytest.approx(np.mean(shares), abs=0.004)
    assert results["student"].agreement.rbo < results["teacher ivf-pq"].agreement.rbo < 1


def test_a_tradeoff_curve_ends_in_all_lists_and_finds_more_on_the_way(results, compared):
    data, _ = compared
    assert results["teacher"].tradeoff_curve == ()
    curve = results["teacher ivf-pq"].tradeoff_curve
    lists = int(data.searchers["teacher ivf-pq"].index.manifest.factory.split(",")[0].removeprefix("IVF"))
    assert [point.nprobe for point in curve][-1] == lists
    assert [point.nprobe for point in curve][:3] == [1, 2, 4]
    assert all(low.recall_at_10 <= high.recall_at_10 + 0.01 for low, high in pairwise(curve))
    assert all(point.search_p50_ms > 0 for point in curve)
    assert curve[2].recall_at_10 == results["teacher ivf-pq"].recall_against_exact["10"]
    assert curve[2].score == results["teacher ivf-pq"].scores["ndcg@10"].mean


def test_settings_are_shown_as_given_and_as_they_are_in_force(results, compared):
    _, report = compared
    assert report.systems[1].settings.nprobe == 4
    assert report.systems[1].settings.refine is None
    assert results["teacher ivf-pq"].search.nprobe == 4
    assert results["teacher ivf-pq"].search.refine > 0
    assert results["teacher"].search.nprobe is None


def test_gains_say_how_many_times_smaller_or_faster_a_system_is(results):
    assert {round(gain, 9) for gain in results["teacher"].gains.values()} == {1.0}
    student, teacher = results["student"], results["teacher"]
    assert student.gains["dims"] == 2
    sizes = teacher.sizes.index_memory_bytes / student.sizes.index_memory_bytes
    assert student.gains["index_memory_bytes"] == pytest.approx(sizes)
    assert "peak_memory" not in student.gains
    for cost, (low, high) in student.gain_spread.items():
        assert low <= student.gains[cost] <= high


def test_sizes_are_those_of_the_index(results, compared):
    data, _ = compared
    sizes, index = results["teacher ivf-pq"].sizes, data.searchers["teacher ivf-pq"].index
    assert (sizes.index_disk_bytes, sizes.index_memory_bytes) == (index.disk_bytes, index.memory_bytes)
    assert sizes.disk_bytes_per_document == index.disk_bytes / 1100


def test_encoding_is_timed_once_for_systems_that_share_an_encoder(compared):
    _, report = compared
    flat, compressed, student = (system.throughput for system in report.systems)
    assert flat == compressed != student
    assert flat.documents == 4
    hourly = report.systems[0].cost.passages_per_cpu_hour
    assert hourly == pytest.approx(3600 * flat.documents_per_second / report.environment.threads)


def test_sizes_of_large_collections_are_proportional_and_marked_so(compared, results):
    _, report = compared
    cost = report.systems[1].cost
    assert cost.extrapolated
    expected = 8_841_823 * results["teacher ivf-pq"].sizes.memory_bytes_per_document / 1e9
    assert cost.index_gigabytes["8841823"].memory == pytest.approx(expected)
    assert list(cost.index_gigabytes) == ["8841823", "1000000000"]


def test_examples_are_the_queries_with_the_largest_differences(compared, world):
    data, report = compared
    found = report.data_sets[0]
    values = found.per_query.values
    differences = np.array(values["student"]["ndcg@10"]) - np.array(values["teacher"]["ndcg@10"])
    shown = [each for each in found.examples if each.system == "student"]
    assert {each.system for each in found.examples} <= {"teacher ivf-pq", "student"}
    moved = [each.value - each.baseline_value for each in shown]
    losses, wins = [each for each in moved if each < 0], [each for each in moved if each > 0]
    assert losses == pytest.approx(sorted(each for each in differences if each < 0)[:5])
    assert wins == pytest.approx(sorted((each for each in differences if each > 0), reverse=True)[:5])
    each = shown[0]
    hits = data.searchers["student"].search(each.query, 10)[:5]
    assert [document.id for document in each.rankings["student"]] == [hit.doc_id for hit in hits]
    grades = {(judged.query_id, judged.doc_id): judged.relevance for judged in world.queries.judgements}
    for ranked in each.rankings.values():
        for document in ranked:
            assert document.relevance == grades.get((each.query_id, document.id))
            assert document.title == f"page {document.id[1:]}"


def test_the_report_is_json_and_names_what_made_it(compared):
    _, report = compared
    record = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert list(record)[:4] == ["format_version", "created", "command", "seed"]
    assert (record["format_version"], record["baseline"], record["command"]) == (2, "teacher", "ibkd compare")
    assert record["environment"]["packages"]["faiss-cpu"]
    point = record["data_sets"][0]["systems"]["teacher ivf-pq"]["effort_curve"][0]
    assert list(point) == ["nprobe", "ef_search", "recall@10", "search_p50_ms", "score"]
    assert list(record["data_sets"][0]["systems"]["student"]["agreement"]) == ["overlap@10", "rbo"]
    assert record["created"].endswith("Z")


def test_an_index_that_is_scanned_is_compared_and_told_of_without_its_memory(world):
    scanned = Searcher(open_index(world.folder / "teacher-flat", memory_limit=0), world.encoders["teacher"])
    assert scanned.index.memory_bytes == 0
    measuring = Measuring(
        rounds=2, latency_queries=2, batch=4, throughput_documents=0, curve_queries=2, memory_queries=0,
        resampling=Resampling(samples=20, permutations=19),
    )  # fmt: skip
    data = ComparedData("pages", world.queries, {"teacher": scanned, "student": world.searcher("student-flat")})
    report = compare_systems([data], ["ndcg@10"], measuring)
    assert report.data_sets[0].systems["teacher"].sizes.index_memory_bytes == 0
    assert "memory" not in summary_sentence(report)
    assert [each.memory for each in glances(report)] == [None, None]


def test_queries_that_nobody_judged_are_not_asked(world):
    more = dataclasses.replace(world.queries, queries=(*world.queries.queries, Query("extra", "river bank")))
    ranked = rank_all(ComparedData("pages", more, {"teacher": world.searcher("teacher-flat")}), ["ndcg@10"])
    assert len(ranked["teacher"].vectors) == len(world.queries.queries)


def test_a_judged_query_that_is_not_there_scores_nothing(world):
    more = dataclasses.replace(world.queries, judgements=(*world.queries.judgements, Judgement("lost", "d1", 1)))
    ranked = rank_all(ComparedData("pages", more, {"teacher": world.searcher("teacher-flat")}), ["ndcg@10"])
    assert ranked["teacher"].evaluation.missing == 1


def test_what_cannot_be_compared_is_refused(world):
    teacher = world.searcher("teacher-flat")
    unjudged = QuerySet("mine", world.queries.queries)
    first = ComparedData("pages", world.queries, {"teacher": teacher})
    for data_sets, sentence in (
        ([], "nothing to compare"),
        ([ComparedData("pages", unjudged, {"teacher": teacher})], "mine has no judgements"),
        ([first, first], "Two data sets are called pages"),
        ([first, ComparedData("more", world.queries, {"other": teacher})], "The systems on more are other"),
    ):
        with pytest.raises(UserError, match=sentence):
            compare_systems(data_sets, ["ndcg@10"])


def test_without_judgements_systems_are_compared_by_how_alike_their_answers_are(compared, results, tmp_path):
    data, _ = compared
    unjudged = dataclasses.replace(data, queries=QuerySet("mine", data.queries.queries))
    measuring = Measuring(
        rounds=1, latency_queries=2, batch=4, throughput_documents=0, curve_queries=2, memory_queries=0,
        resampling=Resampling(samples=200, permutations=99),
    )  # fmt: skip
    report = compare_systems([unjudged], AGREEMENT, measuring)
    (found,) = report.data_sets
    for name, result in found.systems.items():
        assert (
            result.scores["overlap@10"].mean == result.agreement.overlap_at_10 == results[name].agreement.overlap_at_10
        )
        assert result.scores["rbo"].mean == results[name].agreement.rbo
    low, high = found.systems["student"].scores["overlap@10"].interval
    assert low < found.systems["student"].agreement.overlap_at_10 < high
    shown = summary_sentence(report)
    assert shown.startswith("student finds ")
    assert "30 queries" in shown
    assert "not which are better" in shown
    lost = [each for each in found.examples if each.system == "student"]
    assert [each.value for each in lost] == sorted(found.per_query.values["student"]["overlap@10"])[:5]
    (tmp_path / "report.json").write_text(json.dumps(report.to_json()))
    assert read_comparison(tmp_path / "report.json") == report
    for page in (comparison_as_markdown(report), comparison_as_html(report)):
        assert "30 queries without judgements" in page
        assert "judged quer" not in page
        assert "Holm" not in page
        assert "answers changed most" in page or "changed the answers most" in page


def test_a_query_that_is_a_document_is_no_answer_to_itself(world):
    texts = {document.doc_id: document.content for document in world.documents}
    asked = QuerySet(
        "arguana",
        tuple(Query(f"d{place}", texts[f"d{place}"]) for place in range(20)),
        tuple(Judgement(f"d{place}", f"d{place}", 1) for place in range(20)),
    )
    teachers = {"teacher": world.searcher("teacher-flat"), "ivf": world.searcher("teacher-ivf-pq")}
    found = rank_all(ComparedData("pages", asked, teachers), ["recall@10"])
    assert found["teacher"].evaluation.scores["recall@10"] == 1
    asked = dataclasses.replace(asked, queries_are_documents=True)
    found = rank_all(ComparedData("pages", asked, teachers), ["recall@10"])
    for ranking in found.values():
        assert ranking.evaluation.scores["recall@10"] == 0
        assert {len(docs) for _, docs, _ in ranking.runs[10].first(10)} == {10}
