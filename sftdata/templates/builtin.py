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
    _ending("alpaca", "Stanford Alpaca's instruction layout", "</s>", bos="<s>"),
    _ending("chatml", "ChatML with reasoning and tools, nothing added or trimmed", "<|im_end|>"),
    _ending("gemma", "Gemma 1 and 2 Instruct, and the text of Gemma 3", "<end_of_turn>", bos="<bos>"),
    _ending("llama-2", "Llama 2 Chat", "</s>", bos="<s>"),
    _ending("llama-3", "Llama 3 Instruct", "<|eot_id|>", bos="<|begin_of_text|>"),
    _ending("llama-3.1", "Llama 3.1 Instruct, with its dates and tools", "<|eot_id|>", bos="<|begin_of_text|>"),
    _ending("mistral", "Mistral 7B Instruct 0.1 and 0.2, Mixtral 8x7B Instruct", "</s>", bos="<s>"),
    _ending("phi-3", "Phi-3 Instruct", "<|end|>"),
    _ending("plain", "content as it stands, end of sequence after every reply", "</s>"),
    _ending("qwen2.5", "Qwen2 and Qwen2.5 Instruct, with their default system prompt and tools", "<|im_end|>"),
    _ending("qwen3", "Qwen3 with reasoning and tools", "<|im_end|>"),
    _ending("vicuna", "Vicuna 1.1 and 1.5", "</s>", bos="<s>"),
    _ending("zephyr", "Zephyr 7B", "</s>"),
)

BUILTIN: dict[str, BuiltinTemplate] = {template.name: template for template in _TABLE}
