"""PreferenceModule: a GPT that learns which of two answers is better."""

from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from llm.errors import UserError
from llm.model import GPT
from llm.modules.answering import AnsweringModule
from llm.modules.preference_losses import Loss, dpo, ipo, kto, simpo
from llm.modules.preference_metrics import PreferenceScores

MISMATCHED = -1  # kinds of answers, as the data module numbers them: 1 chosen, 0 rejected


class PreferenceModule(AnsweringModule):
    """Makes the better of two answers likelier and the worse one less likely, measured from where it began.

    The log-probabilities of all answers under the model to begin with are computed once, before the first step, and
    kept with the checkpoints: no second model is in memory while it trains.

    Batches have `tokens`, `targets`, `kinds` and `numbers` (datamodules/tokens/answer_rows.py). The loss is a mean over
    pairs; `kto` is one over answers.

    Args:
        checkpoint: a .ckpt file or the folder of a run (its best one): the model to begin with, and the reference.
        loss: `dpo`, `ipo`, `simpo` or `kto` (llm/modules/preference_losses.py).
        beta: how much a log-ratio weighs; low lets the model move further from the reference. SimPO wants about 2.
        label_smoothing: with `dpo`, the share of pairs that are taken to be the wrong way round.
        gamma: with `simpo`, by how much the better answer is to lead.
        sft_weight: of the chosen answers' mean nats a token, which are added to the loss (Pang et al. 2024, "Iterative
            reasoning preference optimization", equation 2): a pair alone says nothing against making both unlikely.
        settings: those of FineTuneModule.
    """

    def __init__(
        self,
        checkpoint: str,
        loss: Loss = "dpo",
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        gamma: float = 0.5,
        sft_weight: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(checkpoint, **settings)
        if not beta > 0:
            raise UserError(f"model.beta is {beta}: it must be above 0")
        if not 0 <= label_smoothing < 0.5:
            raise UserError(f"model.label_smoothing is {label_smoothing}: it can be 0 to below 0.5")
        if sft_weight < 0:
            raise UserError(f"model.sft_weight is {sft_weight}: it can be 0 or more")
        for name, value, usual, of in (
            ("label_smoothing", label_smoothing, 0.0, "dpo"),
            ("gamma", gamma, 0.5, "simpo"),
        ):
            if value != usual and loss != of:
                raise UserError(f"model.{name} goes with loss {of}, not {loss}: drop one")
        self.scores = PreferenceScores()
        # Of each answer of a split by its number, log π₀; and z of the step before, which KTO's loss refers to.
        self.reference: dict[str, Tensor] = {}
        self.kl = torch.zeros(())
        self._kl_sums = torch.zeros(2)

    # ---- the reference ---------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """As in FineTuneModule; ask for what the loss needs."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        data.with_mismatched = self.hparams["loss"] == "kto"
        super().setup(stage)

    def on_fit_start(self) -> None:
        """As in FineTuneModule; compute the reference, unless a checkpoint brought it."""
        super().on_fit_start()
        if self.hparams["loss"] != "simpo":
            for split in ("train", "validation"):
                if split not in self.reference:
                    self._refer(split)

    def on_test_start(self) -> None:
        """The reference of what is tested, by the model that training began with."""
        self._refer_anew("test")

    def on_validation_start(self) -> None:
        """The same for a validation that is not part of a fit and whose checkpoint did not bring it."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._refer_anew("validation")

    def _refer_anew(self, split: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.rows_of_split(split) is None:
            split = "validation"
        if split in self.reference or self.hparams["loss"] == "simpo":
            return
        if self._device_mesh is not None:
            raise UserError("the reference of a sharded model is computed in fit alone: test it on one device")
        tuned, base = self.model, GPT.from_state(self.config, self._weights())
        self.model = base.to(self.device)
        self._refer(split)
        self.model = tuned

    @torch.no_grad()
    def _refer(self, split: str) -> None:
        """log π₀ of every answer of a split, by the model as it is; the same on all ranks."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = data.rows_of_split(split)
        if rows is None:
            return
        found = torch.zeros(len(rows.store), dtype=torch.float32, device=self.device)
        training = self.training
        self.eval()
        for batch in data.scoring_loader(split):
            batch = self.trainer.strategy.batch_to_device(batch, self.device)
            with self.trainer.precision_plugin.val_step_context():
                log_probabilities, _ = self._log_probabilities(batch)
            real = batch["numbers"] >= 0
            found[batch["numbers"][real]] = log_probabilities[real].float()
        self.train(training)
        self.reference[split] = self.trainer.strategy.reduce(found, reduce_op="sum").cpu()

    # ---- the loss --------------------------------------------------------------------------------------------------

    def _log_probabilities(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """log π of each answer in nats, and its number of tokens: [S]."""
        assert self.model is not None
        nll = self.model(batch["tokens"], batch["targets"], each=True)
        return -nll.sum(1), (batch["targets"] >= 0).sum(1)

    def _judge(self, batch: dict[str, Tensor], split: str, training: bool) -> Tensor:
        """The loss of each pair, or with `kto` of each answer: [N]; what came out is added to the scores."""
        settings = self.hparams
        log_p, lengths = self._log_probabilities(batch)
        kinds, numbers = batch["kinds"], batch["numbers"]
        if settings["loss"] == "simpo":
            ratios = torch.zeros_like(log_p)
        else:
            ratios = log_p - self.reference[split].to(log_p.device)[numbers.clamp(min=0)]
        if training:
            self._count_mismatched(ratios.detach(), kinds, numbers)
        real = (numbers >= 0) & (kinds != MISMATCHED)
        log_p, lengths, ratios, kinds = log_p[real], lengths[real], ratios[real], kinds[real]
        chosen, rejected = kinds == 1, kinds == 0
        rewards = settings["beta"] * (log_p / lengths if settings["loss"] == "simpo" else ratios)
        paired = int(chosen.sum()) == int(rejected.sum())
        if settings["loss"] == "kto":
            losses = kto(rewards, chosen, self.kl.to(rewards.device), settings["beta"])
        elif not paired:
            raise UserError(
                f"model.loss {settings['loss']} compares pairs, and the data hold single answers: choose kto, or give "
                "records with chosen and rejected"
            )
        elif settings["loss"] == "dpo":
            losses = dpo(rewards[chosen], rewards[rejected], settings["label_smoothing"])
        elif settings["loss"] == "ipo":
            each = ratios / lengths
            losses = ipo(each[chosen], each[rejected], settings["beta"])
        else:
            each = log_p / lengths
            losses = simpo(each[chosen], each[rejected], settings["beta"], settings["gamma"])
        if settings["sft_weight"]:
            nats = -settings["sft_weight"] * log_p / lengths
            losses = losses + (torch.where(chosen, nats, 0) if settings["loss"] == "kto" else nats[chosen])
        if not training:
            self.scores.update(losses, rewards, kinds, lengths, ratios, paired)
        return losses

    def _count_mismatched(self, ratios: Tensor, kinds: Tensor, numbers: Tensor) -> None:
        """Add up the log-ratios of answers to other prompts, whose mean estimates how far the model has moved."""
        found = ratios[(kinds == MISMATCHED) & (numbers >= 0)]
        self._kl_sums = self._kl_sums.to(found.device) + torch.stack([found.sum(), found.new_tensor(len(found))])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The summed loss of one micro-batch, scaled so that the step's gradient is that of the mean."""
        losses = self._judge(batch, "train", training=True)
        return self.accumulate_loss(losses.sum(), torch.tensor(losses.numel(), device=losses.device))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """As in LanguageModule; the step's estimate of z is that to which the next step refers.

        The paper refers to the micro-batch at hand. Its mean would depend on how a step is cut over devices, and is
        noisy; that of the whole step before is neither, and at the first step, where nothing has moved, it is zero.
        """
        super().on_before_optimizer_step(optimizer)
        if self.hparams["loss"] == "kto":
            total, count = self.trainer.strategy.reduce(self._kl_sums, reduce_op="sum")
            self.kl = (total / count.clamp(min=1)).clamp(min=0).cpu()
            self._kl_sums = torch.zeros(2)

    # ---- scoring ---------------------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a batch to the sums behind `val_loss`, `val_accuracy`, `val_margin`, rewards and `val_kl`."""
        self._judge(batch, "validation", training=False)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """As `validation_step`, for `test_loss` and the others."""
        self._judge(batch, "test" if "test" in self.reference else "validation", training=False)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """log π of each answer, its number in the store and its kind: [S] each."""
        log_p, lengths = self._log_probabilities(batch)
        return {"numbers": batch["numbers"], "kinds": batch["kinds"], "log_p": log_p, "tokens": lengths}

    def _log_scores(self, stage: str) -> None:
        scores = self.scores.compute()
        self.scores.reset()
        for name, value in scores.items():
            if not value.isnan():
                self.log(f"{stage}_{name}", value, prog_bar=name in ("loss", "accuracy"), sync_dist=False)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in FineTuneModule, with the reference."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["labyrinth"] |= {"reference": dict(self.reference), "kl": self.kl}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in FineTuneModule; the reference belongs to the data that it was computed of."""
        fingerprint = self.data_fingerprint
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["labyrinth"]
        if "reference" in saved and saved["data_fingerprint"] in (None, fingerprint):
            self.reference, self.kl = dict(saved["reference"]), saved["kl"]
        elif "reference" in saved and self.trainer.state.fn == TrainerFn.FITTING:
            raise UserError("the checkpoint's reference is of other data: use the data that it was trained with")
