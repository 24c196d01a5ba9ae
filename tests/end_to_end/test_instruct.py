"""Instruction tuning by the command line: from a checkpoint to answers, on one process and on two."""

import csv
import json
from pathlib import Path

import pytest
import torch
from support.command_line import assert_one_sentence, llm
from support.fine_tuning import write_base, write_sums

COMMON = [
    "--model=InstructionModule",
    "--model.checkpoint=base.ckpt",
    "--model.validate_every=10",
    "--model.lr=0.003",
    "--data=InstructionDataModule",
    "--data.sources=sums.jsonl",
    "--data.global_batch_tokens=512",
    "--data.batch_size=4",
    "--trainer.max_epochs=3",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("instruct")
    write_base(folder)
    write_sums(folder / "sums.jsonl")
    done = llm("fit", *COMMON, "--answers.questions=4", "--answers.max_new_tokens=8", "--name=one", folder=folder)
    assert done.returncode == 0, done.stderr
    (folder / "one.txt").write_text(done.stdout)
    return folder


def losses(folder: Path, run: str) -> dict[int, float]:
    with (folder / "runs" / run / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]}


def test_a_run_shows_what_it_was_before_and_after_and_can_be_used(folder: Path):
    told = (folder / "one.txt").read_text()
    for label in ("bits per byte", "ROUGE-L of the answers", "answers that end by themselves", "right", "after"):
        assert label in told
    asked = [json.loads(line) for line in (folder / "runs/one/answers.jsonl").read_text().splitlines()]
    assert [line["step"] for line in asked] == [0] * 4 + [24] * 4
    assert asked[0]["question"].startswith("<|endoftext|><|user|>sum of ")
    checkpoint = torch.load(folder / "runs/one/checkpoints/best.ckpt", weights_only=True)
    assert "{% for message in messages %}" in checkpoint["labyrinth"]["chat_template"]
    assert checkpoint["labyrinth"]["pretraining_fingerprint"] == "0123456789abcdef"  # what it may forget
    done = llm("generate", "--checkpoint=runs/one", "--prompt=sum", "--max_new_tokens=5", folder=folder)
    assert done.returncode == 0, done.stderr
    tuned = llm("fit", *COMMON, "--model.checkpoint=runs/one", "--trainer.max_steps=1", "--name=on", folder=folder)
    assert tuned.returncode == 0, tuned.stderr


def test_data_follow_the_checkpoint(folder: Path):
    (tokenizer,) = (folder / "data").glob("tokenizer-of-checkpoint-*/tokenizer.json")
    assert tokenizer.read_text() == (folder / "tokenizer.json").read_text()
    assert "context 64" in llm("fit", *COMMON, "--trainer.max_steps=1", "--name=ctx", folder=folder).stderr


def test_a_tuned_model_is_scored_without_the_one_that_it_began_with(folder: Path):
    flags = ["--ckpt_path=runs/one/checkpoints/step-00000024.ckpt", "--name=score", "--data.eval_batch_size=3"]
    moved = [flag.replace("base.ckpt", "gone.ckpt") for flag in COMMON]
    done = llm("validate", *moved, *flags, folder=folder)
    assert done.returncode == 0, done.stderr
    with (folder / "runs/one/metrics.csv").open() as file:
        logged = [row["val_loss"] for row in csv.DictReader(file) if row["val_loss"]]
    assert logged[-1][:6] in done.stdout


@pytest.mark.slow
def test_interrupted_and_resumed_it_is_the_run_that_was_not(folder: Path):
    path = "runs/one/checkpoints/step-00000020.ckpt"
    assert (folder / path).exists()
    done = llm("fit", *COMMON, "--name=resumed", f"--ckpt_path={path}", folder=folder)
    assert done.returncode == 0, done.stderr
    whole, rest = losses(folder, "one"), losses(folder, "resumed")
    assert rest == {step: whole[step] for step in rest}
    assert min(rest) == 20
    one, other = (
        torch.load(folder / f"runs/{run}/checkpoints/step-00000024.ckpt", weights_only=True)
        for run in ("one", "resumed")
    )
    assert all(torch.equal(weight, other["state_dict"][name]) for name, weight in one["state_dict"].items())
    assert one["labyrinth"]["before"] == other["labyrinth"]["before"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_as_one(folder: Path, strategy: str):
    two = [f"--trainer.strategy={strategy}", "--trainer.devices=2", "--data.batch_size=2", f"--name={strategy}"]
    done = llm("fit", *COMMON, *two, folder=folder)
    assert done.returncode == 0, done.stderr
    one, both = losses(folder, "one"), losses(folder, strategy)
    assert both == pytest.approx(one, rel=1e-5)


def test_show_marks_what_is_learnt(folder: Path):
    flags = [flag for flag in COMMON if flag.startswith(("--model", "--data"))]
    done = llm("show", "--n", "2", *flags, folder=folder)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("<|endoftext|>")]
    assert len(lines) == 2
    for line in lines:
        question, answer = line.split("<|assistant|>")
        assert question.startswith("<|endoftext|><|user|>sum of ")
        assert answer.startswith("«it is ")
        assert answer.endswith(".<|end|>»")
    assert "conversations" in done.stdout
    assert not (folder / "runs/run").exists()


def test_prepare_makes_the_rows_alone(folder: Path):
    flags = [flag for flag in COMMON if flag.startswith(("--model", "--data"))]
    done = llm("prepare", *flags, folder=folder)
    assert done.returncode == 0, done.stderr
    assert "reused: data/conversations-" in done.stdout


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (["--model.checkpoint=nothing.ckpt"], 1, "no checkpoint at nothing.ckpt"),
        (["--data.sources=nothing.jsonl"], 1, "there is no file 'nothing.jsonl' with records"),
        (["--data.context_length=128"], 1, "the checkpoint's model sees 64 tokens"),
        (["--model.train_block=1"], 2, "did you mean '--model.train_blocks'?"),
        (["--data.sourcse=x"], 2, "did you mean '--data.sources'?"),
        (["--model.neftune_alpha=null"], 1, "model.neftune_alpha is null"),
    ],
)
def test_what_cannot_be_is_one_sentence(folder: Path, flags: list[str], code: int, told: str):
    done = llm("fit", *COMMON, "--name=bad", *flags, folder=folder)
    assert_one_sentence(done.returncode, done.stderr, code, told)
    assert not (folder / "runs/bad").exists()
