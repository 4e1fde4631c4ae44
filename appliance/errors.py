"""Every error type of the appliance, and every exit code, in one place.

Libraries' own errors are caught at their one doorway and raised again as one of these.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the `appliance` command. A contract: users' scripts test them."""

    DONE = 0
    FOUND_OR_FAILED = 1
    USAGE = 2
    BAD_CONFIG = 3
    NOT_RUNNING = 4


class ApplianceError(Exception):
    """Base of all errors the appliance raises on purpose; its text is fit for an operator."""


class ConfigError(ApplianceError):
    """The configuration is wrong; `problems` holds one 'file:line: key: reason' text each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DecodeError(ApplianceError):
    """A record's bytes cannot be read in the format they claim to be in."""


class RuleError(ApplianceError):
    """A rule cannot be loaded or evaluated; the text names file, line and reason."""


class SourceError(ApplianceError):
    """A source cannot be read (missing, no permission, not a log)."""


class StoreError(ApplianceError):
    """The store cannot be opened, read or written, or has a schema we do not know."""


class ArchiveError(ApplianceError):
    """The archive can't be read or converted, or a hunt's question can't be answered."""


class EmitError(ApplianceError):
    """A sink refused or could not be reached; what was to be sent is still in the outbox."""


class ModelUnavailable(ApplianceError):
    """No answer from the model: not built, child process dead, busy or too slow."""


class ModelError(ApplianceError):
    """A model or knowledge base cannot be built, or does not match its manifest."""


class UsageError(ApplianceError):
    """The arguments of a command make no sense."""
