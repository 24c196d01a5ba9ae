"""Where configuration files are found, and what is said of a name that is not."""

import difflib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from llm.errors import UserError

_HERE = Path(__file__).resolve().parent
_CONFIG_FLAGS = ("--config", "-c")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name closest to `name`, or an empty string where none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def shipped_configs() -> dict[str, Path]:
    """The configurations that come with Labyrinth, by name (`quickstart`, `pretrain/tinystories`, ...)."""
    # In a wheel they lie inside the package, in a checkout beside it.
    folder = next(f for f in (_HERE / "configs", _HERE.parent / "configs") if f.is_dir())
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def find_config(name: str) -> Path:
    """The file that `--config NAME` means: a path, or the name of a shipped configuration."""
    path = Path(name)
    if path.is_file():
        _check_yaml(path)
        return path
    shipped = shipped_configs()
    if name in shipped:
        return shipped[name]
    if name and path.is_dir():
        raise UserError(f"--config {name} is a folder; give a file in it (of a run: {path / 'config.yaml'})")
    raise UserError(
        f"--config {name}: there is no such file, and no shipped configuration of that name "
        f"(there are: {', '.join(shipped)}){nearest(name, shipped)}"
    )


def _check_yaml(path: Path) -> None:
    """UserError with file and line where the file cannot be a configuration."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path} is not valid YAML (line {line}: {error.problem}); mend it there") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not a text file; give a YAML file") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no keys with values; give a YAML file such as the shipped quickstart")


def resolve_config_flags(arguments: Sequence[str]) -> list[str]:
    """`arguments` with each `--config NAME` replaced by the path of the file that it means."""
    resolved: list[str] = []
    expecting = False
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if expecting:
            argument = str(find_config(argument))
        elif flag in _CONFIG_FLAGS and equals:
            argument = f"{flag}={find_config(value)}"
        expecting = not expecting and argument in _CONFIG_FLAGS
        resolved.append(argument)
    return resolved


def run_name(arguments: Sequence[str]) -> str:
    """The name of a run that was not given one: that of its (last) configuration file, or `run`."""
    paths = [after for before, after in pairwise(arguments) if before in _CONFIG_FLAGS]
    paths += [a.partition("=")[2] for a in arguments if a.partition("=")[0] in _CONFIG_FLAGS and "=" in a]
    if not paths:
        return "run"
    path = Path(paths[-1])
    # The configuration that a run left behind is always called config.yaml: its folder has the name.
    return path.parent.name if path.name == "config.yaml" else path.stem
