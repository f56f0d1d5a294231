"""Two real processes over gloo: disjoint slices of the same global batches, and the gradients of one process."""

from __future__ import annotations

import queue
import socket

import numpy as np
import pytest
import torch.multiprocessing

from tests.torch.packs import many, sealed
from tests.torch.rank import run

BINS = many(11, seed=4)
STEPS = 3
"""In an epoch of 11 bins at 4 a step; the last step has 3, and so one blank."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What two processes saw, and what one did."""
    path = sealed(tmp_path_factory.mktemp("shards") / "set", BINS)
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=run, args=(rank, 2, port, path, results)) for rank in range(2)]
    for process in processes:
        process.start()
    got = sorted((results.get(timeout=120) for _ in processes), key=lambda outcome: outcome[0])
    for process in processes:
        process.join(60)
    for _, seen, _ in got:
        assert not isinstance(seen, str), seen
    alone: queue.Queue = queue.Queue()
    run(0, 1, port, path, alone)
    return got, alone.get()


def test_two_ranks_take_disjoint_slices_of_the_same_global_batches(outcomes):
    ((_, first, state), (_, second, other_state)), (_, alone, alone_state) = outcomes
    assert len(first) == len(second) == len(alone) == STEPS
    for one, two, whole in zip(first, second, alone, strict=True):
        together = [ids for pair in zip(one[0], two[0], strict=True) for ids in pair]
        assert together[: len(whole[0])] == whole[0]
        assert len(one[0]) == len(two[0])
    assert len(together) == len(whole[0]) + 1
    assert together[-1] == together[-2]  # the blank one
    assert state == other_state == alone_state


def test_two_ranks_have_the_loss_and_the_gradient_of_one(outcomes):
    ((_, first, _), (_, second, _)), (_, alone, _) = outcomes
    for one, two, whole in zip(first, second, alone, strict=True):
        assert one[1] == pytest.approx(whole[1], rel=1e-12)
        assert two[1] == one[1]
        assert np.array_equal(one[2], two[2])
        np.testing.assert_allclose(one[2], whole[2], rtol=1e-9, atol=1e-13)
