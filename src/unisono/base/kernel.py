"""The one way in which a plain function of arrays becomes machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., object])

# Its stubs know neither lists of numba types nor `_nrt`.
_NJIT: Final[Any] = numba.njit


def kernel(*signatures: object) -> Callable[[F], F]:
    """Compile a function of arrays: GIL released, cached on disk, no fastmath, no parallel reductions.

    With explicit ``signatures`` (numba types, or strings that name them) it is compiled when its module is imported
    (or loaded from the cache in ``NUMBA_CACHE_DIR``), and a call with other types fails loudly instead of compiling
    in a service.
    """

    def compile_function(function: F) -> F:
        options = {"nogil": True, "cache": True, "fastmath": False}
        compiled = _NJIT(list(signatures), **options) if signatures else _NJIT(**options)
        return cast("F", compiled(function))

    return compile_function


def column_kernel(*signatures: object) -> Callable[[F], F]:
    """Compile like `kernel` a function that allocates nothing, and therefore counts no references.

    Handing a group of columns (a tuple of arrays) on to a `part` would otherwise count two references an array and
    call: 2 us instead of 20 ns for three groups, measured at 10,000 rows. An array made inside fails to compile.
    """

    def compile_function(function: F) -> F:
        compiled = _NJIT(list(signatures), nogil=True, cache=True, fastmath=False, _nrt=False)
        return cast("F", compiled(function))

    return compile_function


def sum_kernel(*signatures: object) -> Callable[[F], F]:
    """Compile like `column_kernel` a function whose sums may be added in any order, so that they use the whole vector.

    The same processor adds in the same order each time, another one need not: only what is shown is summed so, never
    what decides.
    """

    def compile_function(function: F) -> F:
        compiled = _NJIT(list(signatures), nogil=True, cache=True, fastmath={"reassoc"}, _nrt=False)
        return cast("F", compiled(function))

    return compile_function


def part(function: F) -> F:
    """Mark a part of column kernels: compiled into each kernel that calls it."""
    return cast("F", _NJIT(nogil=True, fastmath=False, _nrt=False)(function))


@part
def index(position: int) -> int:
    """Return a position that was read from an array as an index that can't count from the end.

    A signed one is asked whether it does, at each access: a quarter of the time where many columns are looked at.
    """
    return np.uintp(position)  # type: ignore[return-value]  # to Python an index like any other


def type_of(value: object) -> Any:
    """Return the numba type of a value, to name it in a signature."""
    return cast("Any", numba.typeof)(value)


def pair_of(kind: object) -> Any:
    """Return the numba type of a function's two results of one kind."""
    return cast("Any", numba.types.UniTuple)(kind, 2)
