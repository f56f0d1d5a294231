"""How near texts are to their references: BLEU and chrF of the corpus, ROUGE of every text.

What lives here: definitions that hold in any script. What must not: models, ids, files.

ROUGE here takes words of any alphabet and single CJK characters; `rouge-score` drops all but a-z and 0-9, and gives 0
to two equal Chinese texts. `compat="llamafactory"` repeats that project's definitions (BLEU-4 over characters, ROUGE
over jieba's words, means of sentences), to compare with its tables and with nothing else.
"""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sftdata.errors import ConfigError, describe, nearest

__all__ = ["COMPAT", "TextScores", "bootstrap_difference", "rouge", "score_texts", "words"]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_IS_CJK = re.compile(f"[{_CJK}]")


class TextScores(NamedTuple):
    """All on a scale from 0 to 100."""

    corpus: dict[str, float]
    """`bleu`, `chrf`, and the means of `rouge-1`, `rouge-2`, `rouge-l`."""
    rouge_l: list[float]
    """Of every text."""
    signatures: dict[str, str]
    """What exactly was computed, in the words of sacrebleu."""


def score_texts(texts: Sequence[str], references: Sequence[str], *, compat: str | None = None) -> TextScores:
    """Scores of as many texts against one reference each.

    BLEU is made over the words of 13a, or over characters as `zh` where a third of the references' letters are CJK.
    Raises ConfigError where a package is missing, or for an unknown `compat`.
    """
    if compat is not None:
        if compat not in COMPAT:
            raise ConfigError(describe(f"no compat mode {compat!r}", fix=nearest(compat, COMPAT)))
        return COMPAT[compat](texts, references)
    try:
        sacrebleu = importlib.import_module("sacrebleu.metrics")
    except ImportError as error:
        raise ConfigError(describe("BLEU and chrF need sacrebleu", fix="pip install sacrebleu")) from error
    metrics: dict[str, Any] = {
        "bleu": sacrebleu.BLEU(tokenize="zh" if _mostly_cjk(references) else "13a"),
        "chrf": sacrebleu.CHRF(),
    }
    corpus = {
        name: float(metric.corpus_score(list(texts), [list(references)]).score) for name, metric in metrics.items()
    }
    each = [rouge(text, reference) for text, reference in zip(texts, references, strict=True)]
    for name in ("rouge-1", "rouge-2", "rouge-l"):
        corpus[name] = float(np.mean([one[name] for one in each]))
    signatures = {name: str(metric.get_signature()) for name, metric in metrics.items()}
    return TextScores(corpus, [one["rouge-l"] for one in each], signatures)


def words(text: str) -> list[str]:
    """Lower-cased words and single CJK characters: `"Das 世界, 2nd!"` to `["das", "世", "界", "2nd"]`."""
    spaced = "".join(
        f" {letter} " if _IS_CJK.match(letter) else letter if letter.isalnum() or _is_mark(letter) else " "
        for letter in unicodedata.normalize("NFC", text).lower()
    )
    return spaced.split()


def _is_mark(letter: str) -> bool:
    """A vowel sign or an accent of its own, which belongs to the letter before it."""
    return unicodedata.category(letter).startswith("M")


def rouge(text: str, reference: str) -> dict[str, float]:
    """F measures from 0 to 100 of shared words, shared pairs, and the longest common subsequence.

    `"a b c"` against `"a c"` has 2 shared words of 3 and 2: rouge-1 is 80, rouge-2 is 0, rouge-l is 80. Equal words
    give 100, also where there is no pair of them, or none at all.
    """
    ours, theirs = words(text), words(reference)
    if ours == theirs:
        return {"rouge-1": 100.0, "rouge-2": 100.0, "rouge-l": 100.0}
    out = {}
    for size in (1, 2):
        pairs = [Counter(zip(*(part[at:] for at in range(size)), strict=False)) for part in (ours, theirs)]
        shared = sum((pairs[0] & pairs[1]).values())
        out[f"rouge-{size}"] = _f_measure(shared, pairs[0].total(), pairs[1].total())
    out["rouge-l"] = _f_measure(_common(ours, theirs), len(ours), len(theirs))
    return out


def _f_measure(shared: int, ours: int, theirs: int) -> float:
    return 200.0 * shared / (ours + theirs) if shared else 0.0


def _common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Length of the longest common subsequence; time is the product of the lengths, by rows of numpy."""
    numbers = {word: at for at, word in enumerate(dict.fromkeys([*ours, *theirs]))}
    columns = np.array([numbers[word] for word in theirs], dtype=np.int64)
    row = np.zeros(len(theirs) + 1, dtype=np.int64)
    for word in ours:
        diagonal = row[:-1] + (columns == numbers[word])
        row[1:] = np.maximum.accumulate(np.maximum(diagonal, row[1:]))
    return int(row[-1])


def bootstrap_difference(
    ours: Sequence[float], theirs: Sequence[float], *, rounds: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean difference of paired scores, and the interval that holds 95 % of it when the pairs are drawn again."""
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(differences), (rounds, len(differences)))
    low, high = np.quantile(differences[draws].mean(axis=1), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def _mostly_cjk(texts: Sequence[str]) -> bool:
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    return bool(letters) and 3 * sum(bool(_IS_CJK.match(letter)) for letter in letters) >= len(letters)


def _llamafactory(texts: Sequence[str], references: Sequence[str]) -> TextScores:
    """Its ROUGE and BLEU-4: means over sentences, rounded there as it rounds them."""
    try:
        jieba, bleu, rouges = map(importlib.import_module, ("jieba", "nltk.translate.bleu_score", "rouge_chinese"))
    except ImportError as error:
        raise ConfigError(
            describe(f"this mode needs {error.name}", where="compat", fix="pip install jieba nltk rouge-chinese")
        ) from error
    scores: dict[str, list[float]] = {"rouge-1": [], "rouge-2": [], "rouge-l": [], "bleu-4": []}
    for text, reference in zip(texts, references, strict=True):
        ours, theirs = (" ".join(jieba.cut(each)) for each in (text, reference))
        found = rouges.Rouge().get_scores(ours, theirs)[0] if ours.split() and theirs.split() else {}
        for name in ("rouge-1", "rouge-2", "rouge-l"):
            scores[name].append(round(found[name]["f"] * 100, 4) if found else 0.0)
        smooth = bleu.SmoothingFunction().method3
        value = bleu.sentence_bleu([list(reference)], list(text), smoothing_function=smooth)
        scores["bleu-4"].append(round(value * 100, 4))
    return TextScores({name: float(np.mean(each)) for name, each in scores.items()}, scores["rouge-l"], {})


COMPAT: dict[str, Callable[[Sequence[str], Sequence[str]], TextScores]] = {"llamafactory": _llamafactory}
