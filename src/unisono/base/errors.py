"""The few exceptions of Unisono; each carries fields as well as words and says whose fault it is.

``UnisonoError``
    ``CallerError`` - the caller can mend it: ``InvalidInput``, ``NotFound``, ``Conflict``, ``Forbidden``, ``TooMany``
    ``Unavailable`` - something outside is away; the same call may work later
    ``DamagedRecord`` - what we stored is not what we read back
"""

from __future__ import annotations

from typing import Any


class UnisonoError(Exception):
    """Root of all errors raised on purpose."""


class CallerError(UnisonoError):
    """The caller asked for something that can't be done as asked."""


class InvalidInput(CallerError):
    """One field breaks one rule; the text names the field, its value and the rule."""

    def __init__(self, field: str, value: Any, rule: str) -> None:
        super().__init__(f"{field} = {value!r}: {rule}")
        self.field = field
        self.value = value
        self.rule = rule


class NotFound(CallerError):
    """No such thing, or none that this caller may see."""

    def __init__(self, kind: str, ref: str) -> None:
        super().__init__(f"no {kind} {ref!r}")
        self.kind = kind
        self.ref = ref


class Conflict(CallerError):
    """The request collides with the present state; ``rule`` says which one it breaks."""

    def __init__(self, kind: str, ref: str, rule: str) -> None:
        super().__init__(f"{kind} {ref!r}: {rule}")
        self.kind = kind
        self.ref = ref
        self.rule = rule


class Forbidden(CallerError):
    """The caller is known but may not do this; ``needs`` names the missing right."""

    def __init__(self, needs: str) -> None:
        super().__init__(f"this needs {needs}")
        self.needs = needs


class TooMany(CallerError):
    """A documented limit is reached; ``retry_after_s`` says when to come back (None: never as asked)."""

    def __init__(self, what: str, limit: int, retry_after_s: float | None = None) -> None:
        super().__init__(f"{what}: the limit is {limit}")
        self.what = what
        self.limit = limit
        self.retry_after_s = retry_after_s


class Unavailable(UnisonoError):
    """Something outside this process is away (an engine, another role, a link)."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} is unavailable: {why}")
        self.what = what
        self.why = why


class DamagedRecord(UnisonoError):
    """Stored bytes do not match their digest or their format."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} is damaged: {why}")
        self.what = what
        self.why = why
