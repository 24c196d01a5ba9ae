"""The published stories260K model writes here what it is known to write."""

import json
from pathlib import Path

import pytest
import torch
from support.stories import read_stories

from llm.generation import generate
from llm.model import GPT


class TestStories260K:
    """The 260,000-parameter Llama of llama2.c: reference logits in float64, and the text that it is known to write."""

    @pytest.fixture(scope="class")
    def golden(self, shared_data: Path) -> dict[str, list]:
        return json.loads((shared_data / "stories260K" / "golden.json").read_text())

    @pytest.fixture(scope="class")
    def model(self, shared_data: Path) -> GPT:
        return read_stories(shared_data / "stories260K")

    def test_logits(self, model: GPT, golden: dict[str, list]) -> None:
        with torch.inference_mode():
            logits = model(torch.tensor([golden["ids"][:16]]))[0]
        for position, name in ((0, "logits_after_bos"), (15, "logits_last_of_first_16_ids")):
            torch.testing.assert_close(logits[position], torch.tensor(golden[name]), rtol=1e-5, atol=2e-5)

    def test_greedy_text(self, model: GPT, golden: dict[str, list]) -> None:
        assert list(generate(model, golden["ids"][:1], 200, temperature=0)) == golden["ids"][1:201]
