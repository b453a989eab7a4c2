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
