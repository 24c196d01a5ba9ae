"""The data modules serve any Lightning project: nothing of `llm` is needed, and parts need not even torch."""

import subprocess
import sys
from pathlib import Path

import pytest

FOREIGN = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llm":
            raise ImportError("llm is out of reach here")

sys.meta_path.insert(0, Refuse())
import torch
torch.set_num_threads(1)
from lightning.pytorch import LightningModule, Trainer
from datamodules import PretrainDataModule

class Bigrams(LightningModule):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size)
        torch.nn.init.zeros_(self.table.weight)

    def loss(self, batch):
        return torch.nn.functional.cross_entropy(self.table(batch["tokens"]).flatten(0, 1), batch["targets"].flatten())

    def training_step(self, batch, index):
        return self.loss(batch)

    def validation_step(self, batch, index):
        self.log("val_loss", self.loss(batch), batch_size=len(batch["tokens"]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)

data = PretrainDataModule(
    sources=[sys.argv[1]], cache_dir=sys.argv[2], vocab_size=300, context_length=32, global_batch_tokens=256,
    validation_fraction=0.1,
)
trainer = Trainer(
    max_steps=100, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
)
model = Bigrams(data.vocab_size)
trainer.fit(model, datamodule=data)
trainer.validate(model, datamodule=data, verbose=False)
print("loss", float(trainer.callback_metrics["val_loss"]))
print("llm" in sys.modules)
"""


def run(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=100)


def test_a_foreign_module_learns_from_it(tmp_path: Path, texts: Path) -> None:
    done = run(FOREIGN, str(texts), str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    loss, imported = done.stdout.strip().splitlines()[-2:]
    assert float(loss.split()[1]) < 4.0  # ln(300) = 5.7 at the start
    assert imported == "False"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("datamodules", {"torch", "lightning", "pyarrow", "tokenizers"}),
        ("datamodules.corpus.pipeline", {"torch", "lightning", "tokenizers", "datasets"}),
        ("datamodules.text.training", {"torch", "lightning", "pyarrow"}),
        ("datamodules.tokens.batches", {"lightning", "pyarrow"}),
        ("datamodules.preparation", {"torch", "lightning", "datasets"}),
    ],
)
def test_what_an_import_does_not_bring_along(module: str, absent: set[str]) -> None:
    done = run(f"import sys, {module}\nprint(*{{name.partition('.')[0] for name in sys.modules}})")
    assert done.returncode == 0, done.stderr
    assert not absent & set(done.stdout.split())
    assert "llm" not in done.stdout.split()


def test_documents_can_be_had_without_torch(tmp_path: Path, texts: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from datamodules.corpus.pipeline import Pipeline
cache = Path({str(tmp_path / "cache")!r})
made = Pipeline([{str(texts)!r}]).prepare(cache)
print(made.manifest["counts"]["read"]["documents"], "torch" in sys.modules)
"""
    assert run(code).stdout.split() == ["60", "False"]


def test_unknown_names() -> None:
    import datamodules

    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = datamodules.Nothing
