"""Samples are taken before, every N steps and after, with the same seed."""

from pathlib import Path
from typing import Any

from support.fake_data import ListDataModule, make_batch, make_module, make_trainer

from callbacks import TextSamples
from llm.modules import PretrainModule


class Writer(PretrainModule):
    """Writes how it was asked, in place of text."""

    def continue_text(self, prompt: str, **settings: Any) -> str:
        return f"{self.global_step} {settings}"


def test_samples_file_has_every_prompt_at_every_interval(tmp_path: Path):
    module = make_module()
    module.__class__ = Writer
    settings = {"max_new_tokens": 7, "temperature": 0.5, "top_k": 9, "seed": 5}
    samples = TextSamples(["a", "b"], every_n_steps=2, **settings)
    trainer = make_trainer(callbacks=[samples], default_root_dir=str(tmp_path), accumulate_grad_batches=2)
    trainer.fit(module, datamodule=ListDataModule([make_batch(2, 8, 16, seed) for seed in range(10)]))
    text = (tmp_path / "samples.txt").read_text()
    headers = [line for line in text.splitlines() if line.startswith("===")]
    assert headers == [f"=== step {step}, prompt {prompt!r}" for step in (0, 2, 4, 5) for prompt in "ab"]
    assert samples.before["a"] == f"0 {settings}"
    assert samples.after["b"] == f"5 {settings}"
    assert text.startswith(f"=== step 0, prompt 'a'\na0 {settings}\n\n")


def test_without_prompts_nothing_is_written(tmp_path: Path):
    trainer = make_trainer(callbacks=[TextSamples()], default_root_dir=str(tmp_path))
    trainer.fit(make_module(), datamodule=ListDataModule([make_batch(2, 8, 16, 0)]))
    assert not list(tmp_path.iterdir())
