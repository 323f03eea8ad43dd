"""Wrong input gets one sentence and exit code 2, and leaves nothing that passes for whole."""

import json
import shutil

import pytest

from helpers.driving import files_of


@pytest.fixture
def refused(shell):
    """Run a command that has to be refused; gives the sentence."""

    def run(*args, names=()):
        answer = shell(*args)
        assert answer.code == 2, answer.err
        (sentence,) = [line for line in answer.err.splitlines() if line.startswith("ibkd: ")]
        assert answer.err.endswith(f"{sentence}\n")
        assert "Traceback" not in answer.err
        assert answer.out == ""
        for name in names:
            assert str(name) in sentence
        left = [path.name for path in shell.folder.rglob("*") if path.name in ("index.json", "ibkd.json")]
        assert not left
        assert not list(shell.folder.rglob("*.tmp"))
        return sentence.removeprefix("ibkd: ")

    return run


def corpus_file(folder, *lines):
    path = folder / "corpus.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


GOOD = ({"_id": "a", "text": "river bank"}, {"_id": "b", "text": "cup dish"})


@pytest.mark.parametrize("model", ["no-such-model", "./none", "some-one/no-such-model", "-"])
def test_an_unknown_model(model, refused, shell, beir):
    refused("index", "--corpus", beir, "--model", model, names=[model])
    refused("distill", "--teacher", model, "--corpus", beir, names=[model])


def test_a_folder_that_is_no_model(refused, beir):
    refused("index", "--corpus", beir, "--model", beir, names=[beir, "modules.json"])


def test_no_student_to_index_with(refused, beir):
    assert "ibkd distill" in refused("index", "--corpus", beir)


def test_no_index_to_search(refused):
    assert "ibkd index" in refused("search", "river")


@pytest.mark.parametrize("corpus", ["mscarmo", "./nowhere", "nowhere.jsonl"])
def test_an_unknown_corpus(corpus, refused, teacher):
    refused("index", "--corpus", corpus, "--model", teacher, names=[corpus.removeprefix("./")])


def test_a_misspelt_corpus_gets_the_right_name(refused, teacher):
    assert "did you mean msmarco" in refused("index", "--corpus", "mscarmo", "--model", teacher)


def test_a_malformed_line_is_named(refused, shell, teacher):
    path = corpus_file(shell.folder, *GOOD, '{"_id": "c", "text"\n')
    refused("index", "--corpus", path, "--model", teacher, names=[path, "line 3"])


def test_a_malformed_line_stops_distillation_too(refused, shell, teacher):
    path = corpus_file(shell.folder, *GOOD, '{"_id": "c", "text"\n')
    refused("distill", "--corpus", path, "--teacher", teacher, "--max-length", 32, names=[path, "line 3"])


def test_an_empty_corpus(refused, shell, teacher):
    path = corpus_file(shell.folder)
    refused("index", "--corpus", path, "--model", teacher, names=[path])


def test_a_repeated_document_id(refused, shell, teacher):
    path = corpus_file(shell.folder, *GOOD, {"_id": "a", "text": "again"})
    refused("index", "--corpus", path, "--model", teacher, names=[path, "a"])


def test_too_few_texts_for_a_batch(refused, beir, teacher):
    options = ("--layers", 2, "--dim", 8, "--max-length", 32, "--batch-size", 1000)
    refused("distill", "--corpus", beir, "--teacher", teacher, *options, names=["--batch-size", 1000])


def test_a_length_the_model_cannot_read(refused, beir, teacher):
    refused("index", "--corpus", beir, "--model", teacher, "--max-length", 4096, names=["--max-length", 64])
    refused("distill", "--corpus", beir, "--teacher", teacher, "--max-length", 4096, names=["--max-length", 64])


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [
        ("--objective", "ikbd", "ibkd"),
        ("--preset", "papre", "paper"),
        ("--dtype", "float8", "float32"),
        ("--layers", "two", "0,3,5"),
        ("--layers", "9", "1 to 4"),
        ("--dim", "999", "32"),
        ("--hsic-bandwidth", "mean", "median"),
        ("--output-space", "both", "teacher"),
        ("--device", "abacus", "cpu"),
        ("--batch-size", "1", "2"),
        ("--stage", "third", "both"),
        ("--stage", "both", "--pairs"),
        ("--dims", "eight", "128,64,32"),
        ("--dims", "8,16", "largest first"),
        ("--dims", "64,16", "32"),
        ("--hsic-estimator", "exact", "cka"),
        ("--negative-ranks", "ten", "10-100"),
        ("--patience", "-1", "0"),
    ],
)
def test_an_unknown_choice_of_distill_lists_the_known(option, value, known, refused, beir, teacher):
    refused("distill", "--corpus", beir, "--teacher", teacher, "--max-length", 32, option, value, names=[value, known])


@pytest.mark.parametrize("command", ["distill", "compare", "eval"])
def test_a_negative_seed(command, refused):
    assert refused(command, "--seed", -1) == "--seed must be at least 0, not -1."


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--recall", 2, "recall"), ("--latency", -1, "--latency"), ("--memory-per-vector", 0, "--memory-per-vector")],
)
def test_what_no_index_can_reach_is_said_before_anything_is_encoded(option, value, said, refused, beir, teacher):
    # The corpus is too small for a choice to be made, which is no reason to take what makes no sense.
    recall = () if option == "--recall" else ("--recall", 0.9)
    assert said in refused("index", "--corpus", beir, "--model", teacher, *recall, option, value)


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [("--type", "annoy", "ivf-pq"), ("--dtype", "float8", "float32"), ("--pooling", "max", "mean"), ("--lists", 4, "")],
)
def test_an_unknown_choice_of_index_lists_the_known(option, value, known, refused, beir, teacher):
    refused("index", "--corpus", beir, "--model", teacher, option, value, names=[known])


def test_an_unknown_metric_lists_the_known(refused, chain):
    assert "ndcg" in refused("eval", "--index", chain.student_index, "--metric", "ndgc@10", names=["ndgc@10"])
    two = ("--index", chain.student_index, "--index", chain.teacher_index)
    refused("compare", *two, "--metric", "ndgc@10", names=["ndgc@10"])


@pytest.mark.parametrize("other", ["stranger", "student"])
def test_an_index_of_another_model(other, refused, chain, stranger):
    model = stranger if other == "stranger" else chain.student
    refused("search", "river", "--index", chain.teacher_index, "--model", model, names=["search with", model])


def test_a_corrupted_index(refused, chain, shell):
    for number, spoil in enumerate((lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1]))):
        copy = shutil.copytree(chain.student_index, shell.folder.parent / f"{shell.folder.name}-copy{number}")
        (copy / "index.faiss").write_bytes(spoil((copy / "index.faiss").read_bytes()))
        for command in (("search", "river", "--index", copy), ("info", copy, "--verify")):
            refused(*command, names=[copy / "index.faiss", "--resume"])
        (copy / "index.json").write_text("{")
        refused("search", "river", "--index", copy, names=["index.json"])
        shutil.rmtree(copy)


def test_a_folder_that_is_no_index(refused, beir):
    refused("search", "river", "--index", beir, names=[beir])
    refused("info", beir, names=[beir])


def test_a_run_and_judgements_of_other_queries(refused, shell, beir):
    run = shell.folder / "run.trec"
    run.write_text("other Q0 d1 1 1.0 tag\n")
    refused("eval", "--run", run, "--qrels", beir, names=["no query in common"])


def test_a_run_that_is_none(refused, shell, beir):
    run = shell.folder / "run.trec"
    refused("eval", "--run", run, "--qrels", beir, names=[run])
    run.write_text("q0 Q0 d1 1 1.0 tag\nq0 d1\n")
    refused("eval", "--run", run, "--qrels", beir, names=[run, "line 2"])


def test_a_run_without_judgements(refused, shell):
    refused("eval", "--run", shell.folder / "run.trec", names=["--qrels"])


def test_judgements_that_are_missing(refused, chain, beir):
    refused("eval", "--index", chain.student_index, "--queries", f"{beir}:dev", names=["dev", "test"])
    refused("eval", "--index", chain.student_index, "--queries", beir / "queries.jsonl", names=["--qrels"])


def test_queries_without_an_output_and_the_other_way_round(refused, beir):
    refused("search", "--queries", beir, names=["--queries", "--output"])
    refused("search", "river", "--output", "run.trec", names=["--queries", "--output"])
    refused("search", "river", "--queries", beir, "--output", "run.trec", names=["not both"])
    refused("search", "--queries", beir, "--output", "run", "--format", "csv", names=["csv", "trec", "msmarco"])


def test_a_question_that_is_empty(refused, chain):
    refused("search", " ", "--index", chain.student_index)
    refused("search", "--index", chain.student_index)  # standard input is empty


def test_a_piped_question_that_is_no_text(shell, chain):
    answer = shell("search", "--index", chain.student_index, stdin="river\ncaf\udce9\n")
    assert answer.code == 2
    assert answer.err.splitlines()[-1] == "ibkd: Line 2 of standard input is not UTF-8: save the questions in that."


def test_no_results_asked_for(refused, chain):
    refused("search", "river", "--index", chain.student_index, "-k", -1)


def test_fewer_than_two_indexes_to_compare(refused, chain):
    refused("compare", "--index", chain.student_index, names=["two"])


def test_a_format_to_export_to_that_is_unknown(refused, chain):
    refused("export", "--to", "zip", "--output", "x", "--index", chain.student_index, names=["zip", "pyserini"])


def test_a_finished_index_is_kept_without_overwrite(shell, chain, beir):
    before = files_of(chain.student_index)
    command = ("index", "--corpus", beir, "--model", chain.student, "--output", chain.student_index)
    for more, said in (((), "--overwrite"), (("--resume", "--overwrite"), "give one of")):
        answer = shell(*command, *more)
        assert answer.code == 2
        assert said in answer.err
    assert files_of(chain.student_index) == before


def test_a_finished_student_is_kept_without_overwrite(shell, chain, distilling):
    before = files_of(chain.student)
    for more in ((), ("--resume",), ("--overwrite", "--dim", "999"), ("--overwrite", "--objective", "none")):
        answer = shell(*distilling, "--output", chain.student, *more)
        assert answer.code == 2
        assert answer.err.splitlines()[-1].startswith("ibkd: ")
    assert files_of(chain.student) == before


def test_overwriting_with_a_wrong_model_keeps_the_index(shell, chain, stranger, tmp_path):
    copy = shutil.copytree(chain.student_index, tmp_path / "copy")
    before = files_of(copy)
    for model in ("./none", stranger):
        answer = shell(
            "index", "--from", chain.teacher_index, "--model", model, "--output", copy, "--overwrite", "--type", "flat"
        )
        assert answer.code == 2, answer.err
    assert files_of(copy) == before


def test_a_folder_of_somebody_else_is_left_alone(shell, beir, teacher, distilling):
    mine = shell.folder / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    for command in (
        ("index", "--corpus", beir, "--model", teacher, "--output", mine),
        (*distilling, "--output", mine, "--overwrite"),
    ):
        assert shell(*command).code == 2
        assert files_of(mine) == {"letter.txt": b"dear"}


@pytest.mark.parametrize(
    "args",
    [
        ("--no-such-option",),
        ("no-such-command",),
        ("index", "--no-such-option"),
        ("index", "--shard-size", "many"),
        ("search", "a", "b"),
        ("export", "--to", "pyserini"),
    ],
)
def test_what_cannot_be_parsed_is_wrong_input(args, shell):
    answer = shell(*args)
    assert answer.code == 2
    assert "Traceback" not in answer.err
    assert answer.err


def test_what_the_system_refuses_is_a_sentence_and_exit_code_1(shell, chain):
    answer = shell("export", "--to", "pyserini", "--index", chain.student_index, "--output", "/dev/null/export")
    assert answer.code == 1
    assert answer.err.splitlines()[-1].startswith("ibkd: ")
    assert "/dev/null" in answer.err


def test_work_that_breaks_down_is_a_sentence_and_exit_code_1(shell, distilling):
    answer = shell(*distilling, "--learning-rate", "1e30")
    assert answer.code == 1
    assert answer.err.splitlines()[-1].startswith("ibkd: The loss or its gradient is no longer a number at step")
