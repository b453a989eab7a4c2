"""The one way in which a plain function of arrays becomes machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(*signatures: object) -> Callable[[F], F]:
    """Compile a function of arrays: GIL released, cached on disk, no fastmath, no parallel reductions.

    With explicit ``signatures`` (numba types, or strings that name them) it is compiled when its module is imported
    (or loaded from the cache in ``NUMBA_CACHE_DIR``), and a call with other types fails loudly instead of compiling
    in a service.
    """

    def compile_function(function: F) -> F:
        options = {"nogil": True, "cache": True, "fastmath": False}
        compiled = numba.njit(list(signatures), **options) if signatures else numba.njit(**options)
        return cast("F", compiled(function))

    return compile_function


def part(function: F) -> F:
    """Mark a part of a kernel: it is copied in wherever a kernel calls it.

    Handing a group of columns to a function of its own costs two reference counts an array and call: 2 us instead
    of 10 ns for three groups, measured at 10,000 rows.
    """
    return cast(F, numba.njit(inline="always")(function))
