"""Every fault that is injected is found, and nothing is found where nothing is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.faults import FAULTS, Fault, found_by
from tests.conformance.mutations import clean


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    assert found_by(None, tmp_path) == {"prepare": set(), "verify": set(), "against": set()}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.place}: {fault.name}")
def test_an_injected_fault_is_found(fault: Fault, tmp_path: Path) -> None:
    assert any(found_by(fault, tmp_path).values())


def test_real_chats_raise_no_false_alarm(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "datasets"
    files = [folder / "messages" / "tinker_conversations.jsonl", folder / "tools" / "openai_drone_training.jsonl"]
    assert clean(files, shared_data / "tokenizers" / "minimind", tmp_path / "out") == set()
