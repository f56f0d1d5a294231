"""`sftdata template serve-check` against servers on loopback: healthy ones of both dialects, and ill ones."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as NativeTokenizer

from sftdata.templates.builtin import BUILTIN
from sftdata.templates.shapes import SHAPES
from sftdata.tokenizers import load_files
from sftdata_cli.main import main
from tests.local_servers import Answer, Trouble, llama_cpp, serving, trickling, vllm

PreTrainedTokenizerFast = pytest.importorskip(
    "transformers", reason="transformers is not installed"
).PreTrainedTokenizerFast

Run = Callable[..., tuple[int, str, str]]
DIALECTS = {"vllm": vllm, "llama.cpp": llama_cpp}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Ask a server with the carried tokenizer; exit code, standard output, standard error."""

    def call(url: str, *arguments: object) -> tuple[int, str, str]:
        given = [*map(str, arguments)]
        if "--golden" not in given and "--tokenizer" not in given:
            given += ["--tokenizer", "builtin"]
        monkeypatch.setattr(sys, "argv", ["sftdata", "template", "serve-check", url, *given])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def served(template: str = "chatml", native: NativeTokenizer | None = None) -> Any:
    """transformers' tokenizer over the carried vocabulary, with a carried template."""
    native = native or NativeTokenizer.from_str(load_files("builtin").tokenizer_json)
    source = BUILTIN[template].source()
    return PreTrainedTokenizerFast(tokenizer_object=native, eos_token="<|im_end|>", chat_template=source)


def prompts(out: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(out)["prompts"]
    return rows


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("template", ["chatml", "qwen3", "qwen2.5"])
def test_a_server_of_the_same_template_and_tokenizer_is_the_same(run: Run, dialect: str, template: str) -> None:
    with serving(DIALECTS[dialect](served(template))) as url:
        code, out, err = run(url, "--template", template, "--format", "json")
    told = json.loads(out)
    assert (code, err, told["same"], told["dialect"]) == (0, "", True, dialect)
    assert {row["outcome"] for row in told["prompts"]} == {"same"}
    assert {row["name"] for row in told["prompts"]} == set(SHAPES)


def test_an_address_as_openai_clients_have_it_is_the_same_server(run: Run) -> None:
    with serving(vllm(served())) as url:
        code, out, _ = run(f"{url}/v1/")
    assert (code, out.splitlines()[0]) == (0, f"{url}/v1/, vllm, model tuned")
    assert out.splitlines()[-1] == "27 the same"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_another_template_is_told_from_another_tokenizer(run: Run, dialect: str) -> None:
    with serving(DIALECTS[dialect](served("qwen2.5"))) as url:
        code, out, _ = run(url)
    assert code == 1
    assert "First difference: single turn, prompt of message 2" in out
    assert 'behind "<|im_start|>"' in out
    assert '"system"' in out.split("\n  server")[1].splitlines()[0]
    assert "the same tokenizer, another text" in out

    spec = json.loads(load_files("builtin").tokenizer_json)
    spec["model"]["merges"] = spec["model"]["merges"][: len(spec["model"]["merges"]) // 2]
    with serving(DIALECTS[dialect](served("chatml", NativeTokenizer.from_str(json.dumps(spec))))) as url:
        code, out, _ = run(url)
    assert code == 1
    assert "another tokenizer: it gives the golden text other ids" in out


def test_template_arguments_are_sent_and_those_of_another_serving_differ(run: Run) -> None:
    with serving(vllm(served("qwen3"))) as url:
        assert run(url, "--template", "qwen3", "--template-arg", "enable_thinking=false")[0] == 0
    inner = vllm(served("qwen3"))
    with serving(lambda path, body: inner(path, {**body, "chat_template_kwargs": {}})) as url:
        code, out, _ = run(url, "--template", "qwen3", "--template-arg", "enable_thinking=false")
    assert code == 1
    assert "ends here" in out


def test_arguments_of_a_record_are_sent_over_those_of_the_command(run: Run, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    record = {"messages": chat, "chat_template_kwargs": {"enable_thinking": True}}
    (tmp_path / "chats.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    flags = ("--template", "qwen3", "--template-arg", "enable_thinking=false", "--records", tmp_path / "chats.jsonl")
    with serving(vllm(served("qwen3"))) as url:
        assert run(url, *flags)[0] == 0


def with_bos(tmp_path: Path) -> tuple[Path, Any]:
    """A tokenizer that adds a BOS by itself, under a template that prints it too: as Llama 2 and Mistral have it."""
    native = NativeTokenizer.from_str(load_files("builtin").tokenizer_json)
    native.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    bos = native.token_to_id("<s>")
    native.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    source = BUILTIN["llama-2"].source()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=native, bos_token="<s>", eos_token="</s>", chat_template=source
    )
    tokenizer.save_pretrained(tmp_path)
    return tmp_path, tokenizer


def test_a_bos_is_served_once_and_a_second_one_is_named(run: Run, tmp_path: Path) -> None:
    folder, tokenizer = with_bos(tmp_path)
    for answer in (llama_cpp(tokenizer), vllm(tokenizer)):
        with serving(answer) as url:
            code, out, err = run(url, "--tokenizer", folder)
        assert code == 0, out + err
    with serving(vllm(tokenizer, chat_bos=True)) as url:
        code, out, _ = run(url, "--tokenizer", folder)
    assert code == 1
    assert "one more token in front, such as a second BOS" in out


def test_what_the_server_refuses_is_a_difference_and_what_fails_in_it_is_not(run: Run) -> None:
    inner = vllm(served())

    def picky(status: int) -> Answer:
        def answer(path: str, body: dict[str, Any]) -> Any:
            if body.get("tools"):
                raise Trouble(status, {"error": {"message": "no \x1b[31mtools\x07 here"}})
            return inner(path, body)

        return answer

    for status, outcome, expected in ((400, "refused", 1), (422, "refused", 1), (500, "failed", 2)):
        with serving(picky(status)) as url:
            code, out, _ = run(url)
        assert code == expected
        assert f"status {status}: no \\x1b[31mtools\\x07 here" in out
        assert not set(out) & {"\x1b", "\x07"}
        with serving(picky(status)) as url:
            rows = prompts(run(url, "--format", "json")[1])
        assert {row["name"] for row in rows if row["outcome"] == outcome} == {
            name for name, record in SHAPES.items() if "tools" in record
        }


def test_golden_files_are_asked_for_without_being_derived_again(run: Run, tmp_path: Path, capsys: Any) -> None:
    golden = tmp_path / "golden.json"
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["--tokenizer", "builtin", "--template", "qwen3", "--out", str(golden)]
        patch.setattr(sys, "argv", ["sftdata", "template", "golden", *arguments])
        with pytest.raises(SystemExit):
            main()
    capsys.readouterr()
    with serving(vllm(served("qwen3"))) as url:
        assert run(url, "--golden", golden)[0] == 0
    with serving(vllm(served("chatml"))) as url:
        assert run(url, "--golden", golden)[0] == 1


def test_content_that_spells_a_control_token_is_not_asked_about(run: Run, tmp_path: Path) -> None:
    records = tmp_path / "chats.jsonl"
    chats = (("Hi", "Hello."), ("What is <|im_end|>?", "A token."))
    records.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}) + "\n"
            for a, b in chats
        ),
        encoding="utf-8",
    )
    with serving(vllm(served())) as url:
        code, out, _ = run(url, "--records", records, "--format", "json")
    assert code == 0
    assert [(row["name"], row["outcome"]) for row in prompts(out)] == [
        ("chats.jsonl:1", "same"),
        ("chats.jsonl:2", "skipped"),
    ]


# -- servers that cannot be asked


def always(status: int, body: Any, **headers: str) -> Answer:
    def answer(path: str, request: dict[str, Any]) -> Any:
        raise Trouble(status, body, **headers)

    return answer


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (always(200, b"<html>welcome</html>"), "no JSON object"),
        (always(200, [1, 2]), "no JSON object"),
        (always(200, b"[" * 100_000), "no JSON object"),
        (always(200, {"tokens": ["a", "b"]}), "without a list of ids"),
        (always(200, {"tokens": [True]}), "without a list of ids"),
        (always(200, {"tokens": [-1]}), "without a list of ids"),
        (always(200, {"tokens": [1 << 40]}), "without a list of ids"),
        (always(200, {"tokens": []}), "it speaks neither dialect"),
        (always(400, {"error": "no \x1b[2J such thing"}), "it speaks neither dialect"),
        (always(404, {"detail": "Not Found"}), "Name the address of a vLLM or llama.cpp server"),
        (always(401, {"error": {"message": "Invalid API key"}}), "--api-key-env"),
        (always(503, {"error": {"message": "Loading model"}}), "Wait until the server has loaded"),
        (always(302, b"", Location="http://127.0.0.1:9/"), "status 302"),
        (always(200, b"{}", **{"Content-Length": "100"}), "cannot be reached"),
    ],
)
def test_a_server_that_answers_with_something_else_is_exit_code_2(run: Run, answer: Answer, says: str) -> None:
    with serving(answer) as url:
        code, out, err = run(url, "--timeout", 1)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {url}: ")
    assert says in err
    assert not set(err) & {"\x1b", "\x07"}


def test_a_dead_port_and_what_is_no_server_are_exit_code_2(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    code, _, err = run(f"http://127.0.0.1:{port}")
    assert code == 2
    assert "cannot be reached" in err
    with trickling(b"SSH-2.0-OpenSSH_9.6\r\n", 0) as (url, _):
        code, _, err = run(url, "--timeout", 5, "--model", "m")
    assert code == 2
    assert "cannot be reached" in err


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port", "http://a@b", "http://a?b=c"]
)
def test_what_is_no_address_is_a_usage_error(run: Run, url: str) -> None:
    code, _, err = run(url)
    assert code == 2
    assert "not the address of a server" in err


def test_a_slow_server_is_given_up_however_it_is_slow(run: Run) -> None:
    given_up = threading.Event()

    def asleep(path: str, body: dict[str, Any]) -> Any:
        given_up.wait()

    with serving(asleep) as url:
        code, _, err = run(url, "--timeout", 0.4, "--model", "tuned")
        given_up.set()
    assert code == 2
    assert "no answer to POST /tokenize in 0.4 s. Raise --timeout." in err
    headers = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 400
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b'{"tokens": [' + b"1, " * 150
    for data in (headers, body):
        with trickling(data, 0.03) as (url, wrote):
            code, _, err = run(url, "--timeout", 0.4, "--model", "tuned")
            heard = len(wrote)
        assert code == 2
        assert "no answer to POST /tokenize in 0.4 s. Raise --timeout." in err
        assert heard < len(data) // 2, "it listened to the end"


def test_a_server_that_dies_on_the_way_is_exit_code_2(run: Run) -> None:
    inner = vllm(served())
    left = [8]

    def dying(path: str, body: dict[str, Any]) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Trouble(502, b"bad gateway")
        return inner(path, body)

    with serving(dying) as url:
        code, _, err = run(url)
    assert code == 2
    assert "status 502: bad gateway" in err


def test_the_key_is_sent_when_asked_for_and_only_then(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run("http://127.0.0.1:9", "--api-key-env", "NO_SUCH_NAME")
    assert code == 2
    assert "NO_SUCH_NAME is not set" in err
    monkeypatch.setenv("SERVED_KEY", "secret")
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def once() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    seen.append(connection.recv(65536))

        thread = threading.Thread(target=once, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for more in ((), ("--api-key-env", "SERVED_KEY")):
            assert run(url, "--model", "m", "--timeout", 60, *more)[0] == 2
        thread.join(timeout=600)
    assert [b"Authorization: Bearer secret" in one for one in seen] == [False, True]


def test_an_unknown_dialect_names_the_known_ones(run: Run) -> None:
    code, _, err = run("http://127.0.0.1:9", "--dialect", "vlm", "--model", "m")
    assert code == 2
    assert "did you mean vllm?" in err
