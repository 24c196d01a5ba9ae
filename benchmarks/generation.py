"""Tokens/s of writing at batch 1, 8 and 32, against transformers and litgpt with the same weights, in one run.

    python benchmarks/generation.py [--peers DIR] [--shape 120m] [--rounds 5] [--threads 2] [--sample]

DIR/litgpt is an environment of litgpt's own, with the version of torch that runs here (for a CPU: 2.13.0+cpu):

    python -m venv DIR/litgpt && DIR/litgpt/bin/pip install torch==VERSION litgpt

Without DIR it is left out. transformers comes with the `test` extra; it runs with its default cache, which grows, and
with its static one. Prompts are random ids, and reading them counts. Every round times one text of each contestant at
each batch, so that a busy machine slows all of them alike; medians count. With more threads than idle cores, the
numbers of every contestant are worth nothing: OpenMP's threads wait for each other after each matrix product.

The weights are random, but larger than a model starts with: then the likeliest token leads by a margin, greedy texts
are the same whatever the order of summation, and "same texts" counts those like ours. A text may part from ours only
where our model's logits of the two tokens are equal up to rounding; anything else ends the run.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from rich.console import Console
from rich.table import Table

from llm.generation import generate, generate_batch
from llm.host_memory import keep_freed_memory
from llm.interop.families import expressing
from llm.interop.safetensors_files import write_shards
from llm.interop.weights import written_weights
from llm.model import GPT, GPTConfig, fuse_projections

ROOT = Path(__file__).resolve().parents[1]
LITGPT_SCRIPT = Path(__file__).with_name("generation_litgpt_peer.py")
SHAPES = {"quickstart": 200, "30m": 128, "120m": 128}  # and the tokens to write
PROMPT = 32  # tokens
UNEQUAL = (4, 60)  # tokens of the shortest and the longest of unequal prompts
GAIN = 1.5  # of each matrix of weights: a row's norm
TIES = {"float32": 1e-5, "bfloat16": 0.05}  # difference of two logits, as a share of the largest, that is rounding
SAMPLING = {"temperature": 0.8, "top_k": 50}
OURS, OURS_UNEQUAL = "Labyrinth", "Labyrinth, unequal prompts"

Texts = list[list[int]]
Contestant = Callable[[Texts, int, bool], tuple[float, Texts]]  # prompts, new tokens, sampled → seconds, new ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder with the environment `litgpt`")
    parser.add_argument("--shape", choices=SHAPES, help="default: all")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=TIES, default="float32")
    parser.add_argument("--sample", action="store_true", help=f"draw tokens, with {SAMPLING}, instead of greedy texts")
    arguments = parser.parse_args()
    keep_freed_memory()  # as `generate` does; it serves transformers too
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    console = Console(width=max(120, Console().width))
    for shape in [arguments.shape] if arguments.shape else SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            console.print(compare(shape, arguments, Path(folder)))


def compare(shape: str, arguments: argparse.Namespace, folder: Path) -> Table:
    """Time every contestant at one shape."""
    model = build_model(shape).to(arguments.device, getattr(torch, arguments.dtype))
    contestants = {OURS: ours(model), **build_transformers(model)}
    batches, n_new = arguments.batches, SHAPES[shape]
    prompts = {batch: random_prompts(model.config, [PROMPT] * batch) for batch in batches}
    unequal = random_prompts(model.config, unequal_lengths(model.config, max(batches), n_new))
    seconds: dict[tuple[str, int], list[float]] = {}
    with contextlib.ExitStack() as stack:
        if arguments.peers:
            write_files(model, folder)
            contestants["litgpt"] = litgpt(stack.enter_context(start_litgpt(arguments, folder)), model)
        # Warms up as well.
        same = {name: check(model, contestants[OURS], other, prompts, n_new) for name, other in contestants.items()}
        for _ in range(arguments.rounds):
            for batch in batches:
                for name, contestant in contestants.items():
                    taken, texts = contestant(prompts[batch], n_new, arguments.sample)
                    assert [len(text) for text in texts] == [n_new] * batch, name
                    seconds.setdefault((name, batch), []).append(taken)
            taken, _ = contestants[OURS](unequal, n_new, arguments.sample)
            seconds.setdefault((OURS_UNEQUAL, max(batches)), []).append(taken)
    rates = {(name, batch): batch * n_new / statistics.median(taken) for (name, batch), taken in seconds.items()}
    return show(describe(shape, model, arguments), rates, same, batches)


def show(title: str, rates: dict[tuple[str, int], float], same: dict[str, str], batches: list[int]) -> Table:
    """Contestants down, batches across."""
    small, large = min(batches), max(batches)
    if large > small:
        factor = rates[OURS, large] / rates[OURS, small]
        title += f"\nbatch {large} writes {factor:.1f} times the tokens/s of batch {small}"
    table = Table(title=title, title_justify="left")
    table.add_column("tokens/s", no_wrap=True)
    for batch in batches:
        table.add_column(f"batch {batch}", justify="right")
        table.add_column("ours / it", justify="right")
    table.add_column("same texts", justify="right")
    for name in dict.fromkeys(name for name, _ in rates):
        cells = []
        for batch in batches:
            rate = rates.get((name, batch))
            cells += ["", ""] if rate is None else [f"{rate:,.0f}", f"{rates[OURS, batch] / rate:.2f}"]
        table.add_row(name, *cells, same.get(name, ""))
    return table


def build_model(shape: str, seed: int = 0) -> GPT:
    """Our model of that shape with random weights."""
    config = quickstart() if shape == "quickstart" else GPTConfig.preset(shape)
    model = GPT(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # of a norm
                weight.uniform_(0.5, 1.5, generator=generator)
            else:
                weight.normal_(0, GAIN * weight.shape[1] ** -0.5, generator=generator)
    fuse_projections(model)  # as `generate` does
    return model.requires_grad_(False)


def quickstart() -> GPTConfig:
    recipe = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    settings = recipe["model"]["init_args"]
    return GPTConfig.preset(settings["preset"], **settings["gpt"])


def random_prompts(config: GPTConfig, lengths: list[int]) -> Texts:
    generator = torch.Generator().manual_seed(len(lengths))
    return [torch.randint(config.vocab_size, (length,), generator=generator).tolist() for length in lengths]


def unequal_lengths(config: GPTConfig, batch: int, n_new: int) -> list[int]:
    """From the shortest to the longest in even steps; with the new tokens, all fit in the context."""
    shortest, longest = UNEQUAL
    longest = min(longest, config.context_length - n_new)
    return [shortest + (longest - shortest) * row // max(1, batch - 1) for row in range(batch)]


def ours(model: GPT) -> Contestant:
    """`generate` for one prompt, `generate_batch` for several."""

    def write(prompts: Texts, n_new: int, sampled: bool) -> Texts:
        settings: dict[str, Any] = SAMPLING if sampled else {"temperature": 0}
        if len(prompts) == 1:
            return [list(generate(model, prompts[0], n_new, **settings))]
        samples = generate_batch(model, prompts, n_new, batch_size=len(prompts), **settings)
        return [continuation.tokens for (continuation,) in samples]

    return timed(write)


def build_transformers(model: GPT) -> dict[str, Contestant]:
    """transformers' model with our weights, once for each of its caches."""
    family = expressing(model.config)
    values = family.write(model.config)
    architecture: Any = getattr(transformers, family.architecture)
    config = architecture.config_class(**values)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        theirs = architecture(config)
    theirs.to_empty(device="cpu")
    weights = dict(written_weights(family, model.config, {name: w.cpu() for name, w in model.state_dict().items()}))
    _, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    theirs.tie_weights()
    device = model.embedding.weight.device
    theirs = theirs.eval().to(device, model.embedding.weight.dtype)
    # The frequencies of RoPE are no weight, so they were left empty; they stay float32, as `from_pretrained` has it.
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config).to(device)
    assert sum(weight.numel() for weight in theirs.parameters()) == model.config.n_parameters()

    def writing(cache: str | None) -> Contestant:
        def write(prompts: Texts, n_new: int, sampled: bool) -> Texts:
            settings: dict[str, Any] = {"do_sample": sampled, **(SAMPLING if sampled else {})}
            tokens = torch.tensor(prompts, device=device)
            with torch.inference_mode():
                texts = theirs.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    max_new_tokens=n_new,
                    min_new_tokens=n_new,
                    use_cache=True,
                    cache_implementation=cache,
                    pad_token_id=0,
                    **settings,
                )
            return texts[:, tokens.shape[1] :].tolist()

        return timed(write)

    return {"transformers": writing(None), "transformers, static cache": writing("static")}


def timed(write: Callable[[Texts, int, bool], Texts]) -> Contestant:
    def contestant(prompts: Texts, n_new: int, sampled: bool) -> tuple[float, Texts]:
        start = time.perf_counter()
        texts = write(prompts, n_new, sampled)  # as lists of numbers: on a GPU too, all is done when they are there
        return time.perf_counter() - start, texts

    return contestant


def write_files(model: GPT, folder: Path) -> None:
    """What LITGPT_SCRIPT reads."""
    family = expressing(model.config)
    weights = {name: weight.cpu() for name, weight in model.state_dict().items()}
    write_shards(folder, written_weights(family, model.config, weights))
    (folder / "config.json").write_text(json.dumps(family.write(model.config)), encoding="utf-8")


def start_litgpt(arguments: argparse.Namespace, folder: Path) -> subprocess.Popen[str]:
    """A process of litgpt's environment; it idles while others are timed."""
    python = arguments.peers / "litgpt" / "bin" / "python"
    if not python.exists():
        sys.exit(f"there is no {python}: make litgpt's environment as --help says, or leave out --peers")
    command = [python, LITGPT_SCRIPT, folder, str(arguments.threads), arguments.device, arguments.dtype]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def litgpt(process: subprocess.Popen[str], model: GPT) -> Contestant:
    """litgpt times itself, so that the way of requests and answers does not count."""
    requests, answers = process.stdin, process.stdout
    assert requests is not None
    assert answers is not None

    def answer() -> dict[str, Any]:
        line = answers.readline()
        if not line:
            sys.exit(f"litgpt's process ended with {process.wait()}")
        content: dict[str, Any] = json.loads(line)
        return content

    def contestant(prompts: Texts, n_new: int, sampled: bool) -> tuple[float, Texts]:
        request = {"prompts": prompts, "n_new": n_new, "sampling": SAMPLING if sampled else {"temperature": 0.0}}
        requests.write(json.dumps(request) + "\n")
        requests.flush()
        content = answer()
        return content["seconds"], content["texts"]

    built = answer()
    assert built["parameters"] == model.config.n_parameters()
    if built["torch"] != torch.__version__:
        sys.exit(f"litgpt's environment has torch {built['torch']}, this one {torch.__version__}: give both the same")
    return contestant


def check(model: GPT, our: Contestant, contestant: Contestant, prompts: dict[int, Texts], n_new: int) -> str:
    """How many greedy texts are the same as ours; ends the run where one parts from ours without a tie."""
    same = total = 0
    for rows in prompts.values():
        pairs = zip(rows, our(rows, n_new, False)[1], contestant(rows, n_new, False)[1], strict=True)
        for prompt, wanted, got in pairs:
            same += wanted == got
            total += 1
            if wanted != got:
                demand_tie(model, prompt, wanted, got)
    return f"{same} of {total}"


def demand_tie(model: GPT, prompt: list[int], wanted: list[int], got: list[int]) -> None:
    assert len(wanted) == len(got)
    place = next(place for place, (ours, theirs) in enumerate(zip(wanted, got, strict=True)) if ours != theirs)
    device = model.embedding.weight.device
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + wanted[:place]], device=device))[0, -1].float()
    gap = float((logits[wanted[place]] - logits[got[place]]).abs() / logits.abs().max())
    if gap > TIES[str(model.embedding.weight.dtype).removeprefix("torch.")]:
        ids = f"{wanted[place]} with us and {got[place]} there"
        sys.exit(f"token {place} is {ids}, and their logits are {gap:.1e} of the largest apart")


def describe(shape: str, model: GPT, arguments: argparse.Namespace) -> str:
    config, drawn = model.config, f"drawn with {SAMPLING}" if arguments.sample else "greedy"
    longest = unequal_lengths(config, max(arguments.batches), SHAPES[shape])[-1]
    return (
        f"{shape}: {config.n_parameters():,} parameters, {config.n_layers} layers, width {config.d_model}, vocabulary "
        f"{config.vocab_size}, {arguments.dtype}, {arguments.device}, threads {torch.get_num_threads()}\n"
        f"{SHAPES[shape]} tokens, {drawn}, after prompts of {PROMPT} (unequal: {UNEQUAL[0]} to {longest})"
    )


if __name__ == "__main__":
    main()
