"""The user's names for columns and roles, and a LLaMA-Factory registry as a source of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sftdata.errors import ConfigError
from sftdata.formats import FORMAT_NAMES, FORMATS, FormatOptions, dataset_info, entry_of, normalise
from sftdata.records import Conversation, Message, Rejection

PAIR = (Message("user", "Q"), Message("assistant", "A"))


def chat(value: Any, **options: Any) -> Conversation:
    result = normalise(value, FormatOptions(**options))
    assert isinstance(result, Conversation), result
    return result


def test_the_table_of_formats_has_the_names_that_options_accept() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES
    assert all(name == entry.name and entry.recognised_by for name, entry in FORMATS.items())


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ({"kind": "k", "input": "Q", "target": "A"}, {"instruction": "input", "output": "target"}),
        ({"content": "Q", "summary": "A"}, {"instruction": "content", "output": "summary"}),
        ({"q": "Q", "a": "A", "prompt": "P"}, {"prompt": "q", "completion": "a"}),
        ({"dialog": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}, {"messages": "dialog"}),
        ({"chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "rejected": []},
         {"messages": "chosen"}),
        ({"turns": [{"who": "human", "said": "Q"}, {"who": "gpt", "said": "A"}]},
         {"conversations": "turns", "from": "who", "value": "said"}),
    ],
)  # fmt: skip
def test_mapped_columns_are_read_under_their_canonical_names(record: Any, columns: dict[str, str]) -> None:
    assert chat(record, columns=columns).messages == PAIR


def test_a_partial_mapping_leaves_every_other_column_as_it_is() -> None:
    record = {"question": "Q", "input": "I", "output": "A", "system": "S", "history": [["q", "a"]]}
    result = chat(record, columns={"instruction": "question"})
    assert [turn.content for turn in result.messages] == ["S", "q", "a", "Q\n\nI", "A"]


def test_pointers_lead_into_the_record_as_the_user_wrote_it() -> None:
    columns = {"messages": "a/b", "role": "who"}
    turns = [{"who": "user", "content": "Q"}, {"who": "model", "content": 5}, {"who": "assistant", "content": "A"}]
    result = normalise({"a/b": turns}, FormatOptions(columns=columns))
    assert [(found.code, found.pointer) for found in result.findings] == [
        ("SFT104", "/a~1b/1/who"),
        ("SFT110", "/a~1b/1/content"),
    ]
    assert chat({"a/b": [turns[0], turns[2]]}, columns=columns).pointers == ("/a~1b/0", "/a~1b/1")
    assert chat({"input": "Q", "target": "A"}, columns={"instruction": "input", "output": "target"}).pointers == (
        "/input",
        "/target",
    )


def test_a_mapped_column_that_is_missing_is_missed() -> None:
    result = normalise({"instruction": "Q", "output": "A"}, FormatOptions("alpaca", {"output": "reply"}))
    assert [found.code for found in result.findings] == ["SFT103"]


def test_roles_are_mapped_before_they_are_judged() -> None:
    turns = [{"role": "user", "content": "Q"}, {"role": "model", "content": "A"}]
    assert isinstance(normalise(turns), Rejection)
    assert chat(turns, roles={"model": "assistant"}).messages == PAIR
    swapped = [{"role": "assistant", "content": "Q"}, {"role": "user", "content": "A"}]
    assert chat(swapped, roles={"user": "assistant", "assistant": "user"}).messages == PAIR
    call = {"role": "api", "content": '{"name": "f", "arguments": {}}'}
    assert chat([turns[0], call], roles={"api": "function_call"}).messages[1].tool_calls[0].name == "f"


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"input_format": "alpacca"}, "did you mean alpaca?"),
        ({"columns": {"outptu": "a"}}, "did you mean output?"),
        ({"roles": {"model": "asistant"}}, "did you mean assistant?"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_the_nearest(options: Any, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint.replace("?", r"\?")):
        FormatOptions(**options)


def registry(tmp_path: Path, **entries: Any) -> dict[str, tuple[str, FormatOptions]]:
    path = tmp_path / "dataset_info.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return dataset_info(path)


def test_a_registry_names_data_and_how_to_read_it(tmp_path: Path) -> None:
    tags = {"role_tag": "who", "content_tag": "said", "user_tag": "student", "assistant_tag": "tutor"}
    entries = registry(
        tmp_path,
        plain={"file_name": "a.json"},
        hub={"hf_hub_url": "some/set", "split": "train", "columns": {"prompt": "question", "response": "reply"}},
        chat={"file_name": "b.json", "formatting": "sharegpt", "columns": {"messages": "dialog"}, "tags": tags},
        elsewhere={"ms_hub_url": "some/set"},
    )
    assert {name: address for name, (address, _) in entries.items()} == {
        "plain": "a.json",
        "hub": "hf:some/set:train",
        "chat": "b.json",
    }
    assert normalise({"question": "Q", "reply": "A"}, entries["hub"][1]).messages == PAIR  # type: ignore[union-attr]
    turns = [{"who": "student", "said": "Q"}, {"who": "tutor", "said": "A"}]
    assert normalise({"dialog": turns}, entries["chat"][1]).messages == PAIR  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/a.json", "plain"),
        ("a.json", "plain"),
        ("/data/my_a.json", None),
        ("/data/a.json.gz", None),
        ("/data/sub/a.json", "deep"),
        ("/data/parts/x/1.jsonl", "folder"),
        ("hf:some/set", "hub"),
        ("hf:some/set:test", "hub"),
        ("hf:some/settings", None),
    ],
)
def test_an_entry_is_of_the_file_that_it_names_in_whole_parts(tmp_path: Path, address: str, name: str | None) -> None:
    entries = registry(
        tmp_path,
        plain={"file_name": "a.json", "columns": {"prompt": "plain"}},
        deep={"file_name": "sub/a.json", "columns": {"prompt": "deep"}},
        folder={"file_name": "parts", "columns": {"prompt": "folder"}},
        hub={"hf_hub_url": "some/set", "columns": {"prompt": "hub"}},
    )
    found = entry_of(address, entries)
    assert (found.columns["instruction"] if found else None) == name


def test_two_entries_of_one_file_must_agree(tmp_path: Path) -> None:
    same = {"file_name": "a.json"}
    assert entry_of("a.json", registry(tmp_path, one=same, two=same)) == FormatOptions()
    with pytest.raises(ConfigError, match="'one' and 'two' both name it"):
        entry_of("a.json", registry(tmp_path, one=same, two={**same, "formatting": "sharegpt"}))


def test_an_entry_with_a_prompt_alone_is_a_text_unless_the_record_has_an_answer(tmp_path: Path) -> None:
    _, options = registry(tmp_path, pile={"file_name": "a.json", "columns": {"prompt": "raw"}})["pile"]
    text = normalise({"raw": "T", "meta": 1}, options)
    assert isinstance(text, Conversation)
    assert text.text == "T"
    pair = normalise({"raw": "Q", "output": "A"}, options)
    assert isinstance(pair, Conversation)
    assert (pair.messages, pair.findings) == (PAIR, ())


@pytest.mark.parametrize(
    "columns",
    [{"messages": "chat", "kto_tag": "good"}, {"messages": "chat", "chosen": "better", "rejected": "worse"}],
)
def test_an_entry_that_names_preferences_is_refused_by_name(tmp_path: Path, columns: dict[str, str]) -> None:
    entry = {"file_name": "a.json", "formatting": "sharegpt", "columns": columns}
    _, options = registry(tmp_path, entry=entry)["entry"]
    record = {"chat": [{"from": "human", "value": "Q"}], "good": True, "better": "A", "worse": "B"}
    assert [found.code for found in normalise(record, options).findings] == ["SFT124"]


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"file_name": "x", "formatting": "y"}}', "\xff"])
def test_what_is_no_registry_is_a_configuration_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "dataset_info.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"dataset_info\.json"):
        dataset_info(path)
    with pytest.raises(ConfigError, match="missing"):
        dataset_info(tmp_path / "missing")
