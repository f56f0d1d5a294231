"""What can be known of a tokenizer without encoding a record: its tokens, what it does to text, where text may be cut.

What lives here: building the effective tokenizer from its files, its added tokens, the byte table of byte-level
models, and the static proofs that encoding may be done in pieces. What must not: records, templates, batches.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
from tokenizers import AddedToken as NativeAddedToken
from tokenizers import Tokenizer as NativeTokenizer

from sftdata.errors import ConfigError, describe
from sftdata.model_folder import named_tokens
from sftdata.records import Int64Array
from sftdata.tokenizers.native import NativeError, held
from sftdata.tokenizers.origin import TokenizerFiles

__all__ = ["AddedToken", "Vocabulary", "load_vocabulary", "native_tokenizer"]

_PROBE = "Aa Zz 09 !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ The QUICK brown Fox\nnext  line"


class AddedToken(msgspec.Struct, frozen=True):
    """An entry of the added vocabulary; the flags are those of `tokenizers.AddedToken`."""

    content: str
    id: int
    special: bool
    normalized: bool
    lstrip: bool
    rstrip: bool
    single_word: bool


class Vocabulary(msgspec.Struct, frozen=True):
    """The effective tokenizer and what was proved about it."""

    native_json: str
    """The `tokenizer.json` after the config's special tokens were merged in, without truncation and padding."""
    plain_json: str
    """The same without any added token: what encodes a spelling of a control token as ordinary characters."""
    added: tuple[AddedToken, ...]
    special_tokens: dict[str, str]
    """Named special tokens: `bos_token` and so on, those that are set."""
    size: int
    """Ids run from 0 to `size - 1`: what the embedding must at least hold."""
    byte_level: bool
    """Decoding is a plain concatenation of each token's bytes (`token_bytes`)."""
    position_free: bool
    """A stretch of text between added tokens encodes alike wherever it stands (no dummy prefix anywhere)."""
    normalises: bool
    """There is a normaliser, if perhaps one that decoding undoes."""
    normal_forms: tuple[str, ...]
    """The parts of the normaliser that decoding does not undo, such as `("NFC",)`."""
    token_bytes: npt.NDArray[np.uint8]
    """All tokens' bytes one after another; empty unless `byte_level`."""
    token_offsets: Int64Array
    """int64 `[size + 1]`, where each token's bytes begin in `token_bytes`."""
    unk_id: int | None

    def id_of(self, token: str) -> int | None:
        """The single id of `token` if it is an added token, else None."""
        return next((one.id for one in self.added if one.content == token), None)

    @property
    def special(self) -> tuple[AddedToken, ...]:
        """The added tokens that are flagged special."""
        return tuple(one for one in self.added if one.special)

    def anchors(self, literals: Iterable[str]) -> tuple[str, ...]:
        """Those of `literals` before which text may be cut and the two parts be encoded one by one.

        The tokenizers library takes added tokens out of the text first (leftmost, then longest) and encodes what
        stands between them piece by piece. Text may be cut before an occurrence of `t` if no other added token can
        overlap it from the left and `t` takes no whitespace from the left.
        """
        by_content = {one.content: one for one in self.added}
        clean = []
        for literal in dict.fromkeys(literals):
            token = by_content.get(literal)
            if token is None or (token.normalized and self.normalises) or token.lstrip or token.single_word:
                continue
            if not any(_overlaps(other, literal) for other in by_content if other != literal):
                clean.append(literal)
        return tuple(clean)


def _overlaps(other: str, literal: str) -> bool:
    """Whether an occurrence of `other` may begin before, or at, an occurrence of `literal` and cover part of it.

    `_overlaps("<|im_end|>\\n", "<|im_end|>")` and `_overlaps("a<", "<b>")` are true.
    """
    if literal in other:
        return True
    return any(literal.startswith(other[cut:]) for cut in range(1, len(other)))


def load_vocabulary(files: TokenizerFiles) -> Vocabulary:
    """Build the effective tokenizer of `files` and prove what can be proved about it.

    Raises ConfigError where the file is malformed (SFT419) or the tokenizer loses text (SFT418).
    """
    native = _effective(files)
    text = native.to_str()
    spec: dict[str, Any] = orjson.loads(text)
    plain = dict(spec, added_tokens=[], post_processor=None)
    added = tuple(
        AddedToken(
            one["content"],
            one["id"],
            one["special"],
            one["normalized"],
            one["lstrip"],
            one["rstrip"],
            one["single_word"],
        )
        for one in spec["added_tokens"]
    )
    _refuse_lossy(native, files.address)
    listed = spec["model"]["vocab"]
    vocab = listed if isinstance(listed, dict) else native.get_vocab(with_added_tokens=False)
    size = 1 + max(max(vocab.values(), default=-1), max((one.id for one in added), default=-1))
    byte_level = _is_byte_level(spec)
    table, offsets = _byte_table(vocab, added, size) if byte_level else (_NO_BYTES, np.zeros(1, np.int64))
    unk = spec["model"].get("unk_token")
    if unk is None and spec["model"].get("unk_id") is not None:
        unk = native.id_to_token(spec["model"]["unk_id"])
    return Vocabulary(
        native_json=text,
        plain_json=orjson.dumps(plain).decode(),
        added=added,
        special_tokens=named_tokens(files.config),
        size=size,
        byte_level=byte_level,
        position_free=byte_level and not _adds_prefix(spec),
        normalises=spec.get("normalizer") is not None,
        normal_forms=tuple(_normal_forms(spec.get("normalizer"))),
        token_bytes=table,
        token_offsets=offsets,
        unk_id=None if unk is None else native.token_to_id(unk),
    )


def _normal_forms(normaliser: dict[str, Any] | None) -> Iterator[str]:
    """What a normaliser does besides writing spaces as `▁`, which decoding undoes."""
    if normaliser is None or normaliser["type"] == "Prepend":
        return
    if normaliser["type"] == "Sequence":
        for part in normaliser["normalizers"]:
            yield from _normal_forms(part)
    elif not (normaliser["type"] == "Replace" and normaliser["content"] == "▁"):
        yield normaliser["type"]


@functools.lru_cache(maxsize=1)
def native_tokenizer(native_json: str) -> NativeTokenizer:
    """The tokenizer of a `Vocabulary`, loaded once a process; callers encode with it and change nothing in it."""
    try:
        loaded: NativeTokenizer = held(NativeTokenizer.from_str, native_json)
    except NativeError as error:
        raise ConfigError(_malformed(str(error), "tokenizer.json")) from error
    return loaded


_NO_BYTES: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)


def _effective(files: TokenizerFiles) -> NativeTokenizer:
    """The tokenizer with the special tokens of `tokenizer_config.json` merged in, as transformers loads it."""
    _refuse_far_ids(files)
    try:
        native: NativeTokenizer = held(_merged, files)
    except NativeError as error:
        raise ConfigError(_malformed(str(error), files.address)) from error
    return native


def _merged(files: TokenizerFiles) -> NativeTokenizer:
    native = NativeTokenizer.from_str(files.tokenizer_json)
    native.no_truncation()
    native.no_padding()
    has = {token.content for token in native.get_added_tokens_decoder().values()}
    for token in _config_tokens(files.config, has):
        if token.special:
            native.add_special_tokens([token])
        else:
            native.add_tokens([token])
    return native


def _malformed(what: str, address: str) -> str:
    return describe(
        f"SFT419: the tokenizer cannot be loaded: {what[:200]}",
        where=address,
        fix="Export it again with save_pretrained of a current transformers.",
    )


_MOST_IDS = 1 << 24
_FAR_ID = re.compile(r"[:,]\s*\d{8,}\s*[,}\]]")


def _refuse_far_ids(files: TokenizerFiles) -> None:
    """Refuse a file with an id that no model has rows for: tables by id would take all memory."""
    if _FAR_ID.search(files.tokenizer_json) is None:
        return
    try:
        spec = json.loads(files.tokenizer_json)
        vocab = spec["model"]["vocab"]
        ids = [*(vocab.values() if isinstance(vocab, dict) else ()), *(one["id"] for one in spec["added_tokens"])]
        largest = max(one for one in ids if isinstance(one, int))
    except (ValueError, TypeError, KeyError, RecursionError):
        return  # it is malformed in another way, which the tokenizers library names
    if largest >= _MOST_IDS:
        raise ConfigError(_malformed(f"it has the token id {largest}, and no model has as many rows", files.address))


def _config_tokens(config: dict[str, Any], has: set[str]) -> list[NativeAddedToken]:
    """The tokens that a `tokenizer_config.json` adds to those that the tokenizer `has`, or gives other flags.

    Named and extra tokens that are there already keep their flags, those of `added_tokens_decoder` have the config's:
    as transformers loads them.
    """
    tokens: dict[str, NativeAddedToken] = {}
    decoder = config.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        for key in sorted(decoder, key=lambda one: int(one) if str(one).isdigit() else 0):
            entry = decoder[key]
            if isinstance(entry, dict) and isinstance(entry.get("content"), str) and entry["content"]:
                flags = {
                    name: bool(entry.get(name, False))
                    for name in ("special", "normalized", "lstrip", "rstrip", "single_word")
                }
                tokens[entry["content"]] = NativeAddedToken(entry["content"], **flags)
    extra = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    extra = list(extra.values()) if isinstance(extra, dict) else extra
    named = list(named_tokens(config).values())
    for content in [*named, *(one["content"] if isinstance(one, dict) else one for one in extra)]:
        if isinstance(content, str) and content and content not in tokens and content not in has:
            tokens[content] = NativeAddedToken(content, special=True, normalized=False)
    return list(tokens.values())


def _parts(component: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """The leaves of a normaliser, pre-tokenizer or decoder, whether it is a sequence or not."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        return [leaf for part in component[key] for leaf in _parts(part, key)]
    return [component]


def _is_byte_level(spec: dict[str, Any]) -> bool:
    decoders = _parts(spec.get("decoder"), "decoders")
    before = _parts(spec.get("pre_tokenizer"), "pretokenizers")
    normal = _parts(spec.get("normalizer"), "normalizers")
    return (
        spec["model"]["type"] == "BPE"
        and [part["type"] for part in decoders] == ["ByteLevel"]
        and any(part["type"] == "ByteLevel" for part in [*before, *normal])
        and not spec["model"].get("continuing_subword_prefix")
        and not spec["model"].get("end_of_word_suffix")
    )


def _adds_prefix(spec: dict[str, Any]) -> bool:
    before = _parts(spec.get("pre_tokenizer"), "pretokenizers")
    normal = _parts(spec.get("normalizer"), "normalizers")
    return any(
        part.get("add_prefix_space") or part["type"] in {"Prepend", "Metaspace", "Strip"} for part in [*before, *normal]
    )


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-in of every byte, as GPT-2's byte-level BPE writes it (openai/gpt-2: encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    missing = (byte for byte in range(256) if byte not in set(printable))
    table.update({chr(256 + rank): byte for rank, byte in enumerate(missing)})
    return table


def _byte_table(
    vocab: dict[str, int], added: tuple[AddedToken, ...], size: int
) -> tuple[npt.NDArray[np.uint8], Int64Array]:
    tokens = [""] * size
    for token, index in vocab.items():
        tokens[index] = token
    pieces = _bytes_of(tokens)
    for one in added:
        pieces[one.id] = one.content.encode()
    offsets = np.zeros(size + 1, np.int64)
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return np.frombuffer(b"".join(pieces), np.uint8), offsets


def _bytes_of(tokens: list[str]) -> list[bytes]:
    """The bytes that byte-level tokens stand for, all at once: 151,000 take 0.05 s; a foreign one stands for itself."""
    alphabet = _byte_alphabet()
    table = np.full(max(map(ord, alphabet)) + 2, -1, np.int16)
    table[[ord(char) for char in alphabet]] = list(alphabet.values())
    codes = np.frombuffer("".join(tokens).encode("utf-32-le"), np.uint32)
    found = table[np.minimum(codes, len(table) - 1)]
    if (found < 0).any():
        return [
            bytes([alphabet[char] for char in token]) if alphabet.keys() >= set(token) else token.encode()
            for token in tokens
        ]
    joined = found.astype(np.uint8).tobytes()
    return [joined[start:stop] for start, stop in itertools.pairwise(itertools.accumulate(map(len, tokens), initial=0))]


def _refuse_lossy(native: NativeTokenizer, address: str) -> None:
    """Refuse a tokenizer that lowercases, drops or rewrites plain ASCII: the model could never say it."""
    try:
        ids = held(native.encode, _PROBE, add_special_tokens=False).ids
        decoded = held(native.decode, ids, skip_special_tokens=False)
    except NativeError as error:
        raise ConfigError(_malformed(f"it fails on plain text: {error}", address)) from error
    if decoded.replace(" ", "").replace("\n", "") == _PROBE.replace(" ", "").replace("\n", ""):
        return
    what = (
        "lowercases text"
        if "QUICK" not in decoded and "quick" in decoded
        else "drops or rewrites characters of plain ASCII text"
    )
    raise ConfigError(
        describe(
            f"SFT418: the tokenizer {what}",
            where=address,
            expected="a tokenizer whose ids decode to what was encoded",
            fix="Use the tokenizer of a generative model.",
        )
    )
