"""From an export as it comes out of another program to an index and a run, without a conversion in between."""

import json

import pytest


def test_an_export_is_indexed_and_asked_by_its_own_names(shell, teacher):
    (shell.folder / "docs.csv").write_text(
        "nr;headline;body;url\n1;Boats;river boat bank;u\n2;Milk;cheese milk cup;v\n"
    )
    (shell.folder / "asked.tsv").write_text("qid\tfrage\nq1\triver boat\n")
    build = ("index", "--corpus", "docs.csv", "--id-field", "nr", "--model", teacher, "--output", "i")
    said = shell.must(*build, "--text-field", "body", "--title-field", "headline").err
    assert "docs.csv: id <- nr, text <- headline + body; not embedded: url\n" in said
    search = ("search", "--queries", "asked.tsv", "--index", "i", "--output", "run")
    said = shell.must(*search, "--text-field", "frage").err
    assert "asked.tsv: id <- qid, text <- frage\n" in said
    assert [line.split()[0] for line in (shell.folder / "run").read_text().splitlines()] == ["q1", "q1"]
    (shell.folder / "clicks.csv").write_text("query,clicked,weight\nRiver  boat,1,0.7\nriver boat,2,0.2\n")
    score = ("eval", "--index", "i", "--queries", "asked.tsv", "--text-field", "frage", "--qrels", "clicks.csv")
    assert "expected a whole number, or --qrels-threshold" in shell(*score).err
    answer = shell.must(*score, "--qrels-threshold", 0.5, "--metric", "mrr@10", "--metric", "recall@2", "--json")
    assert json.loads(answer.out)["recall@2"] == 1
    assert "clicks.csv: query <- query, document <- clicked, relevance <- weight" in answer.err
    (shell.folder / "clicks.csv").write_text("query,clicked\nriver boat,z9\n")
    answer = shell(*score)
    assert answer.code == 2
    assert "the judgements are of z9, the index holds 1, 2" in answer.err
    (shell.folder / "more").mkdir()
    (shell.folder / "more" / "a.md").write_text("# Dish\n\ncup dish")
    said = shell.must("index", "--append", "--corpus", "more", "--output", "i").err
    assert "1 files .txt and .md: id <- path in the folder" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["index", "--corpus", "docs.csv", "--text-field", "url"], "no field url for `--text-field`; there are"),
        (["index", "--corpus", "docs.csv"], "no id; expected it under"),
        (["index", "--corpus", "scifact", "--id-field", "x"], "leave out `--id-field`, `--text-field`"),
        (["search", "x", "--id-field", "x"], "--id-field and --text-field are those of --queries"),
    ],
)  # fmt: skip
def test_fields_that_are_not_there_are_refused_with_the_options_to_give(shell, teacher, words, said):
    (shell.folder / "docs.csv").write_text("nr,region,headline,body\n1,x,Boats,river boat bank\n")
    model = ["--model", teacher, "--output", "i"] if words[0] == "index" else []
    answer = shell(*words, *model)
    assert answer.code == 2
    assert said.replace("`", "") in answer.err.replace("`", "")
