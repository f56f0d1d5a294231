"""What a template may call by name: Jinja's small tools, `raise_exception`, and a clock that stands still.

What must not be here: filters and tests (`sandbox_filters`). Each function gets the budget first. Jinja's `lipsum`
is left out: it draws random text of any length.
"""

from __future__ import annotations

import datetime
import re
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.exceptions import TemplateError as JinjaTemplateError
from jinja2.utils import Cycler, Joiner, Namespace

from sftdata.templates.sandbox import MOST_LOOP_TURNS, Budget, spend_width, text
from sftdata.templates.sandbox_calls import DictFunction, Exposed

__all__ = ["GLOBALS", "TemplateNamespace", "strftime_now"]


class TemplateNamespace(Namespace):
    """`namespace(...)`: names with a leading underscore are refused."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        made = dict(*args[1:], **kwargs)
        for name in made:
            _check_name(name)
        Namespace.__init__(args[0], made)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"stores an attribute with a leading underscore ({name!r}) in a namespace")


def _raise_exception(budget: Budget, message: Any = "") -> None:
    raise JinjaTemplateError(text(budget, message))


def _range(budget: Budget, *args: Any) -> range:
    numbers = range(*args)
    if len(numbers) > MOST_LOOP_TURNS:
        budget.stop(f"makes a range of more than {MOST_LOOP_TURNS:,} numbers")
    return numbers


def _unpaid(function: Any) -> Exposed:
    return Exposed(lambda _, *args, **kwargs: function(*args, **kwargs))


GLOBALS: dict[str, Any] = {
    "cycler": _unpaid(Cycler),
    "dict": DictFunction(),
    "joiner": _unpaid(Joiner),
    "namespace": _unpaid(TemplateNamespace),
    "raise_exception": Exposed(_raise_exception),
    "range": Exposed(_range),
}

_WIDTH = re.compile(r"%[^a-zA-Z%]*?(\d+)")


def strftime_now(clock: datetime.date) -> Exposed:
    """The function of that name, for a day at midnight; what format widths would pad is paid for."""
    moment = datetime.datetime.combine(clock, datetime.time())

    def format_moment(budget: Budget, form: str) -> str:
        for digits in _WIDTH.findall(form):
            spend_width(budget, digits)
        budget.spend_chars(64 * len(form))
        return moment.strftime(form)

    return Exposed(format_moment)
