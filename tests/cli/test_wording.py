"""Messages of the library, in the words of the command that shows them."""

import pytest

from ibkd_cli.app import _options_of
from ibkd_cli.display.wording import COMMAND_OF_CALL, in_options, speak_as


@pytest.fixture(autouse=True)
def as_index():
    speak_as("index", _options_of)
    yield
    speak_as("", lambda command: {})


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`batch_tokens` must be at least 1.", "--batch-tokens must be at least 1."),
        ("Leave `from_` out.", "Leave --from out."),
        ("Go on with `append(resume=True)`.", "Go on with `ibkd index --append --resume`."),
        ("Use `combine(from_='i', type='ivf-pq')`.", "Use `ibkd index --from i --type ivf-pq`."),
        ('Add `pooling="cls"`.', "Add --pooling cls."),
        ("Give `resume=True` to go on.", "Give --resume to go on."),
        ('Call `distill(output_space="teacher", layers=3)`.', "Call `ibkd distill --output-space teacher --layers 3`."),
        ("Call `build_index()` first.", "Call `ibkd index` first."),
        ("`delete=(0, 3)` names no layer.", '--delete "(0, 3)" names no layer.'),
        ('Give `output="a b"`.', 'Give --output "a b".'),
    ],
)
def test_a_parameter_becomes_the_option_of_the_running_command(message, shown):
    assert in_options(message) == shown


@pytest.mark.parametrize("message", ["`learning_rate` is 0.", "type `pip install ranx`", "`numpy.ndarray`", "`f(x)`"])
def test_what_is_no_option_of_the_running_command_stays_as_it_is(message):
    assert in_options(message) == message


def test_a_positional_argument_goes_by_its_name_in_the_help():
    speak_as("export", _options_of)
    assert in_options("`index` is missing.") in ("INDEX is missing.", "--index is missing.")


def test_every_call_has_a_command():
    for command in COMMAND_OF_CALL.values():
        assert _options_of(command.partition(" --")[0])
