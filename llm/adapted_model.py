"""A model with adapters beside it, as it is used."""

import re
from collections.abc import Sequence
from pathlib import Path

from datamodules.text.tokenizer import Tokenizer
from llm.adapters import TrainedAdapter, adapter_of, demand_base
from llm.checkpoint import load_model, read_checkpoint
from llm.errors import UserError
from llm.interop.peft_files import CONFIG_FILE, read_adapter
from llm.model import GPT
from llm.model.adapters import merge_adapter, use_adapter
from llm.run import find_checkpoint


def open_with_adapters(checkpoint: str, given: Sequence[str]) -> tuple[GPT, Tokenizer, list[str]]:
    """The model of a checkpoint and its tokenizer, and the names of adapters beside it, the first of them in use.

    One adapter alone is merged, which is as fast as none.

    Args:
        checkpoint: a .ckpt, or the folder of a run.
        given: `NAME=PATH` or a path of each adapter, of a run, a checkpoint, or a folder of PEFT.

    Raises:
        UserError: one of them cannot be opened, or belongs to another model.
    """
    path = find_checkpoint(checkpoint)
    model, tokenizer = load_model(path)
    adapters = {}
    for word in given:
        name, place = _name_and_place(word)
        if name in adapters:
            raise UserError(
                f"--adapter {word}: there is an adapter called {name} already; name it: --adapter NAME=PATH"
            )
        adapters[name] = place, _read(place, model)
    weights = model.state_dict()
    for place, adapter in adapters.values():
        demand_base(adapter, weights, path, place)
    for name, (place, adapter) in adapters.items():
        adapter.add_to(model, name, place)
    names = list(adapters)
    if len(names) == 1:
        merge_adapter(model, names[0])
    elif names:
        use_adapter(model, names[0])
    return model.eval(), tokenizer, names


def _name_and_place(word: str) -> tuple[str, Path]:
    name, equals, place = word.partition("=")
    if equals and re.fullmatch(r"[\w-]+", name):
        return name, Path(place)
    path = Path(word)
    named = path.parent.parent if path.suffix == ".ckpt" and path.parent.name == "checkpoints" else path
    return re.sub(r"[^\w-]", "-", named.stem) or "adapter", path


def _read(place: Path, model: GPT) -> TrainedAdapter:
    if (place / CONFIG_FILE).is_file():
        return TrainedAdapter(*read_adapter(place, model.config))
    path = find_checkpoint(place)
    adapter = adapter_of(read_checkpoint(path, without=("optimizer_states",)))
    if adapter is None:
        raise UserError(f"{path} holds a whole model and no adapter: give it with --checkpoint")
    return adapter
