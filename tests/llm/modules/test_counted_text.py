"""A run whose model counts the training text: once, when it is new; its checkpoints carry the counts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.fake_data import TINY, VOCAB, ListDataModule, make_batch, make_module, make_trainer

from datamodules.tokens.statistics import count_ngrams
from llm.model import GPT, GPTConfig
from llm.modules import PretrainModule

COUNTED = {**TINY, "ngram_order": 3}


class TextDataModule(ListDataModule):
    """Batches beside a text that has nothing to do with them."""

    asked = 0
    text = np.array([3, 5, 3, 5, 3, 5, 9], np.uint16)

    def count_ngrams(self, order: int, vocab_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.asked += 1
        return count_ngrams(self.text, order, vocab_size)


@pytest.fixture
def data() -> TextDataModule:
    return TextDataModule([make_batch(2, 8, 16, seed) for seed in range(3)], [make_batch(2, 8, 16, 9)])


def fit(data: TextDataModule, steps: int, resume: Path | None = None, **change: object) -> PretrainModule:
    module = make_module(gpt=COUNTED, max_tokens=steps * 16, **change)
    trainer = make_trainer(max_epochs=-1, use_distributed_sampler=False)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
    return module


@torch.no_grad()
def chance_of_the_pair(model: GPT) -> float:
    return float(model.eval()(torch.tensor([[9, 3]]))[0, 1].exp()[5])


def test_a_new_run_knows_its_text(data: TextDataModule) -> None:
    module = fit(data, 1, lr=0.0)
    assert data.asked == 1
    assert chance_of_the_pair(module.model) > 0.4  # half of 0.9
    assert set(module._ddp_params_and_buffers_to_ignore) <= {name for name, _ in module.named_buffers()}
    assert len(module._ddp_params_and_buffers_to_ignore) == sum("counts" in name for name, _ in module.named_buffers())


def test_a_checkpoint_brings_its_counts(data: TextDataModule, tmp_path: Path) -> None:
    first = fit(data, 2)
    first.trainer.save_checkpoint(path := tmp_path / "kept.ckpt")
    expected = chance_of_the_pair(first.model)
    contents = torch.load(path, weights_only=True)
    state = contents["state_dict"]
    weights = {name.removeprefix("model."): state[name] for name in state if name.startswith("model.")}
    model = GPT.from_state(GPTConfig.from_dict(contents["labyrinth"]["gpt"]), weights)
    assert chance_of_the_pair(model) == pytest.approx(expected)

    data.text = np.arange(VOCAB, dtype=np.uint16)  # another text, of another size
    resumed = fit(data, 2, resume=path)
    assert chance_of_the_pair(resumed.model) == pytest.approx(expected)
    scored, asked = make_module(gpt=COUNTED), data.asked
    make_trainer().validate(scored, data, ckpt_path=path, weights_only=True, verbose=False)
    assert chance_of_the_pair(scored.model) == pytest.approx(expected)
    assert data.asked == asked
