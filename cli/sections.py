"""Help of a command with many options, in sections: what belongs together stands together.

What lives here: how such help is laid out. What must not: any command's options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

__all__ = ["SectionedCommand"]


class SectionedCommand(click.Command):
    """A command whose help lists its options under headings; one that is under none stands last, under Options."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **attrs: Any) -> None:
        """`sections`: heading → the long flags under it, in order, such as `{"Length": ["--max-length"]}`."""
        super().__init__(*args, **attrs)
        self.sections = dict(sections)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section's options."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        left = {option.opts[-1]: record for option in options if (record := option.get_help_record(ctx))}
        for title, flags in self.sections.items():
            rows = [left.pop(flag) for flag in flags if flag in left]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
        with formatter.section("Options"):
            formatter.write_dl(list(left.values()))
