"""What the data modules of fine-tuning share: a tokenizer that is given, rows made once, and the base's own text."""

import logging
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from datamodules.artefacts import Artefact, Recipe, find, make
from datamodules.digests import FileDigests
from datamodules.errors import DataError
from datamodules.prepared import Prepared, open_tokens
from datamodules.records.reading import digests_of
from datamodules.steps import StepDataModule
from datamodules.text.tokenizer import Tokenizer
from datamodules.tokens.batches import Rows, make_loader

log = logging.getLogger(__name__)

STDLIB = "stdlib"


class FineTuneDataModule(StepDataModule):
    """Records to batches for a model that was trained before; made once, and found again by their fingerprint.

    Args:
        tokenizer: path of the `tokenizer.json` of the model that is fine-tuned.
        sources: by the split that they are for, what is read; `stdlib` is the running Python's own library.
        cache_dir: where rows are kept between runs.
        base_tokens: folder of the tokens of the model's pretraining, as `prepare` has made it: how well it still
            predicts their validation text tells what it forgets.
        base_rows: the most rows of it that are scored, spread evenly.
        steps: the arguments of StepDataModule.
    """

    def __init__(
        self,
        tokenizer: str | None,
        sources: dict[str, list[str] | str | None],
        cache_dir: str,
        base_tokens: str | None,
        base_rows: int,
        **steps: Any,
    ) -> None:
        super().__init__(**steps)
        self.tokenizer_path, self.cache_dir = tokenizer, Path(cache_dir).expanduser()
        self.sources = {split: given for split, given in sources.items() if given}
        self.base_tokens, self.base_rows = base_tokens, base_rows
        self._artefact: Artefact | None = None

    # What a subclass gives.

    @abstractmethod
    def recipe_settings(self) -> tuple[str, int, dict[str, Any]]:
        """Name and version of what is made, and the settings on which it depends."""

    @abstractmethod
    def build(self, folder: Path) -> dict[str, Any]:
        """Read the sources and write the rows; returns what the manifest shall tell."""

    # What others may ask.

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """That the model was trained with."""
        if self.tokenizer_path is None:
            raise DataError("no tokenizer is given: set tokenizer to the path of the model's tokenizer.json")
        return Tokenizer.from_file(self.tokenizer_path)

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary."""
        return self.tokenizer.vocab_size

    @property
    def artefact(self) -> Artefact:
        """The folder of rows; found at the first call after `prepare_data`."""
        if self._artefact is None:
            found = find(self.recipe(), self.cache_dir)
            if found is None:
                raise DataError(f"there is no complete {self.recipe().name} in {self.cache_dir}: call prepare_data()")
            self._artefact = found
        return self._artefact

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that stand for inputs, settings, tokenizer and code that made the rows."""
        return self.recipe().fingerprint

    def recipe(self) -> Recipe:
        """What the rows are made from."""
        kind, version, settings = self.recipe_settings()
        digests = FileDigests(self.cache_dir)
        inputs = {"tokenizer": self.tokenizer.fingerprint}
        for split, sources in self.sources.items():
            if sources == STDLIB:
                from datamodules.stdlib.functions import stdlib_digest

                inputs[f"{split}: {STDLIB}"] = stdlib_digest()
            else:
                inputs |= {f"{split}: {name}": digest for name, digest in digests_of(sources, digests).items()}
        digests.save()
        return Recipe(kind, version, settings, inputs)

    def base_loader(self) -> DataLoader[Any] | None:
        """Rows of the validation text of the model's pretraining, shared by the ranks; None where it is not there."""
        if self.base_tokens is None:
            return None
        prepared: Prepared = open_tokens(self.base_tokens, self.cache_dir, 10**12)
        if prepared.validation is None:
            return None
        rows = Rows(prepared.validation, self.row_tokens, prepared.tokenizer.pad)
        rank, world_size = self._ranks()
        spread = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), self.base_rows)).astype(int)).tolist()
        fill = [len(rows)] * (-len(spread) % world_size)  # rows past the end have no targets
        share = [*spread, *fill][rank::world_size]
        return make_loader(rows, 0, rank, batch_size=self.eval_batch_size, sampler=share)

    # What Lightning calls.

    def prepare_data(self) -> None:
        """Make the rows, or reuse them. Lightning calls it on one process of each node."""
        self.prepare()

    def prepare(self) -> dict[str, Any]:
        """Like `prepare_data`, and tells of the result: what the manifest says, and the folder."""
        artefact = make(self.recipe(), self.cache_dir, self.build)
        self._artefact = None
        return {**artefact.manifest, "folder": str(artefact.folder), "reused": artefact.reused}
