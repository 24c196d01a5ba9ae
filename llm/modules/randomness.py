"""Random numbers of training that depend on where the run stands, and not on how it came there."""

import lightning as L
import torch
import xxhash


def seed_micro_batch(trainer: L.Trainer, seed: int, batch_idx: int) -> None:
    """Seed what this rank draws in one micro-batch (dropout) by the run's seed and its place in the run alone.

    So a resumed run draws what the uninterrupted one would have drawn, and nothing of it needs to be saved. Ranks that
    share their data (tensor parallel) draw the same, all others different numbers.
    """
    rank = (getattr(trainer, "distributed_sampler_kwargs", None) or {}).get("rank", 0)
    place = (seed, trainer.global_step, batch_idx % trainer.accumulate_grad_batches, rank)
    number = xxhash.xxh3_64_intdigest(repr(place).encode())
    torch.default_generator.manual_seed(number)  # torch.manual_seed looks for every kind of device besides: 82 us
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.manual_seed(number)
