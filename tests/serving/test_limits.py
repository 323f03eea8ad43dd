import json
from dataclasses import fields
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkd_retrieval.errors import UserError
from ibkd_retrieval.serving.limits import Limits


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_that_would_refuse_everything_is_refused(name, value):
    with pytest.raises(UserError, match=f"`{name}` must be above 0"):
        Limits(**{name: value})


@given(st.text(max_size=60))
def test_the_longest_query_fits_into_a_request_however_it_is_written(text):
    limits = Limits(query=max(1, len(text)))
    assert len(json.dumps({"query": text, "k": 100, "passages": True})) < limits.request_bytes
    assert len(quote(text)) < limits.request_bytes
