"""InstructionModule: a GPT that learns to answer."""

from typing import Any

import torch
from torch import Tensor

from llm.errors import UserError
from llm.modules.answering import AnsweringModule


class InstructionModule(AnsweringModule):
    """Next-token prediction of the answers in conversations, scored in nats per target and bits per byte of answers.

    Batches have `tokens`, `targets` (-100 where nothing is to be learnt) and `documents`, and `prompt_targets` where
    the tokens of prompts have weight in the loss.

    Args:
        checkpoint: a .ckpt file or the folder of a run (its best one): the model to begin with.
        prompt_loss_weight: weight of each token of a prompt in the loss, beside 1 for each of an answer
            (Huerta-Enochian and Ko 2024, "Instruction fine-tuning: does prompt loss matter?"); validation scores
            answers alone.
        neftune_alpha: size of the noise that is added to embeddings in training (Jain et al. 2023, NEFTune, who use
            5); 0 adds none.
        settings: those of FineTuneModule.
    """

    def __init__(
        self, checkpoint: str, prompt_loss_weight: float = 0.0, neftune_alpha: float = 0.0, **settings: Any
    ) -> None:
        super().__init__(checkpoint, **settings)
        for name, value in (("prompt_loss_weight", prompt_loss_weight), ("neftune_alpha", neftune_alpha)):
            if value < 0:
                raise UserError(f"model.{name} is {value}: it can be 0 or more")
        self._is_noisy = False

    def configure_model(self) -> None:
        """As in FineTuneModule; noise is added where the embedding's output is read."""
        super().configure_model()
        if self.hparams["neftune_alpha"] and not self._is_noisy:
            assert self.model is not None
            self.model.embedding.register_forward_hook(self._add_noise)
            self._is_noisy = True

    def _add_noise(self, module: torch.nn.Module, inputs: Any, embedded: Tensor) -> Tensor | None:
        """Uniform noise in ±alpha / √(length · width), of which a row then has a norm that does not grow with it."""
        if not module.training or not torch.is_grad_enabled():
            return None
        bound = self.hparams["neftune_alpha"] / (embedded.shape[1] * embedded.shape[2]) ** 0.5
        return embedded + torch.empty_like(embedded).uniform_(-bound, bound)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Σ nll of one micro-batch, scaled so that the step's gradient is the mean over its targets."""
        assert self.model is not None
        tokens, targets, documents = batch["tokens"], batch["targets"], batch.get("documents")
        weight = self.hparams["prompt_loss_weight"]
        if not weight:
            return self.accumulate_loss(*self.model(tokens, targets, documents=documents))
        prompts = batch["prompt_targets"]
        is_answer, is_prompt = targets >= 0, prompts >= 0
        nll = self.model(tokens, torch.where(is_answer, targets, prompts), documents=documents, each=True)
        nll = (nll * torch.where(is_answer, 1.0, weight)).sum()
        return self.accumulate_loss(nll, is_answer.sum() + weight * is_prompt.sum())
