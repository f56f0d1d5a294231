"""What a template's own `{% generation %}` marks say of a reply that was found without them.

    F        <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>\\n
    reply                                                            Hello<|im_end|>
    marked                                   <|im_start|>assistant\\nHello<|im_end|>\\n       SFT306: the header too

The marks never decide what is trained. Where they say something else about the reply's text, that is a finding; what
they hold of the whitespace behind the stop is none. What must not live here: rendering, and finding replies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sftdata.records import Finding

__all__ = ["second_opinion"]


def second_opinion(
    rendered: str, marked: Sequence[tuple[int, int]], begin: int, said: tuple[int, int], asked: Callable[[], int]
) -> Finding | None:
    """Compare a reply with the spans that are marked in `rendered`, all as offsets into it.

    `begin` is where the reply begins, `said` where its content stands (or its calls, from the first name to the
    last), `asked` gives the end of what was said before the reply's header; it is called only if a mark begins there.

    `second_opinion("<u>q<a>r</s>", [(6, 11)], 7, (7, 8), lambda: 4)` is SFT306.
    """
    mine = [span for span in marked if span[1] > begin]
    at = said[0]
    for start, stop in mine:
        if rendered[at:start].strip():
            break
        at = max(at, stop)
    if rendered[at : said[1]].strip() or not mine:
        return Finding("SFT506", "the template's generation marks leave part of this reply out")
    first = min(start for start, _ in mine)
    if not rendered[first:begin].strip():
        return None
    if rendered[first : max(first, asked())].strip():
        return Finding("SFT506", "the template's generation marks cover text from before this reply's header")
    return Finding("SFT306", "the template's generation marks begin inside the header, which the server writes")
