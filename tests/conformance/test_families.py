"""Templates of many families, in our own words, against the oracle: exact, or refused for a reason that it sees.

The files of `families/` write the wire formats of public models that no collection at hand holds; `make conformance`
takes all shapes of conversation, this is a part of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.harness import base_tokenizer, from_folder
from tests.conformance.table import row

BASE = base_tokenizer()
FAMILIES = from_folder(Path(__file__).with_name("families"))
SHAPES = ("two turns", "system", "text beside call", "control")
TAKES_NO_SYSTEM = {"chatglm2", "orion"}


@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_exact_or_refused_for_a_reason_that_the_oracle_sees(name: str) -> None:
    judged = row((name, FAMILIES[name]), shapes=SHAPES)
    last = {shape: second or first for shape, (first, second) in judged.verdicts.items()}
    assert [fault for one in last.values() for fault in one.faults] == []
    assert last["two turns"].outcome in {"exact", "unrolled"}
    assert last["system"].code == ("SFT308" if name in TAKES_NO_SYSTEM else "")
    assert last["text beside call"].code in {"", "SFT308"}
