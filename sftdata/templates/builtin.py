"""The templates that the package carries, by name.

What lives here: what each is for and which tokens it counts on. The templates themselves are the files
`builtin/NAME.jinja`, each of which opens with its wire format. What must not: rendering.
"""

from __future__ import annotations

from importlib import resources

import msgspec

__all__ = ["BUILTIN", "BuiltinTemplate"]


class BuiltinTemplate(msgspec.Struct, frozen=True, kw_only=True):
    """One carried template. The tokens are used where the tokenizer names none and has them as single ids."""

    name: str
    description: str
    bos_token: str | None = None
    eos_token: str
    """The value of the variable `eos_token`, and the first stop token."""
    stop_tokens: tuple[str, ...]
    """What ends a turn of the assistant."""

    def source(self) -> str:
        """The template's text, read from the package."""
        path = resources.files("sftdata.templates").joinpath("builtin").joinpath(f"{self.name}.jinja")
        return path.read_text(encoding="utf-8")


def _ending(name: str, description: str, stop: str, *, bos: str | None = None) -> BuiltinTemplate:
    return BuiltinTemplate(name=name, description=description, bos_token=bos, eos_token=stop, stop_tokens=(stop,))


_TABLE = (
    _ending("chatml", "ChatML with reasoning and tools, nothing added or trimmed", "<|im_end|>"),
    _ending("llama-3", "Llama 3 Instruct", "<|eot_id|>", bos="<|begin_of_text|>"),
    _ending("qwen2.5", "Qwen2 and Qwen2.5 Instruct, with their default system prompt and tools", "<|im_end|>"),
)

BUILTIN: dict[str, BuiltinTemplate] = {template.name: template for template in _TABLE}
