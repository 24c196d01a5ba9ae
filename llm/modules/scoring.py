"""How a module scores text: next-token prediction, in nats per target and in bits per byte."""

from typing import Any

import torch
from torch import Tensor, nn

from llm.errors import UserError
from llm.model import GPT
from llm.modules.metrics import BitsPerByte
from llm.modules.step import StepModule

LARGEST_SCORED = 2**27  # logits that scoring holds at once: half a gigabyte in float32


class ScoringModule(StepModule):
    """A StepModule around a GPT that scores batches of `tokens`, `targets` and `documents` by exact sums."""

    def __init__(self) -> None:
        super().__init__()
        self.model: GPT | None = None
        self.bits_per_byte: BitsPerByte | None = None

    def set_up_scoring(self, token_bytes: Any) -> None:
        """Know the bytes that each id stands for: int64 [ids of the tokenizer], a NumPy array.

        Raises:
            UserError: the tokenizer has more ids than the model.
        """
        if len(token_bytes) > self.config.vocab_size:
            raise UserError(
                f"the tokenizer has {len(token_bytes)} ids but gpt.vocab_size is {self.config.vocab_size}: "
                "leave gpt.vocab_size out, so that it follows the data"
            )
        # A vocabulary padded beyond the tokenizer's (for the hardware's sake) has ids that stand for no text.
        padding = self.config.vocab_size - len(token_bytes)
        self.bits_per_byte = BitsPerByte(nn.functional.pad(torch.from_numpy(token_bytes), (0, padding)))

    def score(self, batch: dict[str, Tensor]) -> Tensor:
        """Negative log-likelihood in nats of each target, float32 [B, T]; 0 where there is none."""
        assert self.model is not None
        tokens, targets, documents = batch["tokens"], batch["targets"], batch.get("documents")
        at_once = max(1, LARGEST_SCORED // (tokens.shape[1] * self.config.vocab_size))
        scores = []
        for first in range(0, len(tokens), at_once):
            rows = slice(first, first + at_once)
            packed = None if documents is None else documents[rows]
            scores.append(self.model(tokens[rows], targets[rows], documents=packed, each=True))
        return torch.cat(scores)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a batch to the sums behind `val_loss` (nats per token) and `val_bpb` (bits per byte)."""
        assert self.bits_per_byte is not None
        self.bits_per_byte.update(self.score(batch), batch["targets"])

    def on_validation_epoch_end(self) -> None:
        """Log `val_loss` and `val_bpb`."""
        self._log_scores("val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """As `validation_step`, for `test_loss` and `test_bpb`."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log `test_loss` and `test_bpb`."""
        self._log_scores("test")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Each target and its negative log-likelihood in nats: int64 [B, T] and float32 [B, T]."""
        return {"targets": batch["targets"], "nll": self.score(batch)}

    def _log_scores(self, stage: str) -> None:
        assert self.bits_per_byte is not None
        scores = self.bits_per_byte.compute()
        self.bits_per_byte.reset()
        # The metric has summed over ranks already: each logs the same values, and nothing is left to synchronise.
        self.log_dict({f"{stage}_{name}": value for name, value in scores.items()}, prog_bar=True, sync_dist=False)
