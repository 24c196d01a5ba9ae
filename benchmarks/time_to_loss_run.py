"""One training run of `time_to_loss.py`, in a process of its own: settings as JSON in, one line of JSON out."""

import json
import sys
import time
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.nn import functional as F

from datamodules.pretraining import PretrainDataModule
from llm.host_memory import keep_freed_memory
from llm.model import GPT
from llm.modules import PretrainModule

CONTEXT, STEP_TOKENS, VOCABULARY = 256, 2048, 2048


class Clock(L.Callback):
    """Seconds in which the starting weights are made and the steps are trained; Lightning's start is left out."""

    def __init__(self) -> None:
        self.making_weights = self.start = self.end = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Time the call of `configure_model` that follows."""
        plain = pl_module.configure_model

        def timed() -> None:
            start = time.perf_counter()
            plain()
            self.making_weights += time.perf_counter() - start

        pl_module.configure_model = timed  # type: ignore[method-assign]

    def on_train_batch_start(self, *_: Any) -> None:
        self.start = self.start or time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.end = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.making_weights + self.end - self.start


def recipe_settings(recipe: dict[str, Any]) -> tuple[dict[str, Any], float | None]:
    """The module's settings and the clipping of a recipe; `shipped` is the configuration that it builds on."""
    settings: dict[str, Any] = {}
    clip: float | None = 1.0
    if "shipped" in recipe:
        settings = recipe["shipped"]["model"]["init_args"]
        clip = recipe["shipped"]["trainer"]["gradient_clip_val"]
    own = recipe.get("settings", {})
    return {**settings, **own, "gpt": {**settings.get("gpt", {}), **own.get("gpt", {})}}, clip


def scaled(settings: dict[str, Any], factor: float) -> dict[str, Any]:
    """Every learning rate of the recipe times `factor`."""
    rates = {
        name: settings[name] * factor for name in ("lr", "embedding_lr", "head_lr", "scalar_lr") if name in settings
    }
    return {**settings, **rates}


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train as `job` says; seconds of training, and bits per byte of the validation and test documents."""
    settings, clip = recipe_settings(job["recipe"])
    settings = {**scaled(settings, job["factor"]), "max_tokens": job["tokens"], "validate_every": 10**6}
    data = PretrainDataModule(
        sources=job["corpus"],
        validation_fraction=0.1,
        vocab_size=VOCABULARY,
        context_length=CONTEXT,
        global_batch_tokens=STEP_TOKENS,
        seed=job["seed"],
        cache_dir=job["cache"],
    )
    L.seed_everything(job["seed"], verbose=False)
    module = PretrainModule(vocab_size=VOCABULARY, context_length=CONTEXT, **settings)
    clock = Clock()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        gradient_clip_val=clip,
        logger=False,
        callbacks=[clock],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, datamodule=data)
    assert module.model is not None
    held_out = score(module.model, data)
    counts = {name: p.numel() for name, p in module.model.named_parameters()}
    tables = sum(n for name, n in counts.items() if not name.startswith("blocks."))
    beside = module.model.ngrams
    return {
        "seconds": clock.seconds,
        "parameters": sum(counts.values()),
        "in_blocks": sum(counts.values()) - tables,
        "counted": 0 if beside is None else len(beside.counts),
        **held_out,
    }


@torch.inference_mode()
def score(model: GPT, data: PretrainDataModule) -> dict[str, float]:
    """Bits per byte of the held-out documents with even numbers (`validation`) and with odd ones (`test`)."""
    store, rows = data.prepared.validation, data.rows_of_split("validation")
    assert store is not None
    model.eval()
    nll, targets = [], []
    for start in range(0, len(rows), 16):
        batch = rows.__getitems__(range(start, min(start + 16, len(rows))))
        flat = batch["targets"].flatten()
        losses = F.cross_entropy(model(batch["tokens"]).flatten(0, 1), flat, reduction="none")
        nll.append(losses[flat >= 0])
        targets.append(flat[flat >= 0])
    losses, ids = torch.cat(nll).double().numpy(), torch.cat(targets).numpy()
    bytes_ = data.tokenizer.token_bytes()[ids]
    document = np.searchsorted(store.offsets, np.arange(1, len(ids) + 1), side="right") - 1
    text = bytes_ > 0
    result = {}
    for name, parity in (("validation", 0), ("test", 1)):
        chosen = text & (document % 2 == parity)
        result[name] = float(losses[chosen].sum() / np.log(2) / bytes_[chosen].sum())
    return result


if __name__ == "__main__":
    job = json.loads(sys.stdin.read())
    torch.set_num_threads(job["threads"])
    keep_freed_memory()
    print(json.dumps(train(job)))
