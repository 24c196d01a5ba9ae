"""`python -m llm generate`: continue a prompt."""

import json
import sys
from pathlib import Path

from llm.commands.parser import CommandParser
from llm.commands.sampling_options import add_adapter_option, add_sampling_options, sampling_settings
from llm.errors import UserError


def parser() -> CommandParser:
    """The options of `generate`."""
    options = CommandParser(
        "generate",
        "Continue a prompt with a trained model: one text as it is written, on standard output; several as JSON lines.",
    )
    options.add_argument("--checkpoint", required=True, help="a .ckpt file, or the folder of a run (its best one)")
    prompt = options.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="the text to continue; - reads it from standard input")
    prompt.add_argument("--prompts", help="a file of prompts: one a line, or .jsonl with the field prompt")
    add_adapter_option(options)
    add_sampling_options(options, max_new_tokens=200, most="tokens to write at most")
    options.add_argument("--stop", action="append", default=[], help="end a text before this; can be given repeatedly")
    options.add_argument("--n_samples", type=int, default=1, help="texts for each prompt; the next has the next seed")
    options.add_argument("--batch_size", type=int, default=32, help="texts written at once")
    options.add_argument(
        "--logprobs", action="store_true", help="write JSON lines, with every token's log-probability in nats"
    )
    return options


def prompt_from_input() -> str:
    """What standard input holds; UserError where that is no text."""
    try:
        prompt = sys.stdin.read()
        prompt.encode()  # in some locales Python lets bytes through that are no UTF-8
    except UnicodeError as error:
        raise UserError("the prompt from standard input is not valid UTF-8; convert it first") from error
    return prompt


def prompts_from_file(name: str) -> list[str]:
    """The prompts that a file holds; UserError where it cannot be read or a line holds none."""
    path = Path(name)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}): name a file of prompts in --prompts") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not valid UTF-8 at byte {error.start}; convert it first") from error
    if path.suffix in (".jsonl", ".ndjson"):
        prompts = [_prompt_of(line, f"{name}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    else:
        prompts = [line for line in lines if line]
    if not prompts:
        raise UserError(f"{name} holds no prompt: give it one a line")
    return prompts


def _prompt_of(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg}); mend it there") from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f"{where} has no text in a field 'prompt'; give each line one")
    prompt: str = row["prompt"]
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: the prompt holds half of a surrogate pair, which is no text; mend it there"
        ) from error
    return prompt


def main(arguments: list[str]) -> int:
    """Stream the continuation of the prompt, the prompt first; or write those of several as JSON lines."""
    options = parser().parse_args(arguments[1:])
    if options.prompts is not None:
        prompts = prompts_from_file(options.prompts)
    else:
        prompts = [prompt_from_input() if options.prompt == "-" else options.prompt]

    from llm.adapted_model import open_with_adapters
    from llm.generation import continue_text, continue_texts
    from llm.host_memory import keep_freed_memory
    from llm.model import fuse_projections
    from llm.model.adapters import use_adapter

    keep_freed_memory()  # weights in huge pages: a tenth faster, where reading them is what takes the time
    model, tokenizer, adapters = open_with_adapters(options.checkpoint, options.adapter)
    fuse_projections(model)
    settings = {**sampling_settings(options), "stop": options.stop}
    several = len(adapters) > 1
    if options.prompts is None and options.n_samples == 1 and not options.logprobs and not several:
        pieces = continue_text(model, tokenizer, prompts[0], **settings)
        sys.stdout.write(prompts[0])
        for text in pieces:
            sys.stdout.write(text)
            sys.stdout.flush()
        sys.stdout.write("\n")
        return 0
    settings |= {name: getattr(options, name) for name in ("n_samples", "batch_size", "logprobs")}
    for adapter in adapters if several else [None]:
        if adapter is not None:
            use_adapter(model, adapter)
        for number, sample, written in continue_texts(model, tokenizer, prompts, **settings):
            row = {"prompt": prompts[number], "number": number, "sample": sample}
            if adapter is not None:
                row["adapter"] = adapter
            row |= {"text": written.text, "finish_reason": written.finish_reason, "n_tokens": len(written.tokens)}
            if options.logprobs:
                row |= {"tokens": written.tokens, "logprobs": written.logprobs}
            print(json.dumps(row, ensure_ascii=False), flush=True)
    return 0
