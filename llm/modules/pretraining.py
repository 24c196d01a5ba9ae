"""PretrainModule: a GPT that learns to predict the next token of running text."""

import logging
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from llm.errors import UserError
from llm.model import ConfigError
from llm.model.config import GPTOverrides
from llm.model.spectral import check_spectral_start, start_as_bigrams
from llm.modules.base import LanguageModule
from llm.modules.size import shape_and_plan

log = logging.getLogger(__name__)


class PretrainModule(LanguageModule):
    """Next-token prediction on packed rows of text, scored in bits per byte of the validation text.

    Args:
        preset: a named shape of `GPTConfig.presets()` (default: `tiny`); `gpt` changes single fields of it.
        size: a number of parameters such as `120m`, in place of a preset: shape, learning rate, max_tokens and the
            tokens of a step follow by the formulas in llm/modules/size.py, each where it was not written.
        overtrain: with `size`, how many times the compute-optimal number of tokens to train on.
        gpt: fields of GPTConfig that differ from the preset, such as `{n_layers: 4, d_model: 128}`.
        vocab_size: number of token ids; the command line takes it from the data.
        context_length: positions the model can see; the command line takes it from the data.
        mup_base_width: d_model of the model on which the learning rates were found; those of this one follow by
            maximal-update scaling (llm/optim/scaling.py), which wants `init: fan_in` and an untied head. null: off.
        short_context: length into which the rows are cut at the beginning of training, a divisor of the row's length;
            None trains on whole rows throughout. A short context costs less attention, and what a model learns first
            needs no long one (Press et al. 2021, Shortformer; Li et al. 2022, sequence length warmup). The tokens of
            a step stay the same; positions restart in each piece.
        short_share: share of the steps that see the short context.
        spectral_init: start the embedding and the head as the bigrams of the training text, which the data module must
            count (llm/model/spectral.py). The first loss is then far below ln(vocab_size).
        settings: those of LanguageModule. With `gpt.ngram_order` the whole training text is counted before the first
            step (llm/model/ngrams.py); the counts become part of the model and of its checkpoints.
    """

    def __init__(
        self,
        preset: str | None = None,
        size: str | float | None = None,
        overtrain: float = 1.0,
        gpt: GPTOverrides | None = None,
        vocab_size: int | None = None,
        context_length: int | None = None,
        mup_base_width: int | None = None,
        short_context: int | None = None,
        short_share: float = 0.5,
        spectral_init: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        linked = {"vocab_size": vocab_size, "context_length": context_length}
        overrides = {**{key: value for key, value in linked.items() if value is not None}, **(gpt or {})}
        self.config, self.plan = shape_and_plan({**self.hparams, "lr": settings.get("lr")}, overrides)
        if self.plan is not None:
            self.hparams["lr"] = self.plan.lr
        if mup_base_width is not None and (self.config.init != "fan_in" or self.config.tie_embeddings):
            raise UserError(
                "model.mup_base_width wants gpt.init fan_in and gpt.tie_embeddings false (µP starts an embedding and a "
                "head differently): set these, or drop mup_base_width"
            )
        if not 0 <= short_share <= 1:
            raise UserError(f"model.short_share is {short_share}: it is a share of the steps, from 0 to 1")
        length = self.config.context_length
        if short_context is not None and (short_context < 1 or length % short_context):
            raise UserError(f"model.short_context is {short_context}: it must divide the context of {length}")

    def configure_model(self) -> None:
        """As in LanguageModule; for a new run the training text is counted, where its settings ask for that."""
        new = self.model is None
        super().configure_model()
        if not new or self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        if self.hparams["spectral_init"]:
            self._start_as_bigrams()
        if self.config.ngram_order:
            self._count_ngrams()

    def _start_as_bigrams(self) -> None:
        assert self.model is not None
        try:
            check_spectral_start(self.config)
        except ConfigError as error:
            raise UserError(f"model.spectral_init: {error}") from error
        pairs, counts = self.trainer.datamodule.count_bigrams()  # type: ignore[attr-defined]
        start_as_bigrams(self.model, torch.from_numpy(pairs), torch.from_numpy(counts))

    def _count_ngrams(self) -> None:
        assert self.model is not None
        assert self.model.ngrams is not None
        counts, data = self.model.ngrams.counts, self.trainer.datamodule  # type: ignore[attr-defined]
        levels = data.count_ngrams(self.config.ngram_order, self.config.vocab_size)
        counts.fill((torch.from_numpy(keys), torch.from_numpy(often)) for keys, often in levels)
        # Every rank has counted the same text; ddp would send the counts around in every step.
        self._ddp_params_and_buffers_to_ignore = [f"model.ngrams.counts.{name}" for name, _ in counts.named_buffers()]
        log.info("counted: %s sequences of 2 to %d tokens", f"{len(counts):,}", self.config.ngram_order)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Σ nll of one micro-batch, scaled so that the step's gradient is the mean over its targets."""
        assert self.model is not None
        if self.short_context is not None:
            batch = {name: values.reshape(-1, self.short_context) for name, values in batch.items()}
        loss = self.model(batch["tokens"], batch["targets"], documents=batch.get("documents"))
        return self.accumulate_loss(*loss)

    @property
    def short_context(self) -> int | None:
        """Length into which the rows of this step are cut, or None where they stay whole, as outside of training."""
        short: int | None = self.hparams["short_context"]
        if short is None or self._trainer is None or self.total_steps is None:
            return None
        return short if self.trainer.global_step < self.hparams["short_share"] * self.total_steps else None

    @property
    def flops_per_token(self) -> float:
        """As in LanguageModule; a short context has less attention to compute."""
        flops = super().flops_per_token
        if self.short_context is not None:
            config = self.config
            beyond = config.context_length - self.short_context
            flops -= 12 * config.n_layers * config.n_heads * config.head_dim * beyond
        return flops
