"""Things people look up: codes of countries, languages, currencies, elements, HTTP.

    glimp bench --task benchmarks.lookups:tuning --n 100 --format short ...
    glimp bench --task benchmarks.lookups:report --n 200 --format short ...

Short answers that a model has or has not, some of them known to everybody and some to few. From the
ISO tables in pycountry, the elements in periodictable and Python's ``http``. A third of the
things asked about is kept for tuning; the questions to report on ask about the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from http import HTTPStatus
from operator import itemgetter

import periodictable
import pycountry

from glimp_integrations.bench.tasks import Item

__all__ = ["report", "tuning"]

Asked = tuple[list[Item], Callable[[Item, str], bool]]
EACH = 110
"""Questions of a kind, at most."""
_SIGNS = "`*\"'.,:;()[]"


def tuning() -> Asked:
    """To choose a threshold on."""
    return _items(tuning=True), right


def report() -> Asked:
    """To report on."""
    return _items(tuning=False), right


def right(item: Item, reply: str) -> bool:
    """Whether the code is the whole reply, in any case, or its first or last word, as written."""
    answer = item.answer or ""
    words = [word.strip(_SIGNS) for word in reply.split()]
    return words in ([answer.lower()], [answer.upper()]) or answer in (words[:1] + words[-1:])


def _items(*, tuning: bool) -> list[Item]:
    kinds: dict[str, list[tuple[int, Item]]] = {}
    for kind, question, answer in _questions():
        number = zlib.crc32(f"{kind} {answer}".encode())
        if (number % 3 == 0) == tuning:
            item = Item(f"{kind}-{answer}", question, answer)
            kinds.setdefault(kind, []).append((number, item))
    by_number = itemgetter(0)
    chosen = [pair for items in kinds.values() for pair in sorted(items, key=by_number)[:EACH]]
    return [item for _, item in sorted(chosen, key=by_number)]


def _questions() -> Iterator[tuple[str, str, str]]:
    """(kind, question, answer) of everything there is to ask."""
    for country in pycountry.countries:
        name = getattr(country, "common_name", country.name)
        yield "country", f"What is the two-letter ISO code of {name}?", country.alpha_2
    for currency in pycountry.currencies:
        question = f"What is the three-letter ISO currency code of the {currency.name}?"
        yield "currency", question, currency.alpha_3
    for language in pycountry.languages:
        if hasattr(language, "alpha_2"):
            question = f"What is the two-letter ISO 639-1 code of the language {language.name}?"
            yield "language", question, language.alpha_2
    for element in periodictable.elements:
        if element.number:
            question = f"What is the chemical symbol of the element {element.name}?"
            yield "element", question, element.symbol
    for status in HTTPStatus:
        yield "http", f"Which HTTP status code means {status.phrase!r}?", str(status.value)
