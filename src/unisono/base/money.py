"""Money is a whole number of millionths of a currency unit, with its ISO 4217 code; never a float."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

from unisono.base.errors import InvalidInput

_MICROS = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in one currency; adding two currencies raises."""

    micros: int
    currency: str

    @classmethod
    def parse(cls, amount: str, currency: str) -> Money:
        """Return the exact amount; more than six decimals are refused, not rounded.

        >>> Money.parse("12.34", "USD")
        Money(micros=12340000, currency='USD')
        """
        micros = Decimal(amount) * _MICROS
        if micros != micros.to_integral_value():
            raise InvalidInput("amount", amount, "has more than six decimals")
        return cls(int(micros), currency)

    def __add__(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise InvalidInput("currency", other.currency, f"can't be added to {self.currency}")
        return Money(self.micros + other.micros, self.currency)

    def times(self, factor: Decimal) -> Money:
        """Return the amount times ``factor``, rounded half to even at the millionth."""
        return Money(int((self.micros * factor).to_integral_value(ROUND_HALF_EVEN)), self.currency)
