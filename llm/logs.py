"""What is told on standard error, and what is not."""

import logging
import warnings

from lightning.pytorch.utilities import rank_zero_only

# What Lightning warns of that is meant here.
_KNOWN_WARNINGS = (
    ".*args parameter is intended to run from within Python.*",
    ".*does not have many workers.*",
    ".*your dataloader is not resumable.*",  # the data module keeps the place (see PretrainDataModule)
    ".*recommended to use `self.log.*sync_dist.*",  # BitsPerByte has reduced over ranks
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*isinstance.treespec, LeafSpec.*",
    ".*`train_dataloader`'s sampler has shuffling.*",
    ".*TensorBoard.*",
    ".*The dirpath has changed from.*",  # a run that branches off a checkpoint has its own folder
)


def set_up_logging() -> None:
    """Show what our own parts tell, on standard error; silence what Lightning says at every start."""
    for message in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("datamodules", "llm", "callbacks"):
        logger = logging.getLogger(name)
        logger.handlers.clear()  # of an earlier command in this process
        logger.setLevel(logging.INFO if rank_zero_only.rank == 0 else logging.WARNING)  # type: ignore[attr-defined]
        logger.addHandler(handler)
