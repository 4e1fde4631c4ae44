"""`completion bash|zsh|fish`: completions, written from the parser's own tree.

Our own few lines and no library: the tree is small, and what completes runs in the operator's
shell, with no call of the appliance and no file read.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Final

from appliance.cli import build_parser
from appliance.commands.tree import Command, Option, read_tree
from appliance.errors import Exit

#: Metavars of values that are paths; of a folder alone.
_PATHS: Final = frozenset({"FILE", "PATH"})
_FOLDERS: Final = frozenset({"DIR"})


def completion(args: argparse.Namespace) -> Exit:
    """`appliance completion SHELL`."""
    sys.stdout.write(SHELLS[args.shell](read_tree(build_parser())))
    return Exit.DONE


def quote(text: str) -> str:
    """One word of a POSIX shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def _plain(text: str) -> str:
    return " ".join(text.split())


# -- bash ------------------------------------------------------------------------------------------


def write_bash(tree: Command) -> str:
    """A completion for bash 4 and later: `source <(appliance completion bash)`."""
    known = "|".join(quote(" ".join(c.words)) for c in tree.walk() if c.words)
    cases = "".join(_write_bash_case(command) for command in tree.walk())
    return f"""# bash completion for appliance: source <(appliance completion bash)
_appliance_words() {{ mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur"); }}
_appliance_paths() {{
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen "$1" -- "$cur")
}}
_appliance() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} at='' i
    COMPREPLY=()
    # Bash makes three words of --option=value.
    if [[ $cur == = ]]; then cur=''
    elif [[ $prev == = ]]; then prev=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${{at:+$at }}${{COMP_WORDS[i]}}" in
            {known}) at="${{at:+$at }}${{COMP_WORDS[i]}}" ;;
        esac
    done
    case "$at" in
{cases}    esac
}}
complete -F _appliance appliance
"""


def _write_bash_case(command: Command) -> str:
    valued = [option for option in command.options if option.value]
    lines = [f"        {quote(' '.join(command.words))})"]
    if valued:
        lines.append('            case "$prev" in')
        for option in valued:
            flags = "|".join(option.flags)
            lines.append(f"                {flags}) {_bash_value(option)}; return ;;")
        lines.append("            esac")
    flags = " ".join(flag for option in command.options for flag in option.flags)
    lines.append(f'            if [[ $cur == -* ]]; then _appliance_words "{flags}"; return; fi')
    if command.commands:
        names = " ".join(below.words[-1] for below in command.commands)
        lines.append(f'            _appliance_words "{names}" ;;')
    elif command.arguments:
        lines.append(f"            {_bash_value(command.arguments[-1])} ;;")
    else:
        lines.append("            ;;")
    return "\n".join(lines) + "\n"


def _bash_value(option: Option) -> str:
    if option.choices:
        return f'_appliance_words "{" ".join(option.choices)}"'
    if option.value in _PATHS:
        return "_appliance_paths -f"
    return "_appliance_paths -d" if option.value in _FOLDERS else ":"


# -- zsh -------------------------------------------------------------------------------------------


def write_zsh(tree: Command) -> str:
    """A completion for zsh: into a file `_appliance` of a folder in $fpath."""
    functions = "\n".join(_write_zsh_function(command) for command in tree.walk())
    return f'#compdef appliance\n\n{functions}\n_appliance "$@"\n'


def _write_zsh_function(command: Command) -> str:
    name = _zsh_name(command)
    arguments = [*command.options, *command.arguments]
    told = " \\\n        ".join(quote(spec) for o in arguments for spec in _zsh_specs(o))
    if not command.commands:
        return f"{name}() {{\n    _arguments -s \\\n        {told}\n}}\n"
    listed = "\n        ".join(
        quote(f"{below.words[-1]}:{_plain(below.text)}") for below in command.commands
    )
    cases = "\n".join(
        f"            {below.words[-1]}) {_zsh_name(below)} ;;" for below in command.commands
    )
    return f"""{name}() {{
    local -a commands=(
        {listed}
    )
    if (( CURRENT == 2 )) && [[ $words[2] == -* ]]; then
        _arguments -s \\
        {told}
    elif (( CURRENT == 2 )); then
        _describe command commands
    else
        shift words
        (( CURRENT-- ))
        case $words[1] in
{cases}
        esac
    fi
}}
"""


def _zsh_name(command: Command) -> str:
    return "_".join(("_appliance", *command.words))


def _zsh_specs(option: Option) -> Iterator[str]:
    """`_arguments` specifications: of zshcompsys(1)."""
    text = _plain(option.text).replace("[", "(").replace("]", ")").replace(":", ",")
    action = "( )"
    if option.choices:
        action = f"({' '.join(option.choices)})"
    elif option.value in _PATHS:
        action = "_files"
    elif option.value in _FOLDERS:
        action = "_files -/"
    value = option.value.replace(":", ",")
    if not option.flags:
        yield f"{'*' if option.many else ''}:{value}:{action}"
    for flag in option.flags:
        many = "*" if option.many else ""
        yield f"{many}{flag}[{text}]" + (f":{value}:{action}" if option.value else "")


# -- fish ------------------------------------------------------------------------------------------


def write_fish(tree: Command) -> str:
    """A completion for fish: into ~/.config/fish/completions/appliance.fish."""
    known = " ".join(quote_fish(" ".join(c.words)) for c in tree.walk() if c.words)
    rules = "\n".join(line for command in tree.walk() for line in _write_fish_rules(command))
    return f"""# fish completion for appliance
function __appliance_at
    set -l at
    for word in (commandline -opc)[2..-1]
        switch "$(string join ' ' -- $at $word)"
            case {known}
                set -a at $word
        end
    end
    test "$at" = "$argv[1]"
end
complete -c appliance -f
{rules}
"""


def quote_fish(text: str) -> str:
    """One word of fish, in whose single quotes a backslash escapes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _write_fish_rules(command: Command) -> Iterator[str]:
    at = quote_fish(f"__appliance_at {quote_fish(' '.join(command.words))}")
    begin = f"complete -c appliance -n {at}"
    for below in command.commands:
        yield f"{begin} -a {below.words[-1]} -d {quote_fish(_plain(below.text))}"
    for option in command.options:
        names = " ".join(
            f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags
        )
        yield f"{begin} {names}{_fish_value(option)} -d {quote_fish(_plain(option.text))}"
    for argument in command.arguments[-1:]:
        if argument.choices:
            yield f"{begin} -a {quote_fish(' '.join(argument.choices))}"
        elif argument.value in _PATHS | _FOLDERS:
            yield f"{begin} -F"


def _fish_value(option: Option) -> str:
    if option.choices:
        return f" -x -a {quote_fish(' '.join(option.choices))}"
    if option.value in _PATHS | _FOLDERS:
        return " -r -F"
    return " -x" if option.value else ""


#: Every shell that completions can be written for.
SHELLS: Final[dict[str, Callable[[Command], str]]] = {
    "bash": write_bash,
    "zsh": write_zsh,
    "fish": write_fish,
}
