"""Held-out questions, asked before and after."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from support.fake_data import ListDataModule, make_batch, make_trainer

from callbacks import Answers


class Tokenizer:
    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids)) + ("<|end|>" if ids and ids[-1] == 9 else "")


class Data(ListDataModule):
    tokenizer = Tokenizer()  # type: ignore[assignment]
    asked = 0

    def questions(self, n: int) -> list[tuple[list[int], list[int]]]:
        self.asked = n
        return [([1, 2], [3, 4, 5]), ([1, 2, 3], [6, 7])][:n]


class Module(L.LightningModule):
    """Answers one of two questions rightly once it was trained."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.steps += 1
        return self.weight * 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)

    def answer(self, prompts: list[list[int]], max_new_tokens: int) -> list[tuple[list[int], bool]]:
        right = [([3, 4, 5], True), ([6, 8], False)]
        return (right if self.steps else [([0], False)] * 2)[: len(prompts)]


def test_scores_and_a_file_of_answers(tmp_path: Path):
    callback, data = Answers(questions=2), Data([make_batch(1, 4, 4, 0)])
    make_trainer(callbacks=[callback], default_root_dir=tmp_path).fit(Module(), datamodule=data)
    assert data.asked == 2
    assert callback.before == {"exact_match": 0.0, "rougeL": 0.0, "ended": 0.0}
    assert callback.after == {"exact_match": 0.5, "rougeL": pytest.approx(0.75), "ended": 0.5}
    assert callback.shown == [["1 2", "3 4 5", "0", "3 4 5"], ["1 2 3", "6 7", "0", "6 8"]]
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 0, 1, 1]
    assert [line["exact"] for line in lines] == [False, False, True, False]


def test_nothing_is_asked_unless_it_is_wanted_and_can_be(tmp_path: Path):
    callback = Answers()
    make_trainer(callbacks=[callback], default_root_dir=tmp_path).fit(
        Module(), datamodule=Data([make_batch(1, 4, 4, 0)])
    )
    assert callback.before == {}
    assert not (tmp_path / "answers.jsonl").exists()
    other = Answers(questions=1)
    plain = ListDataModule([make_batch(1, 4, 4, 0)])
    make_trainer(callbacks=[other], default_root_dir=tmp_path).fit(Module(), datamodule=plain)
    assert other.after == {}
