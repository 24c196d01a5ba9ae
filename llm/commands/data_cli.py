"""What commands that look at the data alone share: the command line of `fit`, of which only that part is made."""

from typing import Any

from llm.cli import LabyrinthCLI
from llm.logs import set_up_logging


class DataCLI(LabyrinthCLI):
    """The command line of `fit`, of which only the data module is made."""

    def before_instantiate_classes(self) -> None:
        """There is no run, so no folder."""
        self.fill_in()

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """There is no trainer."""
        return None

    def _run_subcommand(self, subcommand: str) -> None:
        """What is to be done with the data is the command's own."""


def data_module(arguments: list[str]) -> Any:
    """The data module of a configuration, with nothing prepared."""
    set_up_logging()
    return DataCLI(["fit", *arguments]).datamodule
