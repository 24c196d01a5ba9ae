"""A conversation in a terminal or a pipe: what is typed, what is shown, and the words that begin with a slash."""

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from llm.configuration import nearest
from llm.errors import UserError
from llm.generation.chat import Chat
from llm.model.adapters import use_adapter

KEPT_LINES = 1000  # of what was typed, between two conversations
HELP = {
    "/reset": "begin anew; the system message stays",
    "/system TEXT": "begin anew with another system message; without TEXT with none",
    "/regenerate": "write the last answer anew",
    "/save FILE": "write the conversation as JSON, as a record for training",
    "/help": "this",
    "/exit": "end (Ctrl-D does as well)",
}
ADAPTER_HELP = {"/adapter NAME": "answer with another adapter; `base` is the model without any"}
PROMPT = "\001\033[1;36m\002> \001\033[0m\002"  # what is between \001 and \002 takes no room on the screen


def talk(chat: Chat, adapters: Sequence[str] = (), read: Callable[[str], str] = input) -> None:
    """Read what is typed and show the answers, until the end of input or /exit.

    Ctrl-C while an answer is written ends that answer, and at the prompt it drops what was typed; twice it ends.
    """
    console = Console(highlight=False, soft_wrap=True)
    keep_history()
    console.print("Type a message; /help shows what else there is, Ctrl-D ends.", style="dim")
    commands = Commands(chat, adapters, console)
    interrupted = False
    while True:
        try:
            typed = _read_message(read)
            interrupted = False
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print()
            if interrupted:
                return
            interrupted = True
            console.print("Ctrl-C again ends; so does Ctrl-D.", style="dim")
            continue
        if not typed.strip():
            continue
        try:
            answer = commands.run(typed) if typed.startswith("/") else chat.say(typed)
            if answer is not None:
                show(chat, answer, console)
        except UserError as error:
            console.print(Text(str(error), style="red"))
        except EOFError:
            return


def answer_lines(chat: Chat, adapters: Sequence[str], lines: Iterable[str]) -> None:
    """Answer each line as it comes: standard output gets the answers alone, standard error what else is told."""
    commands = Commands(chat, adapters, Console(stderr=True, highlight=False, soft_wrap=True))
    empty = True
    for line in filter(str.strip, lines):
        empty = False
        try:
            answer = commands.run(line) if line.startswith("/") else chat.say(line)
        except EOFError:
            return
        if answer is not None:
            write(answer)
    if empty:
        raise UserError("standard input holds no message: write one a line")


def write(answer: Iterable[str]) -> None:
    """Write an answer on standard output while it comes."""
    for piece in answer:
        sys.stdout.write(printable(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()


def show(chat: Chat, answer: Iterator[str], console: Console) -> None:
    """Print an answer while it is written, and what there is to say of it."""
    try:
        for piece in answer:
            console.print(Text(printable(piece)), end="")
    except KeyboardInterrupt:
        answer.close()  # type: ignore[attr-defined]  # it is a generator, which then keeps what was written
        console.print(Text(" (interrupted)", style="dim"), end="")
    if chat.finish_reason == "length":
        console.print(Text(f" (cut at {chat.max_new_tokens} tokens or the end of the context)", style="dim"), end="")
    console.print()
    if chat.forgotten:
        told = f"(the context is full: the model no longer sees the first {chat.forgotten} turns; /reset begins anew)"
        console.print(Text(told, style="dim"))


class Commands:
    """What the words that begin with a slash do."""

    def __init__(self, chat: Chat, adapters: Sequence[str], console: Console) -> None:
        self.chat, self.adapters, self.console = chat, adapters, console

    def run(self, typed: str) -> Iterator[str] | None:
        """Do what was typed; the answer that it gives, or None. EOFError for what ends the conversation."""
        word, _, rest = typed.strip().partition(" ")
        rest = rest.strip()
        several = len(self.adapters) > 1
        match word:
            case "/exit" | "/quit":
                raise EOFError
            case "/help":
                for name, meaning in {**HELP, **(ADAPTER_HELP if several else {})}.items():
                    self.console.print(f"  [bold]{name:<14}[/] {meaning}")
            case "/reset":
                self.chat.reset()
                self._tell("the conversation begins anew")
            case "/system":
                self.chat.set_system(rest)
                self._tell("the conversation begins anew" + (" with this system message" if rest else ""))
            case "/regenerate":
                return self.chat.regenerate()
            case "/save":
                if not rest:
                    raise UserError("/save wants the name of a file: /save conversation.json")
                self.chat.save(Path(rest).expanduser())
                self._tell(f"saved: {rest}")
            case "/adapter" if several:
                if rest not in ("base", *self.adapters):
                    there = ", ".join(["base", *self.adapters])
                    raise UserError(f"no adapter {rest!r} (there are: {there}){nearest(rest, self.adapters)}")
                use_adapter(self.chat.model, None if rest == "base" else rest)
                self._tell(f"answers come from {rest}")
            case _:
                known = [name.split()[0] for name in HELP]
                raise UserError(f"no command {word!r}{nearest(word, known) or ' (/help lists them)'}")
        return None

    def _tell(self, text: str) -> None:
        self.console.print(Text(text, style="dim"))


def printable(text: str) -> str:
    """Text without the control characters that a terminal would obey; line ends and tabs stay."""
    return "".join(sign if sign in "\n\t" or sign.isprintable() or sign.isspace() else "\N{REPLACEMENT CHARACTER}"
                   for sign in text.replace("\r", ""))  # fmt: skip


def keep_history() -> None:
    """Let the arrow keys bring back what was typed, also in earlier conversations."""
    try:
        import readline
    except ImportError:  # not on Windows
        return
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "labyrinth"
    path = folder / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(KEPT_LINES)

    def write() -> None:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)

    atexit.register(write)


def _read_message(read: Callable[[str], str]) -> str:
    """What is typed; a line that ends in a backslash goes on in the next."""
    lines = [read(PROMPT)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        lines.append(read("  "))
    return "\n".join(lines)
