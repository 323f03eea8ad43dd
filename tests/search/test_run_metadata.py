import yaml
from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.search.runs.run_metadata import as_yaml, metadata_path, write_run_metadata

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
SCALARS = TEXTS | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4))
def test_a_yaml_reader_gets_back_what_was_written(metadata):
    assert yaml.safe_load(as_yaml(metadata)) == metadata


def test_the_file_stands_beside_the_run(tmp_path):
    run = tmp_path / "run.trec.gz"
    write_run_metadata(run, {"method": {"automatic": True}, "tag": "a: b"})
    assert metadata_path(run) == tmp_path / "run.trec.gz.metadata.yaml"
    assert metadata_path(run).read_text() == 'method:\n  automatic: true\ntag: "a: b"\n'
