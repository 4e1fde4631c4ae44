"""The command line as plain data: what completions and the manual page are made from, so that
neither can say something else than `--help`."""

import argparse
from collections.abc import Iterator

import msgspec


class Option(msgspec.Struct, frozen=True):
    """An option, or a positional argument when `flags` is empty. `value` is the metavar of what it
    takes, empty for a switch; `many` says that it may be given several times."""

    flags: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    text: str
    required: bool
    many: bool


class Command(msgspec.Struct, frozen=True):
    """A command or a group of commands. `words` is how it is called, without the program's name;
    `usage` is argparse's, on one line."""

    words: tuple[str, ...]
    text: str
    usage: str
    options: tuple[Option, ...]
    arguments: tuple[Option, ...]
    commands: tuple["Command", ...]

    def walk(self) -> Iterator["Command"]:
        """This command and all below it."""
        yield self
        for command in self.commands:
            yield from command.walk()


def read_tree(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = (), text: str = ""
) -> Command:
    """The parser and all below it as data."""
    options: list[Option] = []
    arguments: list[Option] = []
    commands: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, below in action.choices.items():
                commands.append(read_tree(below, (*words, name), helps.get(name, "")))
        elif action.option_strings:
            options.append(_read_option(parser, action))
        else:
            arguments.append(_read_option(parser, action))
    usage = " ".join(parser.format_usage().split()).removeprefix("usage: ")
    return Command(
        words=words,
        text=text or parser.description or "",
        usage=usage,
        options=tuple(options),
        arguments=tuple(arguments),
        commands=tuple(commands),
    )


def _read_option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    choices = tuple(str(choice) for choice in action.choices or ())
    name = action.metavar if isinstance(action.metavar, str) else ""
    if action.nargs == 0:
        name = ""
    elif not name:
        name = "|".join(choices) or action.dest.upper().replace("_", "-")
    formatter = parser._get_formatter()
    return Option(
        flags=tuple(action.option_strings),
        value=name,
        choices=choices,
        text=formatter._expand_help(action) if action.help else "",
        required=action.required,
        many=action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction),
    )
