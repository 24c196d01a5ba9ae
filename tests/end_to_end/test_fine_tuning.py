"""Adapters, classifiers and preferences by the command line: two processes and one, tables, and what is refused."""

import csv
import json
from pathlib import Path

import pytest
import torch
from support.command_line import assert_one_sentence, llm
from support.fine_tuning import write_base, write_sums

COMMON = [
    "--model.checkpoint=base.ckpt",
    "--model.lr=0.003",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
]
KINDS = {
    "adapter": [
        *(
            "--model=InstructionModule",
            "--model.lora.rank=4",
            "--data=InstructionDataModule",
            "--data.sources=sums.jsonl",
        ),
        *(
            "--data.global_batch_tokens=512",
            "--data.batch_size=4",
            "--trainer.max_steps=12",
            "--model.validate_every=6",
        ),
    ],
    "classifier": [
        *("--model=ClassificationModule", "--data=ClassificationDataModule", "--data.sources=words.jsonl"),
        *("--data.validation_fraction=0.23", "--data.global_batch_size=16", "--data.batch_size=8"),
        *("--trainer.max_steps=12", "--model.validate_every=6", "--checkpoints.monitor=val_loss"),
    ],
    "preference": [
        *("--model=PreferenceModule", "--data=PreferenceDataModule", "--data.sources=pairs.jsonl", "--model.loss=kto"),
        *("--data.validation_fraction=0.2", "--data.global_batch_size=16", "--data.batch_size=8"),
        *("--trainer.max_steps=12", "--model.validate_every=6", "--checkpoints.monitor=val_loss"),
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    write_base(folder)
    write_sums(folder / "sums.jsonl")
    words = [{"text": f"{('red', 'blue')[i % 2]} " * (1 + i % 5) + str(i), "label": "rb"[i % 2]} for i in range(150)]
    (folder / "words.jsonl").write_text("\n".join(map(json.dumps, words)))
    pairs = [{"prompt": f"say {n}", "chosen": f"please: {n}.", "rejected": f"no {n}"} for n in range(101)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    for kind in ("classifier",):
        done = llm("fit", *KINDS[kind], *COMMON, f"--name={kind}", folder=folder)
        assert done.returncode == 0, done.stderr
        (folder / f"{kind}.txt").write_text(done.stdout)
    return folder


def logged(folder: Path, run: str) -> list[dict[str, float]]:
    skipped = ("step", "epoch", "data_wait", "tokens_per_second", "mfu")
    with (folder / "runs" / run / "metrics.csv").open() as file:
        return [{n: float(v) for n, v in row.items() if v and n not in skipped} for row in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_tune_as_one(folder: Path, kind: str, strategy: str):
    if not (folder / "runs" / kind).exists():
        assert llm("fit", *KINDS[kind], *COMMON, f"--name={kind}", folder=folder).returncode == 0
    two = [f"--trainer.strategy={strategy}", "--trainer.devices=2", "--data.batch_size=2", f"--name={kind}-{strategy}"]
    done = llm("fit", *KINDS[kind], *COMMON, *two, folder=folder)
    assert done.returncode == 0, done.stderr
    for one, other in zip(logged(folder, kind), logged(folder, f"{kind}-{strategy}"), strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapter", "preference"])
def test_resumed_it_is_the_run_that_was_not_interrupted(folder: Path, kind: str):
    if not (folder / "runs" / kind).exists():
        assert llm("fit", *KINDS[kind], *COMMON, f"--name={kind}", folder=folder).returncode == 0
    path = f"runs/{kind}/checkpoints/step-00000006.ckpt"
    done = llm("fit", *KINDS[kind], *COMMON, f"--name={kind}-on", f"--ckpt_path={path}", folder=folder)
    assert done.returncode == 0, done.stderr
    one, other = (
        torch.load(folder / f"runs/{run}/checkpoints/step-00000012.ckpt", weights_only=True)["state_dict"]
        for run in (kind, f"{kind}-on")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())
    if kind == "adapter":
        assert all(".adapters.tuned." in name for name in one)


def test_a_classifier_tells_its_figures_beside_simple_ones(folder: Path):
    told = (folder / "classifier.txt").read_text()
    for word in ("majority class", "TF-IDF", "precision", "taken for a class", "next: python -m llm classify"):
        assert word in told.replace("\n", " ")
    figures = json.loads((folder / "runs/classifier/classification.json").read_text())
    assert list(figures["methods"]) == ["this model", "majority class", "TF-IDF + logistic regression"]
    assert figures["temperature"] != 1.0


def test_predict_writes_probabilities_of_every_text(folder: Path):
    (folder / "new.jsonl").write_text('{"text": "red thing"}\n{"text": "blue, \\"quoted\\"\\nline"}\n')
    flags = [*KINDS["classifier"], *COMMON, "--data.predict_sources=new.jsonl", "--name=new"]
    done = llm("predict", *flags, "--ckpt_path=runs/classifier/checkpoints/best.ckpt", folder=folder)
    assert done.returncode == 0, done.stderr
    with (folder / "runs/new-rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["red thing", 'blue, "quoted"\nline']
    for row in rows:
        assert float(row["p(r)"]) + float(row["p(b)"]) == pytest.approx(1, abs=1e-4)
        assert row["predicted"] == ("r" if float(row["p(r)"]) > 0.5 else "b")


def test_classify_answers(folder: Path):
    done = llm("classify", "--checkpoint=runs/classifier", "--text=red red red", folder=folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] in ("r", "b")
    assert len(lines) == 3
    several = llm("classify", "--checkpoint=runs/classifier", "--file=words.jsonl", folder=folder)
    rows = [json.loads(line) for line in several.stdout.splitlines()]
    assert len(rows) == 150
    assert rows[0].keys() == {"text", "label", "probabilities"}


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (["classify", "--checkpoint=base.ckpt", "--text=a"], 1, "holds no classifier"),
        (["classify", "--checkpoint=runs/classifier", "--text= "], 1, "the text is empty"),
        (
            ["fit", *KINDS["adapter"], "--model.lora.targets=[querry]"],
            1,
            "lora.targets names 'querry': choose among query",
        ),
        (["fit", *KINDS["adapter"], "--model.lora.rnk=3"], 2, "no option"),
        (["fit", *KINDS["adapter"], "--model.lora.rank=0"], 1, "lora.rank is 0"),
        (["fit", *KINDS["adapter"], "--model.train_blocks=1"], 1, "both say what is trained"),
        (["fit", *KINDS["preference"], "--model.loss=ppo"], 2, "'dpo'"),
    ],
)
def test_what_cannot_be_is_one_sentence(folder: Path, command: list[str], code: int, told: str):
    common = COMMON if command[0] == "fit" else []
    done = llm(command[0], *command[1:], *common, *(["--name=bad"] if common else []), folder=folder)
    assert_one_sentence(done.returncode, done.stderr, code, told)
    assert not (folder / "runs/bad").exists()
