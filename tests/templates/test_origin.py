"""Where a template comes from: the order of transformers, names, and files that are broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sftdata.errors import ConfigError
from sftdata.templates.builtin import BUILTIN
from sftdata.templates.origin import resolve_template


def test_source_without_a_tag_that_is_too_long_for_a_name_is_no_template() -> None:
    with pytest.raises(ConfigError, match="no such template") as raised:
        resolve_template("x" * 5000, None, {})
    assert len(str(raised.value)) < 1000


def test_jinja_file_hides_the_config_key(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("file")
    origin = resolve_template(None, tmp_path, {"chat_template": "config"})
    assert (origin.kind, origin.name, origin.sources) == ("tokenizer", "chat_template.jinja", {"default": "file"})


def test_additional_templates_join_the_default_under_their_stem(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("plain")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("rag")
    origin = resolve_template(None, tmp_path, {})
    assert origin.sources == {"default": "plain", "tool_use": "tools"}
    assert origin.available == ("default", "rag", "tool_use")
    assert resolve_template("rag", tmp_path, {}).sources == {"default": "rag"}


@pytest.mark.parametrize(
    ("value", "sources"),
    [
        ("text", {"default": "text"}),
        (
            [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}],
            {"default": "a", "tool_use": "b"},
        ),
        ([{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}], {"default": "a"}),
        ({"default": "a"}, {"default": "a"}),
    ],
)
def test_config_key_is_a_text_or_a_list(value: Any, sources: dict[str, str]) -> None:
    origin = resolve_template(None, None, {"chat_template": value})
    assert origin.name == "tokenizer_config.json"
    assert origin.sources == sources


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "chat_template is a int"),
        ([{"template": "a"}], "chat_template[0] has no name"),
        (["a"], "chat_template[0] has no name"),
        ([{"name": "default", "template": None}], "the chat template 'default' is not text"),
    ],
)
def test_malformed_config_key_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_template(None, None, {"chat_template": value})
    assert str(caught.value).startswith(f"tokenizer_config.json: {message} (expected template source, or a list")
    assert "--template" in str(caught.value)


def test_no_template_is_refused_by_rule_with_the_carried_names() -> None:
    with pytest.raises(ConfigError, match=r"SFT301: .*--template: a \.jinja file, or one of alpaca, chatml"):
        resolve_template(None, None, {})


def test_several_templates_without_a_default_must_be_named() -> None:
    config = {"chat_template": [{"name": "tool_use", "template": "b"}, {"name": "rag", "template": "c"}]}
    with pytest.raises(ConfigError, match=r"none is the default: rag, tool_use.*--template rag"):
        resolve_template(None, None, config)
    assert resolve_template("tool_use", None, config).sources == {"default": "b"}


def test_a_file_wins_over_names_and_its_path_stays_out_of_the_origin(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_bytes("grüße\r\n".encode())
    origin = resolve_template(str(path), None, {"chat_template": "config"})
    assert (origin.kind, origin.name, origin.sources) == ("file", "mine.jinja", {"default": "grüße\n"})


def test_a_carried_name_gives_the_carried_source() -> None:
    origin = resolve_template("chatml", None, {"chat_template": "config"})
    assert (origin.kind, origin.name) == ("builtin", "chatml")
    assert origin.sources == {"default": BUILTIN["chatml"].source()}


def test_template_source_may_be_given_in_place() -> None:
    assert resolve_template("{{ messages }}", None, {}).sources == {"default": "{{ messages }}"}


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"--template qwen2\.6: no such template .*Did you mean qwen2\.5\?"):
        resolve_template("qwen2.6", None, {})


def test_undecodable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"chat_template\.jinja: the template cannot be read"):
        resolve_template(None, tmp_path, {})


def test_sources_and_choice_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    carried = Path(__file__).parents[2] / "sftdata" / "tokenizers" / "builtin"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((carried / name).read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["chat_template"] = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for step in range(3):
        if step == 1:
            (tmp_path / "chat_template.jinja").write_text("F")
        if step == 2:
            (tmp_path / "additional_chat_templates").mkdir()
            (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("A")
        oracle = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
        ours = resolve_template(None, tmp_path, config).sources
        assert ours["default"] == oracle.get_chat_template()
        assert ours.get("tool_use", ours["default"]) == oracle.get_chat_template(tools=[{}])
