"""Answers that the model gives to held-out questions, before and after it is trained."""

import json
from pathlib import Path
from typing import Any

import lightning as L
from torch.distributed.tensor import DTensor
from torchmetrics.functional.text import rouge_score


class Answers(L.Callback):
    """Let the model answer held-out questions greedily before training and at the end, into `answers.jsonl` of the run.

    The data module must have `questions(n) -> list[(prompt ids, ids of the right answer)]` and a `tokenizer`; the
    module `answer(prompts, max_new_tokens) -> list[(ids, whether the model ended by itself)]`. Rank 0 answers, and with
    it all ranks where the model is sharded over them.

    Args:
        questions: how many are asked; 0 turns the callback off.
        max_new_tokens: the longest answer.
        folder: where `answers.jsonl` is written; default: the trainer's `default_root_dir`.

    Attributes:
        before, after: `exact_match`, `rougeL` (F1, Lin 2004) and `ended`, each a share of 1, of all that was asked.
        shown: some questions with the right answer, that before and that after.
    """

    SHOWN = 3

    def __init__(self, questions: int = 0, max_new_tokens: int = 128, folder: str | None = None) -> None:
        self.questions, self.max_new_tokens, self.folder = questions, max_new_tokens, folder
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}
        self.shown: list[list[str]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask the model to begin with (or the resumed one)."""
        self.shown = []
        self.before = self._ask(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask the trained model."""
        self.after = self._ask(trainer, pl_module)

    def _ask(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, float]:
        # Of a model that is sharded over ranks all must take part.
        needed = trainer.is_global_zero or any(isinstance(weight, DTensor) for weight in pl_module.parameters())
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not self.questions or not needed or not hasattr(data, "questions"):
            return {}
        asked = data.questions(self.questions)
        if not asked:
            return {}
        given = pl_module.answer([prompt for prompt, _ in asked], self.max_new_tokens)  # type: ignore[operator]
        decode = data.tokenizer.decode
        rows = []
        for (prompt, right), (ids, ended) in zip(asked, given, strict=True):
            texts = {"question": decode(prompt), "right": _text(decode(right)), "answer": _text(decode(ids))}
            rows.append({**texts, "ended": ended, "exact": texts["answer"] == texts["right"]})
        if trainer.is_global_zero:
            self._write(Path(self.folder or trainer.default_root_dir), trainer.global_step, rows)
            for number, row in enumerate(rows[: self.SHOWN]):
                if len(self.shown) <= number:
                    self.shown.append([row["question"], row["right"]])
                self.shown[number].append(row["answer"])
        rouge = rouge_score([row["answer"] for row in rows], [row["right"] for row in rows], rouge_keys="rougeL")
        return {
            "exact_match": sum(row["exact"] for row in rows) / len(rows),
            "rougeL": float(rouge["rougeL_fmeasure"]),
            "ended": sum(row["ended"] for row in rows) / len(rows),
        }

    def _write(self, folder: Path, step: int, rows: list[dict[str, Any]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "answers.jsonl").open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n")


def _text(decoded: str) -> str:
    return decoded.removesuffix("<|end|>").strip()
