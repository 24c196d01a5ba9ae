"""The nearest option is found for a whole one, and for the last parts of one."""

import pytest

from datamodules import PretrainDataModule
from llm.argument_errors import all_options, explain
from llm.modules import PretrainModule

KNOWN = ["--trainer.precision", "--config", "--lrs", "--model.lr", "--data.minhash.bands", "--data.curation.lrs"]


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "Unrecognized arguments: --trainer.precison=32",
            "no option '--trainer.precison'; did you mean '--trainer.precision'?",
        ),
        ("Unrecognized arguments: --model.lrr=1", "no option '--model.lrr'; did you mean '--model.lr'?"),
        (
            "Unrecognized arguments: --minhash.bnds=1",
            "no option '--minhash.bnds'; did you mean '--data.minhash.bands'?",
        ),
        ("Option 'bands' is not accepted", "no option 'bands'; did you mean '--data.minhash.bands'?"),
        ("Option 'lrs' is not accepted", "no option 'lrs'; did you mean '--lrs'?"),  # the one with the fewest parts
        ("Option 'zzz' is not accepted", "no option 'zzz' (--help lists what there is)"),
        ("Unrecognized arguments: --trainer.zzz=1", "no option '--trainer.zzz' (--help lists what there is)"),
    ],
)
def test_an_unknown_option_names_the_nearest(message: str, sentence: str):
    assert explain(message, KNOWN) == sentence


@pytest.mark.parametrize("name", ["datamodules.Maker", "Maker"])
def test_an_unknown_class_names_the_nearest(name: str):
    assert explain(f"Unexpected import path format: {name}", KNOWN, ["Makers"]).startswith(f"no class '{name}'")
    assert explain("Unexpected import path format: Maker", KNOWN, ["Makers"]).endswith("did you mean 'Makers'?")


def test_a_value_of_none_of_several_types_is_told_what_it_may_be():
    message = (
        'Parser key "lines": Does not validate against any of the Union subtypes\nSubtypes: [typing.Literal['
        "'line', 'paragraph'], <class 'NoneType'>]\nErrors:\n - Expected a typing.Literal['line', 'paragraph']\n"
        " - Expected a <class 'NoneType'>\nGiven value type: <class 'str'>\nGiven value: word"
    )
    assert explain(message, KNOWN) == "lines: it must be one of 'line', 'paragraph' or null (given: word)"


def test_options_of_a_base_class_and_of_settings_within_settings_are_known():
    options = all_options({"--model": PretrainModule, "--data": PretrainDataModule})
    assert {"--model.short_share", "--model.max_tokens", "--model.gpt.n_layers"} <= options
    assert {"--data.sources", "--data.curation.pii", "--data.curation.minhash.bands"} <= options
    assert not any("settings" in option or "self" in option for option in options)
