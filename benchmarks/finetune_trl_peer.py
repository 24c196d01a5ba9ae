"""TRL's SFTTrainer on the same model and records; run by benchmarks/finetune.py in an environment of TRL's own.

    python finetune_trl_peer.py FOLDER {shipped,padded,packed} EPOCHS THREADS ROW_TOKENS WARM_UP

FOLDER is a model of transformers with its tokenizer, and `records.jsonl` beside it. Prints one line of JSON: seconds of
the steps after the warm-up, and the tokens in them.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from trl import SFTConfig, SFTTrainer


class Clock(transformers.TrainerCallback):
    """Seconds of the steps after the warm-up, with the reading of their batches."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up, self.seconds, self.start, self.counted = warm_up, 0.0, 0.0, False

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step == self.warm_up:
            self.start, self.counted = time.perf_counter(), True
        elif state.global_step > self.warm_up:
            self.seconds = time.perf_counter() - self.start


def main() -> None:
    folder, way, epochs, threads, row_tokens, warm_up = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:7])
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    data = Dataset.from_list(
        [{"prompt": [{"role": "user", "content": r["prompt"]}],
          "completion": [{"role": "assistant", "content": r["completion"]}]} for r in records]
    )  # fmt: skip
    packing = {"packing": True, "max_length": row_tokens} if way == "packed" else {"max_length": row_tokens}
    own = {} if way == "shipped" else {"bf16": False, "gradient_checkpointing": False}  # shipped: both are True
    clock = Clock(warm_up)
    tokens = {"seen": 0, "targets": 0}

    class Counting(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            if clock.counted:
                labels = inputs["labels"]
                tokens["targets"] += int((labels[:, 1:] != -100).sum())
                tokens["seen"] += labels.numel()
            return super().compute_loss(model, inputs, *rest, **more)

    trainer = Counting(
        model=model,
        args=SFTConfig(
            output_dir=str(folder / "trl"), num_train_epochs=epochs, use_cpu=True, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, **own, **packing,
        ),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[clock],
    )  # fmt: skip
    trainer.train()
    print(json.dumps({"seconds": clock.seconds, **tokens, "batch": trainer.args.per_device_train_batch_size}))


if __name__ == "__main__":
    main()
