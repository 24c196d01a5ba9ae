"""The nearest word is found for a whole option, and for the last part of one."""

import pytest

from llm.argument_errors import explain, parameter_names
from llm.modules import PretrainModule

KNOWN = ["--trainer.precision", "--config", "--lrs", "lr", "validate_every"]


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "Unrecognized arguments: --trainer.precison=32",
            "no option '--trainer.precison'; did you mean '--trainer.precision'?",
        ),
        ("Unrecognized arguments: --model.lrr=1", "no option '--model.lrr'; did you mean 'lr'?"),
        ("Option 'validate_evry' is not accepted", "no option 'validate_evry'; did you mean 'validate_every'?"),
        ("Option 'zzz' is not accepted", "no option 'zzz' (--help lists what there is)"),
    ],
)
def test_an_unknown_option_names_the_nearest(message: str, sentence: str):
    assert explain(message, KNOWN) == sentence


def test_parameters_of_a_base_class_are_known():
    assert {"PretrainModule", "short_share", "max_tokens", "lr"} <= parameter_names([PretrainModule])
