"""LanguageModule: what every way of training a GPT shares."""

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRSchedulerConfig
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.lr_scheduler import LambdaLR

from llm.errors import UserError
from llm.generation import continue_text
from llm.model import GPT, ConfigError
from llm.model.checkpointing import Checkpointing
from llm.model.parallel import sharded_gpt, sum_parts_of_gradients, whole_copy
from llm.modules.checks import check_ranges, demand_same_weights
from llm.modules.optimization import (
    apply_settings,
    branch_step,
    build_optimizer,
    build_schedule,
    schedule_weight_decay,
)
from llm.modules.randomness import seed_micro_batch
from llm.modules.scoring import ScoringModule
from llm.modules.size import Plan
from llm.optim import MuonAdamW

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 1  # of checkpoint["labyrinth"]; raised when a reader of older ones would misread it

DEFAULT_LR = 1e-3


class LanguageModule(ScoringModule):
    """A GPT in training: its optimizer, schedule, budget, exact token-weighted loss, and checkpoint contents.

    The data module attached to the trainer must have `tokenizer`, `fingerprint` and `global_batch_tokens`, and give
    batches of `tokens` int64 [B, T] and `targets` int64 [B, T], where -100 is not a target; and of `documents` int32
    [B, T] where rows are packed and documents must not see each other.

    Args:
        optimizer: `adamw` (Loshchilov & Hutter 2019), or `muon` (Jordan et al. 2024): Muon on the matrices inside the
            blocks and AdamW on the rest, as one optimizer.
        lr: peak learning rate of the matrices inside the blocks (default: 0.001).
        embedding_lr: peak learning rate of the embeddings (default: `lr`).
        head_lr: peak learning rate of an untied output head (default: `lr`).
        scalar_lr: peak learning rate of norm weights and biases (default: `lr`).
        betas: decay rates of AdamW's two moments.
        eps: AdamW's denominator term.
        weight_decay: decoupled weight decay, applied to matrices only.
        weight_decay_schedule: `constant`, `linear` (to zero over the run) or `lr` (as a share of its value, what the
            learning rate is of its peak).
        momentum: Muon's momentum after its warm-up.
        state_dtype: `bfloat16` halves the memory of the optimizer's state (llm/optim/rounding.py); null keeps it in the
            dtype of the weights.
        activation_checkpointing: what is made again in the backward pass rather than kept: `none`; `selective`, all but
            the results of matrix products; `full`, all inside the blocks (llm/model/checkpointing.py).
        z_loss: weight of log²Z, added to each target's nll in training, where Z is what the softmax divides by; it
            keeps the logits from drifting (Chowdhery et al. 2022, PaLM, section 5, with 1e-4).
        schedule: `cosine`, `linear` or `wsd` (warm-up, stable, then a linear decay).
        warmup: share of the steps in which the rate rises linearly from zero.
        decay: share of the steps in which `wsd` decays; 1 - warmup makes it a straight line.
        decay_from_checkpoint: with `wsd` and a checkpoint of the stable part: decay from its step to the end of the
            budget, whatever `decay` says.
        min_lr: floor of the schedule, as a share of the peak rate.
        max_tokens: training budget in tokens; sets the number of steps. None leaves it to `trainer.max_steps` or
            `trainer.max_epochs`.
        validate_every: optimizer steps between two validations.
    """

    def __init__(
        self,
        optimizer: Literal["adamw", "muon"] = "adamw",
        lr: float | None = None,
        embedding_lr: float | None = None,
        head_lr: float | None = None,
        scalar_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        weight_decay_schedule: Literal["constant", "linear", "lr"] = "constant",
        momentum: float = 0.95,
        state_dtype: Literal["bfloat16"] | None = None,
        activation_checkpointing: Checkpointing = "none",
        z_loss: float = 0.0,
        schedule: Literal["cosine", "linear", "wsd"] = "cosine",
        warmup: float = 0.02,
        decay: float = 0.2,
        decay_from_checkpoint: bool = False,
        min_lr: float = 0.1,
        max_tokens: int | None = None,
        validate_every: int = 250,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(self.hparams)
        if lr is None:
            self.hparams["lr"] = DEFAULT_LR
        if decay_from_checkpoint and schedule != "wsd":
            raise UserError(f"model.decay_from_checkpoint goes with schedule wsd, not {schedule}: change one")
        # Step at which the decay of a branch began, kept for when the branch itself is resumed.
        self._decay_start: int | None = None
        self.plan: Plan | None = None
        self.tokenizer_json: str | None = None
        self.data_fingerprint: str | None = None
        self._group_settings: list[dict[str, Any]] = []
        self._seed = 0

    # ---- set-up -----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Take from the data module what the checkpoint must carry, and turn the token budget into steps."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.tokenizer_json = data.tokenizer.to_str()
        self.data_fingerprint = data.fingerprint
        self.set_up_scoring(data.tokenizer.token_bytes())
        if stage == "fit":
            self._set_budget(data)

    def _set_budget(self, data: Any) -> None:
        trainer, max_tokens = self.trainer, self.hparams["max_tokens"]
        if max_tokens is None and self.plan is not None and trainer.max_epochs in (None, -1):
            max_tokens = self.plan.max_tokens
        if max_tokens is not None and trainer.max_steps == -1:
            trainer.fit_loop.epoch_loop.max_steps = math.ceil(max_tokens / data.global_batch_tokens)
        if self.total_steps is None:
            raise UserError(
                "nothing says when training ends: set model.max_tokens (a budget in tokens), trainer.max_steps "
                "or trainer.max_epochs"
            )
        # Lightning counts this interval in micro-batches, whose number a step depends on the hardware.
        trainer.check_val_every_n_epoch = None
        trainer.val_check_interval = self.hparams["validate_every"] * trainer.accumulate_grad_batches

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the whole run, or None where nothing bounds it."""
        trainer = self.trainer
        if trainer.max_steps != -1:
            return trainer.max_steps
        if trainer.max_epochs in (None, -1):
            return None
        return trainer.max_epochs * trainer.datamodule.steps_per_epoch  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Build the GPT once; its weights depend on the run's seed alone, not on what drew random numbers before."""
        if self.model is None:
            self._seed = torch.initial_seed() % 2**63
            self.model = self.build_model() if self._device_mesh is None else self._sharded(self._device_mesh)
            self.model.checkpointing = self.hparams["activation_checkpointing"]
            self.model.z_loss = self.hparams["z_loss"]

    def build_model(self) -> GPT:
        """The GPT with which a new run starts."""
        return GPT(self.config, seed=self._seed)

    def build_sharded(self, mesh: DeviceMesh, half: torch.dtype | None) -> GPT:
        """The part of that GPT that this process has; the blocks compute in `half`."""
        return sharded_gpt(self.config, self._seed, mesh, half)

    def _sharded(self, mesh: DeviceMesh) -> GPT:
        try:
            return self.build_sharded(mesh, torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None)
        except ConfigError as error:
            raise UserError(f"model: {error}") from error

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """One optimizer with a rate per role of parameter, and a schedule counted in optimizer steps."""
        assert self.model is not None
        assert self.total_steps is not None
        optimizer = build_optimizer(self.trained(), self.hparams, self.hparams["lr"])
        scheduler = LambdaLR(optimizer, build_schedule(self.hparams, self.total_steps))
        self._group_settings = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def trained(self) -> nn.Module:
        """What holds the parameters that are trained; those without gradients are left out."""
        assert self.model is not None
        return self.model

    def on_fit_start(self) -> None:
        """Train in training mode, also after the module was scored in eval mode; say what begins."""
        self.train()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.trainer.is_global_zero:
            active = f" ({self.config.n_active_parameters():,} of them active)" if self.config.n_experts else ""
            if self.plan is not None:
                Console(width=max(110, Console().width)).print(self.plan.table(data.global_batch_tokens))
            log.info(
                "model: %s parameters%s, %d layers of width %d, context %d; training: %s steps of %s tokens",
                f"{sum(p.numel() for p in self.parameters()):,}",
                active,
                self.config.n_layers,
                self.config.d_model,
                self.config.context_length,
                f"{self.total_steps:,}",
                f"{data.global_batch_tokens:,}",
            )

    def on_train_start(self) -> None:
        """Let the settings of this run win over those that a resumed optimizer and schedule brought along."""
        optimizer, scheduler = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        assert isinstance(optimizer, MuonAdamW)
        assert isinstance(scheduler, LambdaLR)
        assert self.total_steps is not None
        if self.hparams["decay_from_checkpoint"] and self._decay_start is None:
            self._decay_start = branch_step(optimizer, self.trainer.global_step)
        schedule = build_schedule(self.hparams, self.total_steps, self._decay_start)
        apply_settings(optimizer, scheduler, self._group_settings, schedule)

    # ---- the loss of a global batch -----------------------------------------------------------------------------

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Logits float [B, T, V] of the token after each of `tokens` int64 [B, T], packed as `documents` say."""
        assert self.model is not None
        return self.model(tokens, documents=documents)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draw the same random numbers in this micro-batch whether or not the run was interrupted before it."""
        seed_micro_batch(self.trainer, self._seed, batch_idx)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the gradients those of Σ nll / Σ targets over every micro-batch and rank of the step."""
        # Undo: accumulate_loss' constant, Lightning's division by the accumulation, the mean over ranks of ddp, fsdp.
        undo = self.config.context_length * self.trainer.accumulate_grad_batches * self.trainer.world_size
        if self._device_mesh is not None:
            sum_parts_of_gradients(self, self._device_mesh)
        self.rescale_gradients(undo)
        schedule, progress = self.hparams["weight_decay_schedule"], self.trainer.global_step / (self.total_steps or 1)
        schedule_weight_decay(optimizer, self._group_settings, schedule, progress)
        if self.is_logged_step():
            self.log("lr", optimizer.param_groups[0]["lr"])
        if self.config.n_experts:
            self.balance_experts()

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Any, batch_idx: int) -> None:
        """Ask for the end at the last step: Lightning then validates once more, whatever the interval."""
        if self.trainer.global_step == self.total_steps:
            self.trainer.should_stop = True

    # ---- use ----------------------------------------------------------------------------------------------------

    @property
    def flops_per_token(self) -> float:
        """Floating-point operations of one training step, a token (for MFU)."""
        return self.config.flops_per_token()

    def continue_text(self, prompt: str, **settings: Any) -> str:
        """What the model writes after `prompt`; the settings are those of `llm.generation.generate`."""
        assert self.model is not None
        tokenizer = self.trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        model = self.model if self._device_mesh is None else whole_copy(self.model)
        return "".join(continue_text(model, tokenizer, prompt, **settings))

    # ---- checkpoints --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what opens the checkpoint anywhere: the model's shape, its tokenizer and the fingerprint of its data."""
        checkpoint["labyrinth"] = {
            "format": CHECKPOINT_FORMAT,
            "gpt": self.config.to_dict(),
            "tokenizer": self.tokenizer_json,
            "data_fingerprint": self.data_fingerprint,
            "decay_start": self._decay_start,
        }

    def kept(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of all weights, those that a checkpoint of this run holds: all of them."""
        return dict(state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained on other token ids than the data gives now."""
        saved = checkpoint.get("labyrinth")
        if saved is None:
            raise UserError("this checkpoint was not written by Labyrinth: it carries no tokenizer and no model shape")
        self._decay_start = saved.get("decay_start") if self.hparams["decay_from_checkpoint"] else None
        if self.tokenizer_json is None:
            self.tokenizer_json, self.data_fingerprint = saved["tokenizer"], saved["data_fingerprint"]
        elif self.tokenizer_json != saved["tokenizer"]:
            raise UserError(
                "the checkpoint's tokenizer differs from the data's, so the same ids mean other text: use the data "
                "and data.tokenizer settings that the checkpoint was trained with, or start a new run"
            )
        if checkpoint.get("state_dict") is not None and self.model is not None:  # a strategy may keep the weights apart
            mine = self.kept(self.state_dict())
            demand_same_weights(checkpoint["state_dict"], saved["gpt"], mine, self.config.to_dict())
        step, total = checkpoint["global_step"], self.total_steps
        if self.hparams["decay_from_checkpoint"] and self._decay_start is None and total is not None and step >= total:
            raise UserError(
                f"model.decay_from_checkpoint: the checkpoint has {step} steps already, and the budget is {total}: "
                "give the decay steps of its own by a larger model.max_tokens"
            )
