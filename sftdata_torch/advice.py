"""What a run shows that its user should know: the usual ways in which fine-tuning goes wrong, each with its reason.

What lives here: from numbers to a sentence, or None. What must not: measuring, printing.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ran_to_the_limit", "rising", "too_many_epochs"]

MOST_EPOCHS = 3
MOST_UNSTOPPED = 0.2


def too_many_epochs(epochs: float) -> str | None:
    """`4.0` is too many, `3.0` is not."""
    if epochs <= MOST_EPOCHS + 1e-9:
        return None
    return (
        f"{epochs:.3g} epochs: from about {MOST_EPOCHS} on, a model repeats its examples rather than learns from them. "
        f"Watch the loss on held-out records (--eval-shards)."
    )


def rising(losses: Sequence[float]) -> str | None:
    """The losses of the evaluations so far: `[1.2, 1.0, 1.1]` rises."""
    if len(losses) < 2 or losses[-1] <= min(losses[:-1]):
        return None
    best = min(range(len(losses) - 1), key=losses.__getitem__)
    return (
        f"the held-out loss rises: {losses[-1]:.4g}, after {losses[best]:.4g} at evaluation {best + 1}. "
        f"The model begins to overfit; take an earlier checkpoint, fewer epochs or a lower rate."
    )


def ran_to_the_limit(share: float, limit: int) -> str | None:
    """Share of replies that ended without a stop token: `0.5` is much, `0.1` is not."""
    if share <= MOST_UNSTOPPED:
        return None
    return (
        f"{share:.0%} of the replies ran to the limit of {limit} tokens without a stop. Either replies are longer than "
        f"that, or the model has not learned to end them: look whether the stop token is trained (sftdata inspect)."
    )
