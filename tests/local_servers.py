"""Model servers on 127.0.0.1 for tests: vLLM's and llama.cpp's tokenize endpoints over transformers' own rendering.

What lives here: what those servers answer when all is well, and servers that are ill in one way each. What must not:
the product; the chat template and the ids are transformers'.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

__all__ = ["Answer", "Trouble", "llama_cpp", "serving", "trickling", "vllm"]

Answer = Callable[[str, dict[str, Any]], Any]
"""(path, request body; empty for GET) → the JSON value of the answer; raises Trouble for another status."""


class Trouble(Exception):
    """An answer with another status than 200; bytes are sent as they are."""

    def __init__(self, status: int, body: Any, **headers: str) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """The address of a server that gives these answers, while the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, body: dict[str, Any]) -> None:
            try:
                status, value, headers = 200, answer(self.path, body), {}
            except Trouble as trouble:
                status, value, headers = trouble.status, trouble.body, trouble.headers
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            try:
                self.send_response(status)
                for name, text in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                return  # the client had enough

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class has it so
            """Tests read standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def vllm(tokenizer: PreTrainedTokenizerFast, *, model: str = "tuned", chat_bos: bool = False) -> Answer:
    """A healthy vLLM. `chat_bos`: it is asked to add special tokens to chats, as a wrong deployment does."""

    def answer(path: str, body: dict[str, Any]) -> Any:
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": model}]}
        if path != "/tokenize":
            raise Trouble(404, {"detail": "Not Found"})
        if body.get("model") != model:
            raise Trouble(404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}})
        if "messages" in body:
            text = _rendered(tokenizer, body, arguments=json.loads)
            ids = tokenizer.encode(text, add_special_tokens=body["add_special_tokens"] or chat_bos)
        elif "prompt" in body:
            ids = tokenizer.encode(body["prompt"], add_special_tokens=body.get("add_special_tokens", True))
        else:
            raise Trouble(400, {"error": {"message": "1 validation error: Field required"}})
        return {"count": len(ids), "max_model_len": 4096, "tokens": ids, "token_strs": None}

    return answer


def llama_cpp(tokenizer: PreTrainedTokenizerFast) -> Answer:
    """A healthy llama.cpp server: a BOS that the template printed is taken off, as the tokenizer will add it."""

    def answer(path: str, body: dict[str, Any]) -> Any:
        if path == "/apply-template":
            text = _rendered(tokenizer, body, arguments=json.loads)
            return {"prompt": text.removeprefix(tokenizer.bos_token or "\0")}
        if path == "/tokenize":
            if "content" not in body:
                return {"tokens": []}
            return {"tokens": tokenizer.encode(body["content"], add_special_tokens=body.get("add_special", False))}
        raise Trouble(404, {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}})

    return answer


def _rendered(tokenizer: PreTrainedTokenizerFast, body: dict[str, Any], *, arguments: Callable[[str], Any]) -> str:
    """The chat as these servers hand it to the template: arguments parsed, reasoning under the name templates know."""
    messages = []
    for message in body["messages"]:
        message = dict(message)
        if "reasoning" in message:
            message["reasoning_content"] = message["reasoning"]
        if "tool_calls" in message:
            message["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": arguments(call["function"]["arguments"])}}
                for call in message["tool_calls"]
            ]
        messages.append(message)
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tools=body.get("tools"),
            add_generation_prompt=body.get("add_generation_prompt", True),
            tokenize=False,
            **(body.get("chat_template_kwargs") or {}),
        )
    except TemplateError as error:
        raise Trouble(400, {"error": {"message": str(error), "type": "BadRequestError", "code": 400}}) from error
    assert isinstance(text, str)
    return text


@contextmanager
def trickling(data: bytes, pause: float) -> Iterator[tuple[str, list[int]]]:
    """The address of a server that writes `data` a byte at a time, with pauses, and never closes; and what it wrote."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    wrote: list[int] = []

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(65536)
                    for at in range(len(data)):
                        connection.sendall(data[at : at + 1])
                        wrote.append(data[at])
                        time.sleep(pause)
                    stop.wait(10)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", wrote
    finally:
        stop.set()
        listener.close()
        thread.join(timeout=1)
