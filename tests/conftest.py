"""Fixtures that several suites share."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("laws", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("laws")
# `laws`: the same examples every time, so that a run says what the code is and not what was drawn. `explore`
# (`make props`): other examples every time, twenty times as many (`strategies.examples`).


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inputs, or a skip that says what is missing."""
    named = os.environ.get("SFTDATA_TEST_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data: ../shared/data is missing and SFTDATA_TEST_DATA names no folder")
    return folder


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """Commands that run in this very process take its signals over, for good."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    hook = sys.unraisablehook
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    sys.unraisablehook = hook
