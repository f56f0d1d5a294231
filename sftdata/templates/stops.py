"""Where a reply ends: at the first stop behind its content, or where the next turn's header opens with one.

What lives here: reading a stop off what a template writes behind a reply, and telling the token that closes a turn from
one that opens the next. What must not: rendering (the caller hands in what it rendered), where a reply begins, ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sftdata.records import Finding
from sftdata.templates.reply import StopInfo, common_prefix, find_stop

__all__ = ["StopReader"]

_KEPT, _KEPT_CHARS = 1024, 4096


class StopReader:
    """Finds the ends of replies under one template and one stop set."""

    irregular = False
    """Whether any reply ended otherwise than in a stop that follows its content in F."""

    def __init__(
        self,
        stops: Sequence[str],
        special: re.Pattern[str],
        *,
        kept_apart: Sequence[str] = (),
        appended: str | None = None,
    ) -> None:
        """`kept_apart`: spellings that no content can turn into a token, so that what stands in F unmarked is the
        template's. `appended`: what `--append-eos` adds where nothing ends a turn."""
        self._stops = tuple(stops)
        self._special = special
        self._inner = tuple(stop for stop in stops if stop in kept_apart)
        self._appended = appended
        self._known: dict[tuple[str, str], StopInfo] = {}

    def read(
        self, rendered: str, end: int, followed: Callable[[], str | None], markers: str, *, calls: bool
    ) -> str | Finding:
        """The text from `end`, that of the content in F, through the stop.

        A special token between the content and the first stop is the turn's real end, missing from the stop set,
        unless the template writes the same before every next turn: `<|end|>\\n<|endoftext|>` after the last reply
        and `<|end|>\\n<|user|>` before the next is refused, `<|END_RESPONSE|><|END_OF_TURN|>` in both is the reply's.
        `followed` gives what stands behind the content when another turn follows; `calls` is whether the turn has any.
        """
        behind = rendered[end:]
        info = self._info(behind, markers)
        if info.end is None:
            self.irregular = True
            return self._of_next_turn(rendered, behind, followed() or "", info, markers, calls=calls)
        through = behind[: info.end]
        if info.foreign is None:
            return through
        self.irregular = True
        following = followed() or ""
        if following.startswith(through):
            return through
        shared = common_prefix(through, following)
        token = self._info(shared, markers).foreign
        if calls and (token is None or self._goes_on_with_a_stop(following, token)):
            return through
        return _not_a_stop(self._turn_end(shared, rendered, markers) or token or info.foreign)

    def inside(self, reply: str, markers: str) -> Finding | None:
        """SFT424 where the template writes a stop into `reply`, a text up to the end of its content."""
        if not any(stop in reply for stop in self._inner):
            return None
        end = find_stop(reply, self._inner, self._special, markers).end
        if end is None:
            return None
        stop = next(one for one in self._inner if reply[:end].endswith(one))
        return Finding(
            "SFT424",
            f"the template writes {stop!r}, which ends a turn, before the end of this reply: serving stops there",
            fix="Use a template that writes it at the end alone; or, if the model goes on behind it, name another end: "
            "leave it out of --stop, or give --eos-token.",
        )

    def _turn_end(self, text: str, rendered: str, markers: str) -> str | None:
        """The last special token of `text`, what follows a reply, before one that opens turns: those that F begins with
        open them. None where there is no such token."""
        openers: set[str] = set()
        at = 0
        while (match := self._special.match(rendered, at)) is not None:
            openers.add(match[0])
            at = match.end()
            while rendered[at : at + 1].isspace():
                at += 1
        end: str | None = None
        for match in self._special.finditer(text):
            if markers and text[: match.start()].endswith(markers[0]):
                continue
            if match[0] in openers:
                break
            end = match[0]
        return end

    def _goes_on_with_a_stop(self, following: str, token: str) -> bool:
        """Whether a stop stands right behind the token, which is then the end of the calls and not of their turn."""
        return following.partition(token)[2].lstrip().startswith(self._stops)

    def _of_next_turn(
        self, rendered: str, behind: str, following: str, info: StopInfo, markers: str, *, calls: bool
    ) -> str | Finding:
        """The stop of a reply that nothing of its own closes: what the next turn's header opens with, or eos."""
        own = behind.rstrip()
        bare = following[len(own) :].lstrip() if following.startswith(own) else ""
        stop = next((one for one in self._stops if bare.startswith(one)), None)
        if stop is not None and (info.foreign is None or calls):
            return following[: len(following) - len(bare)] + stop
        if info.foreign is not None:
            return _not_a_stop(self._turn_end(behind, rendered, markers) or info.foreign)
        if self._appended:
            return own + self._appended
        what = "the template prints nothing after the reply that ends the turn"
        opening = self._special.match(bare)
        if opening is None:
            return Finding("SFT413", what)
        return Finding(
            "SFT413",
            f"{what}, and the next one opens with {opening[0]!r}, which is not in the stop set",
            fix=f"--stop '{opening[0]}', if the model is to stop there, or --append-eos.",
        )

    def _info(self, behind: str, markers: str) -> StopInfo:
        key = (behind, markers)
        info = self._known.get(key)
        if info is None:
            info = find_stop(behind, self._stops, self._special, markers)
            if len(self._known) > _KEPT or len(behind) > _KEPT_CHARS:
                self._known.clear()
            self._known[key] = info
        return info


def _not_a_stop(token: str) -> Finding:
    return Finding(
        "SFT414",
        f"the template closes the turn with {token!r}, which is not in the stop set",
        fix=f"--stop '{token}', if the model is to stop there.",
    )
