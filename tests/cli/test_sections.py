"""The help of `prepare`: every option once, under a heading; its words and defaults are those in force."""

from __future__ import annotations

from collections import Counter

import click
import msgspec
import pytest

from sftdata.config import CHOICES, PrepareConfig
from sftdata_cli.prepare import SECTIONS, command


def flag(option: click.Option) -> str:
    return option.opts[-1]


OPTIONS = [param for param in command.params if isinstance(param, click.Option)]


def test_every_option_is_under_one_heading() -> None:
    assert Counter(one for flags in SECTIONS.values() for one in flags) == Counter(map(flag, OPTIONS))


def test_the_help_names_every_option_under_its_heading() -> None:
    lines = command.get_help(click.Context(command, info_name="prepare", max_content_width=100)).splitlines()
    for title, flags in SECTIONS.items():
        at = lines.index(f"{title}:")
        under = " ".join(lines[at + 1 : at + 1 + lines[at + 1 :].index("")])
        assert all(f" {one} " in f"{under} " for one in flags), title


@pytest.mark.parametrize("option", [one for one in OPTIONS if one.name in CHOICES], ids=flag)
def test_words_and_default_are_those_of_the_configuration(option: click.Option) -> None:
    assert isinstance(option.type, click.Choice)
    assert option.name is not None
    assert tuple(option.type.choices) == CHOICES[option.name]
    defaults = {one.name: one.default for one in msgspec.structs.fields(PrepareConfig)}
    assert f"efault {defaults[option.name]}" in (option.help or "")
