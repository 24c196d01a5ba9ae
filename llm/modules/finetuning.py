"""FineTuneModule: a GPT that goes on from a checkpoint, all of it or a part."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from llm.adapters import NAME as ADAPTER
from llm.adapters import weights_digest
from llm.base_model import Base, open_base
from llm.errors import UserError
from llm.model import GPT, ConfigError
from llm.model.adapters import add_adapter, freeze_base, init_adapter
from llm.model.lora import LoRA
from llm.model.parallel import sharded_gpt
from llm.modules.base import LanguageModule


class FineTuneModule(LanguageModule):
    """What the ways of fine-tuning share: the weights to begin with, and which of them are trained.

    The data module must encode with the checkpoint's own tokenizer; the command line hands it over.

    Args:
        checkpoint: a .ckpt file or the folder of a run (its best one): the model to begin with.
        train_blocks: train the last so many blocks, the final norm and the head alone; None trains every weight.
        lora: train two narrow matrices beside each map instead, and save these alone (llm/model/lora.py); the
            checkpoints of such a run need that of the model to begin with.
        dropout: share of activations that are dropped in training, in place of the checkpoint's.
        settings: those of LanguageModule.
    """

    def __init__(
        self,
        checkpoint: str,
        train_blocks: int | None = None,
        lora: LoRA | None = None,
        dropout: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.base: Base = open_base(Path(checkpoint))
        self.config = self.base.config if dropout is None else replace(self.base.config, dropout=dropout)
        self.lora = LoRA.from_dict(dict(lora)) if isinstance(lora, Mapping) else lora  # a checkpoint has it as a dict
        self.hparams["lora"] = None if self.lora is None else self.lora.to_dict()
        if self.lora is not None:
            if train_blocks is not None:
                raise UserError("model.lora and model.train_blocks both say what is trained: drop one")
            try:
                self.lora.maps(self.config)
            except ConfigError as error:
                raise UserError(f"model.{error}") from error
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}
        if train_blocks is not None and not 0 <= train_blocks <= self.config.n_layers:
            raise UserError(
                f"model.train_blocks is {train_blocks}; the checkpoint has {self.config.n_layers} blocks, so it can be "
                f"0 to {self.config.n_layers}"
            )

    def setup(self, stage: str) -> None:
        """As in LanguageModule; refuse data that were encoded by another tokenizer than the checkpoint's."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.tokenizer.to_str() != self.base.tokenizer:
            lacking = data.tokenizer.vocab_size > self.config.vocab_size
            remedy = (
                "it has ids for which the model has no weights; `python -m llm import` makes room for them"
                if lacking
                else "leave data.tokenizer out, so that it follows the checkpoint"
            )
            raise UserError(f"data.tokenizer is not the tokenizer of {self.hparams['checkpoint']}: {remedy}")
        if data.row_tokens > self.config.context_length:
            raise UserError(
                f"data.context_length is {data.row_tokens}, and the checkpoint's model sees "
                f"{self.config.context_length} tokens: lower it"
            )
        super().setup(stage)
        if stage == "fit":
            self.trainer.num_sanity_val_steps = float("inf")  # all of it: see on_validation_end

    # ---- what it was before, and what it is after -----------------------------------------------------------------

    def on_validation_end(self) -> None:
        """Keep the scores of the model to begin with: the trainer validates once before the first step."""
        if self.trainer.sanity_checking:
            self.before = self._scores()

    def on_train_end(self) -> None:
        """Keep the scores of the model that came out."""
        self.after = self._scores()

    def _scores(self) -> dict[str, float]:
        """The newest validation's, and `base_bpb`: bits per byte of the text that the base was validated on."""
        logged = self.trainer.callback_metrics
        scores = {name: float(value) for name, value in logged.items() if name.startswith("val_")}
        loader = self.trainer.datamodule.base_loader()  # type: ignore[attr-defined]
        return scores if loader is None else {**scores, "base_bpb": self._score_text(loader)}

    @torch.no_grad()
    def _score_text(self, loader: Iterable[dict[str, Tensor]]) -> float:
        assert self.bits_per_byte is not None
        training = self.training
        self.eval()
        metric = copy.deepcopy(self.bits_per_byte)
        metric.reset()
        for batch in loader:
            batch = self.trainer.strategy.batch_to_device(batch, self.device)
            with self.trainer.precision_plugin.val_step_context():
                metric.update(self.score(batch), batch["targets"])
        self.train(training)
        return float(metric.compute()["bpb"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in LanguageModule, with the scores before the first step, and how conversations are rendered."""
        super().on_save_checkpoint(checkpoint)
        template = getattr(self.trainer.datamodule, "chat_template", None)  # type: ignore[attr-defined]
        told = {"before": self.before, "chat_template": template}
        checkpoint["labyrinth"] |= {**told, "pretraining_fingerprint": self.base.pretraining_fingerprint}
        if self.lora is not None:
            checkpoint["state_dict"] = self.kept(checkpoint["state_dict"])
            checkpoint["labyrinth"]["adapter"] = {
                "lora": self.lora.to_dict(),
                "base": str(self.base.path.resolve()),
                "base_digest": self.base_digest,
            }

    @cached_property
    def base_digest(self) -> str:
        """What tells the weights that an adapter belongs to."""
        return weights_digest(self.base.weights())

    @property
    def strict_loading(self) -> bool:
        """Whether a checkpoint must hold every weight: not where it holds an adapter alone."""
        return self.lora is None

    @strict_loading.setter
    def strict_loading(self, strict: bool) -> None:
        raise AttributeError("what a checkpoint must hold follows from lora")

    def kept(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of all weights, those that a checkpoint of this run holds."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: tensor for name, tensor in state.items() if self.lora is None or name in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in LanguageModule."""
        super().on_load_checkpoint(checkpoint)
        adapter = checkpoint["labyrinth"].get("adapter")
        if self.lora is not None and adapter is not None and adapter["base_digest"] != self.base_digest:
            raise UserError(
                f"model.checkpoint {self.hparams['checkpoint']} has other weights than {adapter['base']}, on which the "
                "adapter in the checkpoint was trained: give that one"
            )
        self.before = checkpoint["labyrinth"].get("before", {})

    def next_command(self, path: str) -> str:
        """What can be done with the checkpoint at `path`."""
        return f"python -m llm chat --checkpoint {path}"

    # ---- the model --------------------------------------------------------------------------------------------------

    def build_model(self) -> GPT:
        """The checkpoint's GPT, whose weights are copies, with what is not trained frozen."""
        model = GPT.from_state(self.config, self._weights())
        if self.lora is not None:
            add_adapter(model, ADAPTER, self.lora, seed=self._seed)
        self.freeze_untrained(model)
        return model.train()

    def build_sharded(self, mesh: DeviceMesh, half: torch.dtype | None) -> GPT:
        """The part of it that this process has."""
        if self.lora is None:
            model = sharded_gpt(self.config, self._seed, mesh, half, self._weights())
        else:
            if mesh["tensor_parallel"].size() > 1:
                raise UserError("model.lora: adapters are not cut by tensor parallelism; set tensor_parallel_size to 1")
            adapt = partial(add_adapter, name=ADAPTER, lora=self.lora)
            model = sharded_gpt(self.config, self._seed, mesh, half, self._weights(), adapt)
            init_adapter(model, ADAPTER, self._seed)
        self.freeze_untrained(model)
        return model

    def _weights(self) -> dict[str, Tensor]:
        dtype = torch.get_default_dtype()  # another one than float32 with trainer.precision bf16-true
        weights = self.base.weights()
        return {name: t.to(dtype if t.is_floating_point() else t.dtype, copy=True) for name, t in weights.items()}

    def freeze_untrained(self, model: GPT) -> None:
        """Let only those weights have gradients that are to be trained."""
        if self.lora is not None:
            freeze_base(model)
            return
        blocks = self.hparams["train_blocks"]
        if blocks is None:
            return
        model.requires_grad_(False)
        parts: list[nn.Module | None] = [*list(model.blocks)[len(model.blocks) - blocks :], model.norm, model.head]
        for part in parts:
            if part is not None:
                part.requires_grad_(True)
