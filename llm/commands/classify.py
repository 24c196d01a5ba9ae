"""`python -m llm classify`: of which class a text is."""

import json
import sys
from pathlib import Path

from llm.commands.generate import prompt_from_input
from llm.commands.parser import CommandParser
from llm.errors import UserError

AT_ONCE = 32  # texts


def parser() -> CommandParser:
    """The options of `classify`."""
    options = CommandParser(
        "classify",
        "Tell of which class texts are, with a model that was trained to: one text with its probabilities in words, "
        "several as JSON lines.",
    )
    options.add_argument("--checkpoint", required=True, help="a .ckpt file, or the folder of a run (its best one)")
    texts = options.add_mutually_exclusive_group(required=True)
    texts.add_argument("--text", help="the text; - reads it from standard input")
    texts.add_argument("--file", help="a file of texts, one a line, or .jsonl with the field text")
    return options


def main(arguments: list[str]) -> int:
    """Print the classes."""
    options = parser().parse_args(arguments[1:])
    if options.file is not None:
        texts = texts_from_file(options.file)
    else:
        texts = [prompt_from_input() if options.text == "-" else options.text]
    if not all(text.strip() for text in texts):
        raise UserError("the text is empty: give some words")

    from llm.classifier import load_classifier
    from llm.host_memory import keep_freed_memory
    from llm.run import find_checkpoint

    keep_freed_memory()
    classifier = load_classifier(find_checkpoint(options.checkpoint))
    for first in range(0, len(texts), AT_ONCE):
        part = texts[first : first + AT_ONCE]
        for text, probabilities in zip(part, classifier.probabilities(part), strict=True):
            by_label = dict(sorted(probabilities.items(), key=lambda item: -item[1]))
            if options.file is None:
                print(classifier.named(probabilities))
                for label, value in by_label.items():
                    print(f"  {value:.4f}  {label}")
            else:
                said = {"text": text, "label": classifier.named(probabilities)}
                rounded = {label: round(value, 6) for label, value in by_label.items()}
                print(json.dumps({**said, "probabilities": rounded}, ensure_ascii=False))
    sys.stdout.flush()
    return 0


def texts_from_file(name: str) -> list[str]:
    """The texts that a file holds; UserError where it cannot be read or holds none."""
    path = Path(name)
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        texts = [json.loads(line)["text"] if path.suffix == ".jsonl" else line for line in lines]
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}): name a file of texts in --file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not valid UTF-8 at byte {error.start}; convert it first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name} has a line that is no JSON object with a text in the field 'text'; mend it") from error
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{name} holds no text: give it one a line")
    return texts
