"""From an export as it comes out of another program to an index and a run, without a conversion in between."""

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
