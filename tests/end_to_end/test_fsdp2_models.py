"""Under fsdp2 every kind of model trains as on one process: experts, counts of n-grams, spectral starts, GPT-2."""

import csv
import signal
from pathlib import Path

import pytest
import torch
from support.command_line import TINY, llm, llm_until, write_texts

from callbacks.checkpoints import checkpoints_by_step
from llm.checkpoint import TENSORS, read_checkpoint
from llm.distributed import name_class

FIT = ["fit", *TINY, "--model.max_tokens=2048", "--model.validate_every=4"]
FSDP2 = ["--trainer.strategy=fsdp2", "--trainer.devices=2"]
TENSOR = [*FSDP2, "--trainer.strategy.tensor_parallel_size=2"]
COUNTS = "--model.gpt.ngram_order=3"
EXPERTS = (
    "--model.gpt={n_layers: 1, d_model: 32, n_heads: 2, n_kv_heads: 1, head_dim: 16, n_experts: 4, "
    "n_active_experts: 2, d_expert: 32, router: sigmoid}"
)
SPECTRAL = ["--model.spectral_init=true", "--model.gpt.tie_embeddings=false"]
GPT2 = (
    "--model.gpt={n_layers: 2, d_model: 32, n_heads: 4, n_kv_heads: 4, d_ff: 64, norm: layernorm, position: learned, "
    "feedforward: gelu, bias: true, qkv_bias: true, tie_embeddings: true}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_texts(folder)
    return folder


def fit(folder: Path, name: str, *flags: str) -> Path:
    done = llm(*FIT, f"--name={name}", *flags, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / name


def losses(run: Path) -> dict[int, float]:
    with (run / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row["train_loss"]) for row in csv.DictReader(file) if row["train_loss"]}


def test_fsdp2_may_have_settings_beside_its_name():
    size = "--trainer.strategy.tensor_parallel_size=2"
    assert name_class(["fit", "--trainer.strategy=fsdp2"]) == ["fit", "--trainer.strategy=fsdp2"]
    assert name_class(["fit", "--trainer.strategy=fsdp2", size]) == ["fit", "--trainer.strategy=FSDP2", size]
    assert name_class(["fit", "--trainer.strategy", "fsdp2", size]) == ["fit", "--trainer.strategy", "FSDP2", size]
    assert name_class(["fit", "--name", "fsdp2", size]) == ["fit", "--name", "fsdp2", size]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "two"),
    [([EXPERTS], FSDP2), (SPECTRAL, FSDP2), ([GPT2], TENSOR)],
    ids=["experts", "spectral start", "GPT-2, tensor parallel"],
)
def test_every_kind_of_model_trains_as_on_one_process(
    folder: Path, model: list[str], two: list[str], request: pytest.FixtureRequest
):
    name = request.node.callspec.id.translate(str.maketrans(" ,", "--"))
    one = losses(fit(folder, f"{name}-one", *model))
    assert len(one) == 8
    assert losses(fit(folder, f"{name}-two", *model, *two)) == pytest.approx(one, abs=1e-5)


@pytest.mark.slow
def test_counts_of_ngrams_go_from_one_process_to_two_and_back(folder: Path):
    """As large as the text made them: a process that has not counted takes those of the checkpoint."""
    one, two = fit(folder, "counts-one", COUNTS), fit(folder, "counts-two", COUNTS, *FSDP2)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    file, sharded = (run / "checkpoints/step-00000004.ckpt" for run in (one, two))
    resumed = fit(folder, "counts-resumed", COUNTS, *FSDP2, f"--ckpt_path={file}")
    assert losses(resumed) == pytest.approx({step: losses(one)[step] for step in range(4, 8)}, abs=1e-5)
    scored = [
        llm("validate", *FIT[1:], COUNTS, *flags, f"--ckpt_path={sharded}", folder=folder) for flags in (FSDP2, [])
    ]
    assert [done.returncode for done in scored] == [0, 0], scored[0].stderr
    bits = [next(line for line in done.stdout.splitlines() if "val_bpb" in line).split("│")[2] for done in scored]
    assert float(bits[0]) == pytest.approx(float(bits[1]), abs=1e-5)
    settings = read_checkpoint(sharded, without=TENSORS)  # of which the tensors are not read
    assert settings["state_dict"]["model.embedding.weight"].device.type == "meta"
    assert settings["hyper_parameters"] == read_checkpoint(sharded)["hyper_parameters"]


@pytest.mark.slow
def test_asked_to_end_it_saves_a_folder_and_goes_on_bit_for_bit(folder: Path):
    flags = [*FSDP2, "--model.gpt.dropout=0.1", "--model.max_tokens=24576"]
    whole = fit(folder, "undisturbed", *flags)
    metrics = folder / "runs/stopped/metrics.csv"
    code, output = llm_until(*FIT, "--name=stopped", *flags, folder=folder, ready=metrics.exists, stop=signal.SIGTERM)
    assert code == 143, output
    saved = checkpoints_by_step(metrics.parent / "checkpoints")
    assert 0 < list(saved)[-1] < 96
    assert list(saved.values())[-1].is_dir()
    fit(folder, "stopped", *flags, "--ckpt_path=last")
    one, other = (read_checkpoint(run / "checkpoints/step-00000096.ckpt") for run in (whole, metrics.parent))
    for name, weight in one["state_dict"].items():
        assert torch.equal(other["state_dict"][name], weight), name
    assert losses(metrics.parent) == losses(whole)
