"""`ibkd index` on finished indexes: growing, shrinking, merging, other structures, and what is refused."""

import gzip
import json
import shutil

import pytest

MORE = ({"_id": f"m{i}", "text": f"river {i} bank cup dish"} for i in range(5))


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    path = tmp_path_factory.mktemp("more") / "more.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in MORE))
    return path


@pytest.fixture
def index(shell, beir, teacher):
    shell.must("index", "--corpus", beir, "--model", teacher, "--output", "i", "--shard-size", 64, "--quiet")
    return shell.folder / "i"


def found(shell, text, index="i", k=3):
    hits = json.loads(shell.must("search", text, "--index", index, "-k", k, "--json").out)["hits"]
    return [hit.get("doc_id", hit.get("id")) for hit in hits]


def test_what_is_resumed_keeps_its_type(shell, beir, teacher):
    build = ("index", "--corpus", beir, "--model", teacher, "--output", "typed")
    shell.must(*build, "--type", "flat", "--vectors", "float32")
    shell.must("index", "--from", "typed", "--factory", "SQ8", "--output", "made")
    record = shell.folder / "made/index.json"
    made = json.loads(record.read_text())
    again = ("index", "--from", "typed", "--output", "made", "--resume")
    assert "nothing was left to do" in shell.must(*again).err
    record.unlink()
    shell.must(*again)
    kept = json.loads(record.read_text())
    assert (kept["family"], kept["family_options"]) == (made["family"], made["family_options"])
    shell.must(*again, "--type", "flat")
    assert json.loads(record.read_text())["family"] == "flat"


def test_an_index_grows_shrinks_and_is_made_anew_from_itself(shell, index, more, teacher):
    said = shell.must("index", "--append", "--corpus", more, "--output", index)
    assert "i: 205 documents × " in said.out
    assert found(shell, "river 3 bank cup dish")[0] == "m3"
    (shell.folder / "gone.txt").write_text("m3\nm4\n\n")
    assert "203 documents (2 deleted)" in shell.must("index", "--delete", "gone.txt", "--output", index).out
    assert not {"m3", "m4"} & set(found(shell, "river 3 bank cup dish", k=203))
    shell.must("info", index, "--verify")
    made = shell.must("index", "--from", index, "--vectors", "float16", "--output", "j")
    assert "j: 203 documents × " in made.out
    assert json.loads((shell.folder / "j" / "index.json").read_text())["vector_format"] == "float16"
    assert not {"m3", "m4"} & set(found(shell, "river 3 bank cup dish", "j", k=203))
    with gzip.open(shell.folder / "gone.txt.gz", "wt") as file:
        file.write("m2\n")
    assert "202 documents (1 deleted)" in shell.must("index", "--delete", "gone.txt.gz", "--output", "j").out

    shell.must("index", "--corpus", more, "--model", teacher, "--output", "m", "--quiet")
    assert "is in " in shell("index", "--merge", "i", "--merge", "m", "--output", "both").err
    (shell.folder / "again.txt").write_text("m0\nm1\nm2\n")
    shell.must("index", "--delete", "again.txt", "--output", index, "--quiet")
    assert "both: 205 documents" in shell.must("index", "--merge", "i", "--merge", "m", "--output", "both").out
    assert found(shell, "river 3 bank cup dish", "both")[0] == "m3"


def test_an_index_is_brought_up_to_date_with_what_is_newer(shell, teacher):
    def save(name, **days):
        lines = [
            {"_id": f"page {number}", "text": f"river {number} of {day}", "day": day, "tags": [number, day[:2]]}
            for number, day in days.items()
        ]
        (shell.folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return name

    corpus = save("pages.jsonl", one="2024-01-02", two="2024-01-03")
    shell.must("index", "--corpus", corpus, "--model", teacher, "--output", "daily", "--quiet")
    update = (
        "index",
        "--append",
        "--corpus",
        save("pages.jsonl", one="2024-02-01", two="2024-01-03", three="2024-02-02"),
    )
    answer = shell(*update, "--output", "daily", "--since", "day")
    assert answer.code == 2
    assert "'page one' of " in answer.err
    assert "is already in the index in daily" in answer.err
    assert "`ibkd index --append --replace`" in answer.err
    said = shell.must(*update, "--output", "daily", "--since", "day", "--replace")
    assert "pages.jsonl are newer than day=2024-01-03 of the index." in said.err
    assert "daily: 3 documents (1 deleted)" in said.out
    assert "\n0 documents of " in shell.must(*update, "--output", "daily", "--since", "day").err
    hits = json.loads(shell.must("search", "river", "--index", "daily", "--json").out)["hits"]
    assert {hit.get("doc_id", hit.get("id")): hit["text"][-10:] for hit in hits} == {
        "page one": "2024-02-01",
        "page two": "2024-01-03",
        "page three": "2024-02-02",
    }
    for filters, ids in (
        (["tags=two"], ["page two"]),
        (["tags!=two", "tags!=one"], ["page three"]),
        (["id=page one"], ["page one"]),
    ):
        words = [word for each in filters for word in ("--filter", each)]
        hits = json.loads(shell.must("search", "river", "--index", "daily", *words, "--json").out)["hits"]
        assert [hit.get("doc_id", hit.get("id")) for hit in hits] == ids
    (shell.folder / "gone.txt").write_text("page two\n")
    assert "daily: 2 documents" in shell.must("index", "--delete", "gone.txt", "--output", "daily").out
    assert "`" not in shell("index", "--replace", "--corpus", corpus).err


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--replace", "--since", "day"), "--replace and --since can only be used with --append"),
        (("--delete", "x", "--output", "i", "--replace"), "--replace cannot be used with --delete"),
        (("--append", "--output", "i"), "name the corpus with --corpus"),
        (("--append", "--corpus", "x.jsonl"), "name the index with --output"),
        (
            ("--append", "--corpus", "x.jsonl", "--output", "i", "--type", "ivf-pq"),
            "--type cannot be used with --append",
        ),
        (("--delete", "none.txt", "--output", "i"), "none.txt cannot be read"),
        (("--delete", "none.txt"), "name the index with --output"),
        (("--from", "i", "--corpus", "x.jsonl"), "--corpus cannot be used with --from"),
        (("--from", "i", "--model", "m", "--memory", "2GB"), "--model, --memory cannot be used with --from"),
        (("--from", "i", "--merge", "j"), "--from and --merge are different jobs"),
        (("--merge", "i", "--merge", "j"), "name its folder with --output"),
        (("--from", "i", "--output", "i"), "which it is made from"),
        (("--from", "nowhere"), "no index folder"),
        (("--latency", "2"), "give --recall"),
    ],
)
def test_options_that_contradict_each_other_are_refused(args, sentence, shell, index):
    answer = shell("index", *args)
    assert answer.code == 2
    assert sentence in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--memory", "much", "is not a size"),
        ("--memory", "10MB", "is too little"),
        ("--workers", 0, "at least 1"),
        ("--vectors", "float8", "float32, float16, int8"),
        ("--shard-size", 0, "at least one document"),
    ],
)
def test_impossible_sizes_are_refused(option, value, sentence, shell, beir, teacher):
    answer = shell("index", "--corpus", beir, "--model", teacher, option, value)
    assert answer.code == 2
    assert sentence in answer.err


def test_the_default_folder_names_what_is_built(shell, beir, teacher):
    said = shell.must("index", "--corpus", beir, "--model", teacher, "--type", "ivf-pq")
    assert said.out.startswith("indexes/pages-teacher-flat: 200 documents")
    assert "type flat" in said.err


@pytest.mark.slow
def test_two_encoder_processes_make_the_index_of_one(shell, beir, teacher):
    command = ("index", "--corpus", beir, "--model", teacher, "--shard-size", 64, "--dtype", "float32")
    shell.must(*command, "--output", "one")
    answer = shell.process(*command, "--output", "two", "--workers", 2)
    assert answer.code == 0, answer.err
    assert "leaked" not in answer.err  # Python says so where a process leaves a semaphore behind.
    for name in ("vectors/00000.npy", "vectors/00003.npy", "index.faiss", "docids"):
        assert (shell.folder / "two" / name).read_bytes() == (shell.folder / "one" / name).read_bytes()


def test_a_gpu_that_is_not_there_is_said_once_and_done_without(shell, index, beir):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    quick = ("--queries", beir, "--metric", "mrr@10", "--rounds", 1, "--no-peak-memory")
    for command in (
        ("search", "river bank", "--index", index, "--device", "cuda"),
        ("index", "--from", index, "--type", "hnsw", "--output", "h", "--device", "cuda"),
        ("eval", "--index", index, "--queries", beir, "--metric", "mrr@10", "--device", "cuda"),
        ("compare", "--index", f"{index},name=a", "--index", f"{index},name=b", *quick, "--device", "cuda"),
    ):
        said = shell.must(*command).err
        assert said.count("runs on the CPU") == 1
        assert said.count("GPU") == 1


@pytest.mark.parametrize(
    "job",
    [
        ("index", "--from", "INDEX", "--output", "other"),
        ("search", "river", "--index", "INDEX"),
        ("eval", "--index", "INDEX"),
        ("compare", "--index", "INDEX", "--index", "INDEX"),
        ("serve", "--index", "INDEX"),
        ("bench", "encode"),
    ],
)
def test_a_device_that_is_none_is_refused_by_every_job(shell, index, job):
    answer = shell(*(index if word == "INDEX" else word for word in job), "--device", "gpu")
    assert answer.code == 2
    assert "Unknown device `gpu`: use auto, cpu, cuda or cuda:N." in answer.err


def test_an_index_of_cut_vectors_is_searched_with_its_model_at_another_place(shell, beir, teacher):
    shell.must("index", "--corpus", beir, "--model", teacher, "--dim", 16, "--output", "cut")
    shutil.copytree(teacher, shell.folder / "moved")
    expected = found(shell, "river bank", "cut")
    hits = json.loads(shell.must("search", "river bank", "--index", "cut", "-k", 3, "--model", "moved", "--json").out)
    assert [hit.get("doc_id", hit.get("id")) for hit in hits["hits"]] == expected


def test_an_index_whose_model_was_moved_asks_for_its_new_folder(shell, index, beir):
    record = json.loads((index / "index.json").read_text())
    record["encoder"]["name"] = str(shell.folder / "gone")
    (index / "index.json").write_text(json.dumps(record))
    for command in (("search", "river", "--index", index), ("index", "--append", "--corpus", beir, "--output", index)):
        answer = shell(*command)
        assert answer.code == 2
        assert "gone, which is not there any more: if it was moved, name its new folder as --model." in answer.err


def test_names_in_an_index_do_not_reach_the_terminal_as_commands_to_it(shell, index):
    record = json.loads((index / "index.json").read_text())
    record["encoder"]["name"] = "model\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"
    record["corpus"]["name"] = "corpus\x1b[31m\rred"
    (index / "index.json").write_text(json.dumps(record))
    for answer in (shell.must("info", index), shell("search", "river", "--index", index)):
        said = answer.out + answer.err
        assert "model\\x1b]0;owned\\x07" in said
        assert not set("\x1b\x07\r\x9b\u202e") & set(said)
