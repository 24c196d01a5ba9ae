"""PretrainModule: a GPT that learns to predict the next token of running text."""

from torch import Tensor

from llm.modules.base import LanguageModule


class PretrainModule(LanguageModule):
    """Next-token prediction on packed rows of text, scored in bits per byte of the validation text."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Σ nll of one micro-batch, scaled so that the step's gradient is the mean over its targets."""
        assert self.model is not None
        return self.accumulate_loss(*self.model(batch["tokens"], batch["targets"]))

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
