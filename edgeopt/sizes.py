"""Sizes as polynomials: what a dimension is, in terms of the model's symbolic dimensions.

A ``Size`` is a sum of products of symbols with rational coefficients, in one normal form, so that equal sizes are
equal objects whatever way they were computed. What is no polynomial (a rounded quotient, a remainder) is a symbol of
its own that knows how it is computed: equal ones are still equal. Symbols are dimensions, so they are 0 or more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

_MOST_TERMS, _MOST_FACTORS = 12, 8


@dataclass(frozen=True)
class Rounded:
    """``floor(size / divisor)`` or ``size mod divisor``, where that is no polynomial."""

    kind: str  # "floor" or "mod"
    size: Size
    divisor: Size

    def __str__(self) -> str:
        return f"{self.kind}({self.size}, {self.divisor})"


Symbol = str | Rounded
Monomial = tuple[Symbol, ...]


@dataclass(frozen=True)
class Size:
    """The sum of ``coefficient × product of symbols`` over ``terms``, which are sorted and have no zeros."""

    terms: tuple[tuple[Monomial, Fraction], ...]

    @staticmethod
    def of(terms: Mapping[Monomial, Fraction]) -> Size:
        """The normal form."""
        kept = [(m, c) for m, c in terms.items() if c]
        return Size(tuple(sorted(kept, key=lambda t: (len(t[0]), [str(s) for s in t[0]]))))

    @property
    def number(self) -> Fraction | None:
        """The value if there are no symbols."""
        if not self.terms:
            return Fraction(0)
        return self.terms[0][1] if len(self.terms) == 1 and not self.terms[0][0] else None

    @property
    def integer(self) -> int | None:
        """The value if it is a whole number without symbols."""
        number = self.number
        return int(number) if number is not None and number.denominator == 1 else None

    @property
    def symbol(self) -> Symbol | None:
        """The symbol if the size is just that."""
        if len(self.terms) != 1:
            return None
        monomial, factor = self.terms[0]
        return monomial[0] if len(monomial) == 1 and factor == 1 else None

    @property
    def whole(self) -> bool:
        """Whether it is a whole number whatever the symbols are."""
        return all(c.denominator == 1 for _, c in self.terms)

    @property
    def at_least_zero(self) -> bool:
        """Whether that is so whatever the symbols are; False if it cannot be told."""
        return all(c > 0 and all(isinstance(s, str) or s.size.at_least_zero for s in m) for m, c in self.terms)

    def value(self, of: Callable[[str], int]) -> Fraction:
        """The number for given values of the symbols."""
        total = Fraction(0)
        for monomial, factor in self.terms:
            for s in monomial:
                if isinstance(s, str):
                    factor *= of(s)
                else:
                    a, b = s.size.value(of), s.divisor.value(of)
                    factor *= (a // b if s.kind == "floor" else a % b) if b else 0
            total += factor
        return total

    def __str__(self) -> str:
        def term(monomial: Monomial, factor: Fraction) -> str:
            parts = ([str(factor)] if factor != 1 or not monomial else []) + [str(s) for s in monomial]
            return "*".join(parts)

        return " + ".join(term(m, c) for m, c in self.terms) or "0"


@functools.lru_cache(maxsize=4096)
def number(value: int | float | Fraction) -> Size:
    """A size without symbols."""
    return Size.of({(): Fraction(value)})


@functools.lru_cache(maxsize=4096)
def symbol(name: str) -> Size:
    """A dimension of that name."""
    return Size((((name,), Fraction(1)),))


def add(a: Size, b: Size, sign: int = 1) -> Size | None:
    """The sum (or difference, for sign -1); None where it has too many terms."""
    if not b.terms:
        return a
    terms = dict(a.terms)
    for monomial, factor in b.terms:
        terms[monomial] = terms.get(monomial, Fraction(0)) + sign * factor
    return Size.of(terms) if len(terms) <= _MOST_TERMS else None


def subtract(a: Size, b: Size) -> Size | None:
    """The difference; None where it has too many terms."""
    return add(a, b, -1)


def multiply(a: Size, b: Size) -> Size | None:
    """The product; None where it has too many terms or factors."""
    terms: dict[Monomial, Fraction] = {}
    for m, c in a.terms:
        for n, d in b.terms:
            product = tuple(sorted((*m, *n), key=str))
            terms[product] = terms.get(product, Fraction(0)) + c * d
    fits = len(terms) <= _MOST_TERMS and all(len(m) <= _MOST_FACTORS for m in terms)
    return Size.of(terms) if fits else None


def quotient(a: Size, b: Size) -> Size | None:
    """The exact quotient, for all values of the symbols for which ``b`` is not 0; None where it is no polynomial."""
    if not b.terms:
        return None
    if a == b:
        return number(1)
    if len(b.terms) != 1:
        ratio = a.terms[0][1] / b.terms[0][1] if a.terms else Fraction(0)
        return number(ratio) if a == multiply(b, number(ratio)) else None
    below, divisor = b.terms[0]
    terms: dict[Monomial, Fraction] = {}
    for monomial, factor in a.terms:
        left = list(monomial)
        for s in below:
            if s not in left:
                return None
            left.remove(s)
        terms[tuple(left)] = factor / divisor
    return Size.of(terms)


def floor_divide(a: Size, b: Size) -> Size | None:
    """``a / b`` rounded down, for ``a`` of at least 0 and ``b`` above 0; None where that cannot be told."""
    if b == number(1) and a.whole:
        return a
    if (x := a.number) is not None and (y := b.number) is not None:
        return number(x // y) if y > 0 else None
    exact = quotient(a, b)
    if exact is not None and exact.whole:
        return exact
    if not b.at_least_zero or not b.terms:
        return None
    return Size((((Rounded("floor", a, b),), Fraction(1)),))


def remainder(a: Size, b: Size) -> Size | None:
    """``a mod b`` for whole ``a`` of at least 0 and ``b`` above 0; None where that cannot be told."""
    if (x := a.number) is not None and (y := b.number) is not None:
        return number(x % y) if y > 0 else None
    exact = quotient(a, b)
    if exact is not None and exact.whole:
        return number(0)
    if not b.at_least_zero or not b.terms:
        return None
    return Size((((Rounded("mod", a, b),), Fraction(1)),))
