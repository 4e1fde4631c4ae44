"""Print the part of requirements.lock that running needs: pins with hashes of the project's own
dependencies and of theirs, without what building models, testing and linting need.

    python packaging/list_runtime.py <packaging/requirements.lock

Run with the interpreter that has them all installed: what depends on what is read from there.
"""

import re
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: One pin with its hashes and remarks, as pip-compile writes them.
PIN = re.compile(r"^(\S+?)==.*\n(?:(?: |#).*\n)*", re.MULTILINE)


def close_over(names: set[str]) -> set[str]:
    """The names and all that they depend on, without extras."""
    found: set[str] = set()
    while names:
        name = names.pop()
        found.add(name)
        wanted = [Requirement(text) for text in requires(name) or ()]
        names |= {
            canonicalize_name(other.name)
            for other in wanted
            if other.marker is None or other.marker.evaluate({"extra": ""})
        } - found
    return found


def main() -> None:
    """Read the lock from standard input. Exits with 1 when it lacks something."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    dependencies = project["project"]["dependencies"]
    needed = close_over({canonicalize_name(Requirement(text).name) for text in dependencies})
    pins = {canonicalize_name(match[1]): match[0] for match in PIN.finditer(sys.stdin.read())}
    if missing := needed - pins.keys():
        sys.exit(f"not in the lock: {', '.join(sorted(missing))}")
    sys.stdout.write("".join(pins[name] for name in sorted(needed)))


if __name__ == "__main__":
    main()
