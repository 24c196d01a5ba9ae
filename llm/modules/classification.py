"""ClassificationModule: a GPT that tells of which class a text is."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed, nn

from llm.errors import UserError
from llm.model import GPT
from llm.model.classifier import ClassificationHead, Pooling, classify
from llm.modules.classification_metrics import ClassificationScores, best_temperature, score
from llm.modules.finetuning import FineTuneModule


class ClassificationModule(FineTuneModule):
    """The blocks of a pretrained GPT with a head of its own for the classes; the head for the next token rests.

    Batches have `tokens`, `lengths`, `labels` and `numbers` (datamodules/tokens/text_rows.py); the data module has
    `labels`, the names of the classes, `multi_label` and `class_counts()`. With `train_blocks: 0` the head and the
    final norm alone are trained.

    Args:
        checkpoint: a .ckpt file or the folder of a run (its best one): the model to begin with.
        pooling: what of a text the head reads: its `last` token, or the `mean` of all.
        class_weights: of each class in the loss, in the order of the labels; `balanced`: so that all classes weigh the
            same; null: each text weighs the same.
        label_smoothing: share of the probability that the goal gives to all classes alike.
        settings: those of FineTuneModule.
    """

    class_weight: Tensor
    temperature: Tensor

    def __init__(
        self,
        checkpoint: str,
        pooling: Pooling = "last",
        class_weights: list[float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(checkpoint, **settings)
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing is {label_smoothing}: it can be 0 to below 1")
        self.head: ClassificationHead | None = None
        self.labels: list[str] = []
        self.multi_label = False
        self.register_buffer("temperature", torch.ones(()))  # of the probabilities, fitted on validation
        self.register_buffer("class_weight", torch.ones(()), persistent=False)
        self.scores = ClassificationScores()
        self.scored: dict[str, tuple[Tensor, Tensor]] = {}  # logits and labels of the newest validation and test

    # ---- set-up ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """As in FineTuneModule; take the classes from the data."""
        super().setup(stage)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.labels, self.multi_label = data.labels, data.multi_label
        given = self.hparams["class_weights"]
        if given == "balanced":
            counts = torch.from_numpy(data.class_counts()).float()
            self.class_weight = counts.sum() / (len(counts) * counts.clamp(min=1))
        elif given is not None:
            if len(given) != len(self.labels) or min(given) < 0:
                raise UserError(
                    f"model.class_weights holds {len(given)} numbers, and there are {len(self.labels)} classes "
                    f"({', '.join(self.labels[:20])}): give each a number of 0 or more"
                )
            self.class_weight = torch.tensor(given)

    def configure_model(self) -> None:
        """As in FineTuneModule, with the head."""
        super().configure_model()
        if self.head is None:
            self.head = ClassificationHead(self.config.d_model, len(self.labels), self.hparams["pooling"])

    def freeze_untrained(self, model: GPT) -> None:
        """As in FineTuneModule; what predicts the next token has no gradients, and rests."""
        super().freeze_untrained(model)
        for part in (model.head, model.ngrams):
            if part is not None:
                part.requires_grad_(False)

    def trained(self) -> nn.Module:
        """The model and its head."""
        return self

    def kept(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As in FineTuneModule, and the temperature."""
        return {**super().kept(state), "temperature": state["temperature"]}

    # ---- training --------------------------------------------------------------------------------------------------

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Of every text and class: float [B, C]."""
        assert self.model is not None
        assert self.head is not None
        return classify(self.model, self.head, batch["tokens"], batch["lengths"])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Σ weight · nll of one micro-batch, scaled so that the step's gradient is that of the weighted mean."""
        logits, labels = self.logits(batch).float(), batch["labels"]
        smoothing, weight = self.hparams["label_smoothing"], self.class_weight
        if self.multi_label:
            goal = labels.float() * (1 - smoothing) + smoothing / 2
            nll = F.binary_cross_entropy_with_logits(logits, goal, reduction="none") * weight
            return self.accumulate_loss(nll.mean(1).sum(), torch.tensor(len(labels), device=logits.device))
        weights = weight.expand(logits.shape[1])[labels]
        nll = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none") * weights
        return self.accumulate_loss(nll.sum(), weights.sum())

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """As in LanguageModule; the head, which is not cut over processes, is averaged as what is cut was."""
        if self._device_mesh is not None and self.head is not None:
            data_parallel = self._device_mesh["data_parallel"]
            for parameter in self.head.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad, group=data_parallel.get_group())
                    parameter.grad /= data_parallel.size()
        super().on_before_optimizer_step(optimizer)

    # ---- scoring ---------------------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Add a batch to what `val_loss`, `val_accuracy`, `val_macro_f1` and others are computed of."""
        self.scores.update(self.logits(batch), batch["labels"], batch["numbers"])

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The number of each text, int64 [B], and the probabilities of its classes, [B, C]."""
        scaled = self.logits(batch).float() / self.temperature
        probabilities = scaled.sigmoid() if self.multi_label else scaled.softmax(1)
        return {"numbers": batch["numbers"], "probabilities": probabilities}

    def _log_scores(self, stage: str) -> None:
        logits, labels = (values.cpu() for values in self.scores.compute())
        self.scores.reset()
        if stage == "val" and self.trainer.state.fn == TrainerFn.FITTING:
            self.temperature.fill_(best_temperature(logits, labels))
        self.scored[stage] = logits, labels
        figures = score(logits, labels, float(self.temperature))
        shown = ("loss", "accuracy")
        for name, value in figures.items():
            # Every rank has computed it of all texts already.
            self.log(f"{stage}_{name}", value, prog_bar=name in shown, sync_dist=False)

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def next_command(self, path: str) -> str:
        """What can be done with the checkpoint at `path`."""
        return f"python -m llm classify --checkpoint {path} --text TEXT"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in FineTuneModule, with what the head is for."""
        super().on_save_checkpoint(checkpoint)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        checkpoint["labyrinth"]["classifier"] = {
            "labels": self.labels,
            "pooling": self.hparams["pooling"],
            "multi_label": self.multi_label,
            "max_length": data.max_length,
            "keep": data.hparams["keep"],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in FineTuneModule; refuse a head for other classes."""
        told = checkpoint["labyrinth"].get("classifier")
        if told is None or (self.labels and told["labels"] != self.labels):
            there = "no classes" if told is None else f"the classes {', '.join(told['labels'][:20])}"
            raise UserError(
                f"the checkpoint has {there}, and the data have {', '.join(self.labels[:20])}: use the data that it "
                "was trained with"
            )
        super().on_load_checkpoint(checkpoint)
