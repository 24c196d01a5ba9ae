"""`python -m llm prepare`: corpus, tokenizer and token store of a configuration, without training."""

from llm.commands.parser import CommandParser

_DESCRIPTION = (
    "Make (or find) the corpus, the tokenizer and the token store of a configuration, print what they hold, and stop. "
    "Takes the configuration and flags of `fit`; only its `data` part is used. "
    "`python -m llm fit --data.help PretrainDataModule` lists the keys of `data`."
)


def main(arguments: list[str]) -> int:
    """Prepare the data and print a table of what there is."""
    if {"-h", "--help"} & set(arguments[1:]):
        options = CommandParser("prepare", _DESCRIPTION)
        options.add_argument("--config", metavar="FILE", help="a file, or the name of a shipped configuration")
        options.add_argument("--data.KEY", metavar="VALUE", help="a setting of the data module")
        options.print_help()
        return 0
    from llm.commands.data_cli import data_module
    from llm.report import print_preparation

    print_preparation(data_module(arguments[1:]).prepare())
    return 0
