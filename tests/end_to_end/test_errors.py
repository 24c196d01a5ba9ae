"""Bad input gets one sentence, an exit code, and leaves nothing half-made behind."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import TINY, assert_one_sentence, environment, llm, llm_until, write_texts

from llm.__main__ import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("errors")
    write_texts(folder)
    (folder / "damaged.yaml").write_text("model: [1,\n")
    (folder / "null.yaml").write_text("checkpoints: {keep_last: null}\n")
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 40)
    (folder / "latin.txt").write_bytes("caf\xe9 ".encode("latin-1") * 500)
    (folder / "short.txt").write_text("one line\n" * 30)
    rows = [json.dumps({"content": "some text " * 20}) for _ in range(50)]
    (folder / "other.jsonl").write_text("\n".join(rows))
    (folder / "broken.jsonl").write_text("\n".join([*rows[:3], "{not json", *rows[3:20], "{neither"]))
    return folder


# What is asked, the exit code, and what the sentence must say.
CASES = {
    "command": (["fitt"], 2, ["'fitt'", "did you mean 'fit'"]),
    "option": (["fit", *TINY, "--trainer.precison=32"], 2, ["--trainer.precison", "--trainer.precision"]),
    "beginning of an option": (["fit", *TINY, "--trainer.max_ste=3"], 2, ["did you mean '--trainer.max_steps'"]),
    "model option": (["fit", *TINY, "--model.learning=1"], 2, ["learning"]),
    "data option": (["fit", *TINY, "--data.source=x"], 2, ["source", "did you mean '--data.sources'"]),
    "type": (["fit", *TINY, "--model.lr=fast"], 2, ["lr", "float", "fast"]),
    "preset": (["fit", *TINY, "--model.preset=tinny"], 1, ["tinny", "did you mean 'tiny'"]),
    "model field": (["fit", *TINY, "--model.gpt={n_layer: 2}"], 2, ["n_layer", "did you mean '--model.gpt.n_layers'"]),
    "spectral start": (
        ["fit", *TINY, "--model.spectral_init=true", "--model.gpt={tie_embeddings: true}"],
        1,
        ["model.spectral_init", "needs tie_embeddings false"],
    ),
    "rate": (["fit", *TINY, "--model.lr=-1"], 1, ["model.lr is -1", "0 or more"]),
    "steps": (["fit", *TINY, "--model.validate_every=0"], 1, ["model.validate_every is 0", "1 or more"]),
    "share": (["fit", *TINY, "--model.warmup=5"], 1, ["model.warmup is 5", "0 to 1"]),
    "null": (["fit", *TINY, "--model.momentum=null"], 1, ["model.momentum is null"]),
    "null of a callback": (["fit", *TINY, "--config", "null.yaml"], 1, ["checkpoints.keep_last is null"]),
    "threshold": (["fit", *TINY, "--guard.threshold=0"], 1, ["guard.threshold is 0", "a number above 0"]),
    "window": (["fit", *TINY, "--guard.window=0"], 1, ["guard.window is 0", "1 or more"]),
    "action": (["fit", *TINY, "--guard.on_spike=stop"], 2, ["guard.on_spike", "rollback", "stop"]),
    "statistics": (["fit", *TINY, "--statistics.every_n_steps=0"], 1, ["statistics.every_n_steps is 0"]),
    "heads": (
        ["fit", *TINY, "--model.gpt={n_heads: 4, n_kv_heads: 3}"],
        1,
        ["n_heads 4", "not divisible by n_kv_heads 3"],
    ),
    "class": (["fit", *TINY, "--model=PretrainModul"], 2, ["PretrainModul", "PretrainModule"]),
    "config": (["fit", "--config", "quickstrat"], 1, ["quickstrat", "did you mean 'quickstart'"]),
    "damaged config": (["fit", "--config", "damaged.yaml"], 1, ["damaged.yaml", "not valid YAML", "line 2"]),
    "binary config": (["fit", "--config", "binary.txt"], 1, ["binary.txt", "YAML"]),
    "folder as config": (["fit", "--config", "texts"], 1, ["texts is a folder", "config.yaml"]),
    "no config": (["fit", "--config", "short.txt"], 1, ["short.txt", "no keys"]),
    "choice": (["fit", *TINY, "--model.optimizer=adam"], 2, ["optimizer", "adamw", "muon", "adam"]),
    "checkpoint": (["fit", *TINY, "--ckpt_path=none.ckpt"], 1, ["none.ckpt", "no such file"]),
    "no last run": (["fit", *TINY, "--name=new", "--ckpt_path=last"], 1, ["no run called 'new'"]),
    "damaged checkpoint": (["fit", *TINY, "--ckpt_path=short.txt"], 1, ["short.txt", "not a readable checkpoint"]),
    "no checkpoint": (["validate", *TINY], 1, ["--ckpt_path"]),
    "no budget": (["fit", *TINY, "--model.max_tokens=null"], 1, ["max_tokens", "max_steps"]),
    "missing path": (["fit", *TINY, "--data.sources=[nowhere.txt]"], 1, ["nowhere.txt"]),
    "undecodable path": (["prepare", *TINY, "--data.sources=[a\udcff.txt]"], 2, ["[a\\xff.txt]", "not valid UTF-8"]),
    "glob": (["prepare", *TINY, "--data.sources=[nowhere/*.txt]"], 1, ["nowhere/*.txt"]),
    "empty file": (["prepare", *TINY, "--data.sources=[empty.txt]"], 1, ["empty"]),
    "binary": (["prepare", *TINY, "--data.sources=[binary.txt]"], 1, ["binary.txt"]),
    "invalid UTF-8": (
        ["prepare", *TINY, "--data.sources=[latin.txt]", "--data.encoding_errors=strict"],
        1,
        ["latin.txt", "UTF-8"],
    ),
    "text field": (["prepare", *TINY, "--data.sources=[other.jsonl]"], 1, ["other.jsonl", "text", "content"]),
    "bad lines": (
        ["prepare", *TINY, "--data.sources=[broken.jsonl]", "--data.text_field=content"],
        1,
        ["broken.jsonl", "4"],
    ),
    "vocabulary": (["prepare", *TINY, "--data.vocab_size=30000"], 1, ["30000", "vocab_size"]),
    "huge vocabulary": (
        ["prepare", *TINY, "--data.vocab_size=5000000000"],
        1,
        ["vocab_size is 5,000,000,000", "bytes"],
    ),
    "huge model": (["fit", *TINY, "--model.gpt={d_model: 100000000}"], 1, ["out of memory", "make the model smaller"]),
    "devices": (["fit", *TINY, "--trainer.devices=-3"], 1, ["trainer: `devices`", "int > 0"]),
    "accelerator": (["fit", *TINY, "--trainer.accelerator=gppu"], 1, ["trainer: ", "'gppu'", "cuda"]),
    "small corpus": (["fit", *TINY, "--data.global_batch_tokens=327680"], 1, ["global_batch_tokens"]),
    "prompt option": (["generate", "--checkpoint", "x", "--promt", "y"], 2, ["--promt", "did you mean '--prompt'"]),
    "no model": (["generate", "--checkpoint", "nothing", "--prompt", "y"], 1, ["no checkpoint at nothing"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_sentence(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    # In this process, which spares the imports; the test below asks the same of a process of its own.
    arguments, code, parts = CASES[case]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["llm", *arguments])
    try:
        got = main(arguments)
    except SystemExit as stopped:
        got = stopped.code
    error = capfd.readouterr().err
    assert_one_sentence(got, error, code, *parts)
    assert not list(folder.glob("runs/*")), "a run that never began left a folder"


# Options of the data in the wrong place or with a wrong name, and the one that is meant.
MISTYPED = {
    "--data.languges=[en]": "--data.curation.languages",
    "--data.curation.languges=[en]": "--data.curation.languages",
    "--data.near_duplicates=0.7": "--data.curation.near_duplicates",
    "--data.curatoin.pii=[email]": "--data.curation.pii",
    "--data.minhash.bands=3": "--data.curation.minhash.bands",
    "--data.curation.minhash.bnds=3": "--data.curation.minhash.bands",
    # Keys with nothing in them, which the parser would pass over.
    "--data.filters={c4: {}}": "--data.curation.filters",
    "--data.curation.filter={c4: {}}": "--data.curation.filters",
    "--data.curation={filter: {}}": "--data.curation.filters",
    "--data.lr=1": "--model.lr",
}

# Settings of the data that cannot be, the exit code, and what the sentence must say.
REFUSED = {
    "--data.context_length=-1": (1, ["context_length is -1", "1 or more"]),
    "--data.num_workers=-1": (1, ["num_workers is -1", "0 or more"]),
    "--data.tokenizer_sample_bytes=0": (1, ["tokenizer_sample_bytes is 0"]),
    "--data.text_field=null": (1, ["data.text_field is null", "leave it out"]),
    "--data={init_args: {curation: {minhash: {bands: null}}}}": (1, ["data.curation.minhash.bands is null"]),
    "--seed_everything=-1": (1, ["seed_everything is -1", "0 to 4294967295"]),
    "--data.workers=0": (1, ["workers is 0", "1 or more"]),
    "--data.engine=spark": (2, ["engine", "'local', 'ray'", "spark"]),
    "--data.validation_fraction=1.5": (1, ["validation_fraction is 1.5"]),
    "--data.curation.near_duplicates=2": (1, ["near_duplicates is 2", "null for none"]),
    "--data.curation.near_duplicates=high": (2, ["near_duplicates: it must be float or null (given: high)"]),
    "--data.curation.duplicate_lines=word": (2, ["duplicate_lines: it must be one of 'line', 'paragraph' or null"]),
    "--data.curation.max_removed=-1": (1, ["max_removed is -1"]),
    "--data.curation.benchmark_words=0": (1, ["benchmark_words is 0"]),
    "--data.curation.benchmarks=[nowhere.jsonl]": (1, ["benchmark nowhere.jsonl cannot be read"]),
    "--data.curation.languages=[xx]": (1, ["languages names 'xx'", "ISO 639-1"]),
    "--data.curation.languages=[]": (1, ["languages is empty", "null"]),
    "--data.curation.filters={nonsense: {}}": (1, ["filters.nonsense", "no such preset"]),
    "--data.curation.pii=[foo]": (2, ["pii", "'email'", "foo"]),
    "--data.curation.weights={texts: -1}": (1, ["the weight of texts is -1"]),
    "--data.curation.weights={txts: 1}": (1, ["weights names 'txts', which is no source", "'texts'"]),
    "--data.curation.minhash={bands: 0}": (1, ["bands is 0"]),
}


@pytest.mark.parametrize("option", [*MISTYPED, *REFUSED])
def test_a_setting_of_the_data_that_cannot_be_is_refused_before_anything_is_written(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    write_texts(tmp_path, documents=2)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    arguments = ["prepare", *TINY, option]
    monkeypatch.setattr(sys, "argv", ["llm", *arguments])
    try:
        got = main(arguments)
    except SystemExit as stopped:
        got = stopped.code
    code, parts = REFUSED.get(option) or (2, [f"did you mean '{MISTYPED[option]}'?"])
    assert_one_sentence(got, capfd.readouterr().err, code, *parts)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("case", ["command", "option", "missing path"])
def test_the_exit_code_is_that_of_the_process(case: str, folder: Path):
    arguments, code, parts = CASES[case]
    done = llm(*arguments, folder=folder)
    assert_one_sentence(done.returncode, done.stderr, code, *parts)


def test_help_is_quick_and_names_what_there_is(folder: Path):
    done = llm("--help", folder=folder)
    assert done.returncode == 0
    for word in ("fit", "prepare", "generate", "quickstart"):
        assert word in done.stdout


@pytest.mark.parametrize("command", ["prepare", "fit"])
def test_ctrl_c_while_preparing_leaves_no_folder_that_looks_complete(command: str, tmp_path: Path):
    write_texts(tmp_path, documents=3000)
    begun = lambda: (tmp_path / "data").exists() and any((tmp_path / "data").iterdir())  # noqa: E731
    code, output = llm_until(command, *TINY, folder=tmp_path, ready=begun, stop=signal.SIGINT)
    assert code == 130, output
    assert "Traceback" not in output
    assert not list(tmp_path.glob("runs/*")), "a run that never began left a folder"
    done = llm("prepare", *TINY, folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_for_the_output_is_said_in_one_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llm", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, env=environment()
        )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_a_run_folder_that_cannot_be_written_is_said_in_one_sentence(folder: Path, tmp_path: Path):
    blocked = tmp_path / "runs"
    blocked.write_text("a file where the folder should be")
    done = llm("fit", *TINY, f"--runs={blocked}", folder=folder)
    assert_one_sentence(done.returncode, done.stderr, 1, str(blocked))


def test_a_broken_pipe_is_no_traceback(folder: Path):
    command = f"{sys.executable} -m llm --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment(), cwd=folder)
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("usage")
