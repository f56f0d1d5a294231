"""A running model server, asked for the ids of texts and chats: vLLM's and llama.cpp's tokenize endpoints.

What lives here: requests that end in bounded time with bounded answers, and what each dialect is asked. What must
not: what the answers should be. Nothing is followed, retried or sent but the one request; no credentials are looked
for.

    vLLM       POST /tokenize {model, messages, add_generation_prompt, tools, chat_template_kwargs} -> {count, tokens}
               POST /tokenize {model, prompt, add_special_tokens} -> {count, tokens}
    llama.cpp  POST /apply-template {messages, tools, chat_template_kwargs} -> {prompt}
               POST /tokenize {content, add_special, parse_special} -> {tokens}

Sources: vllm-project/vllm, vllm/entrypoints/serve/tokenize/protocol.py; ggml-org/llama.cpp, tools/server/README.md.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from sftdata.errors import ConfigError, SftdataError, describe, nearest

__all__ = ["DIALECTS", "Dialect", "RefusedError", "Server", "ServerError", "choose_dialect"]

_LARGEST = 32 << 20
"""Bytes of an answer that are read: a million ids take less."""
_LARGEST_ID = 1 << 31


class ServerError(SftdataError):
    """The server cannot be asked: it is not there, too slow, or answers with something else (exit code 2)."""


class RefusedError(Exception):
    """The server refused this very request (HTTP 400 or 422), or failed in it (500): `status`, and its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server:
    """One server by its base address; every request is over, or given up, after `timeout` seconds."""

    def __init__(self, url: str, *, timeout: float, model: str | None = None, key: str | None = None) -> None:
        """`key` is sent as a bearer token. Raises ConfigError where `url` is not one of a server."""
        self.url = url
        self.model = model
        self._timeout = timeout
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise _bad_url(url) from error
        if parts.scheme not in ("http", "https") or not self._host or parts.query or parts.username:
            raise _bad_url(url)
        self._secure = parts.scheme == "https"
        self._base = parts.path.rstrip("/").removesuffix("/v1")

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that a POST is answered with.

        Raises RefusedError for status 400, 422 and 500, ServerError for everything else that is no such answer.
        """
        return self._asked("POST", path, json.dumps(body).encode())

    def get(self, path: str) -> dict[str, Any]:
        """The same for GET."""
        return self._asked("GET", path, None)

    def _asked(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        status, data = self._exchange(method, self._base + path, body)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if status in (400, 422, 500):
            raise RefusedError(status, _words(value, data))
        if status != 200:
            hint = _HINTS.get(status, "")
            raise self.error(f"{method} {path} is answered with status {status}: {_words(value, data)}", hint)
        if not isinstance(value, dict):
            raise self.error(f"{method} {path} is answered with no JSON object", _NOT_ONE)
        return value

    def error(self, what: str, fix: str = "") -> ServerError:
        """An error that names the server."""
        return ServerError(describe(what, where=self.url, fix=fix))

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """One request on a connection of its own, cut off when its time is over, however the bytes trickle."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout)
        late = threading.Event()

        def cut() -> None:
            late.set()
            if connection.sock is not None:
                try:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    return  # it ended by itself in this very moment

        timer = threading.Timer(self._timeout, cut)
        timer.daemon = True
        timer.start()
        try:
            connection.request(method, path, body, self._headers)
            response = connection.getresponse()
            data = response.read(_LARGEST + 1)
            if response.length and len(data) <= _LARGEST:
                raise http.client.IncompleteRead(data, response.length)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise self._too_slow(method, path) from error
            told = str(error) or type(error).__name__
            fix = "Start it, or check address and port."
            raise self.error(f"the server cannot be reached: {told[:200]}", fix) from error
        finally:
            timer.cancel()
            connection.close()
        if late.is_set():
            raise self._too_slow(method, path)
        if len(data) > _LARGEST:
            raise self.error(f"{method} {path} is answered with more than {_LARGEST >> 20} MiB", _NOT_ONE)
        return response.status, data

    def _too_slow(self, method: str, path: str) -> ServerError:
        return self.error(f"no answer to {method} {path} in {self._timeout:g} s", "Raise --timeout.")


_NOT_ONE = "Name the address of a vLLM or llama.cpp server, without a path."
_HINTS = {
    401: "Name the environment variable that holds its key with --api-key-env.",
    403: "Name the environment variable that holds its key with --api-key-env.",
    404: _NOT_ONE,
    405: _NOT_ONE,
    503: "Wait until the server has loaded its model.",
}


def _bad_url(url: str) -> ConfigError:
    return ConfigError(describe("not the address of a server", where=url, expected="such as http://127.0.0.1:8000"))


def _words(value: Any, data: bytes) -> str:
    """What an error answer says, at most a line of it."""
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(key):
            value = value[key]
    text = value if isinstance(value, str) else data.decode("utf-8", "replace")
    return " ".join(text.split())[:300] or "nothing"


# -- dialects


class Dialect(Protocol):
    """How one kind of server is asked."""

    name: str

    def text(self, server: Server, text: str) -> list[int]:
        """The ids of a rendered prompt, nothing added."""
        ...

    def chat(self, server: Server, record: Mapping[str, Any], upto: int, kwargs: Mapping[str, Any]) -> list[int]:
        """The ids that the model would be given for the first `upto` messages of a record."""
        ...


class _Vllm:
    name = "vllm"

    def text(self, server: Server, text: str) -> list[int]:
        return self._ids(server, {"prompt": text, "add_special_tokens": False})

    def chat(self, server: Server, record: Mapping[str, Any], upto: int, kwargs: Mapping[str, Any]) -> list[int]:
        asked = {"add_generation_prompt": True, "add_special_tokens": False}
        return self._ids(server, {**_request(record, upto, kwargs), **asked})

    def _ids(self, server: Server, body: Mapping[str, Any]) -> list[int]:
        answer = server.post("/tokenize", {**_model(server), **body})
        return _ids(server, answer)


class _LlamaCpp:
    name = "llama.cpp"

    def text(self, server: Server, text: str) -> list[int]:
        return self._ids(server, text, special=False)

    def chat(self, server: Server, record: Mapping[str, Any], upto: int, kwargs: Mapping[str, Any]) -> list[int]:
        asked = {**_model(server), **_request(record, upto, kwargs), "add_generation_prompt": True}
        prompt = server.post("/apply-template", asked).get("prompt")
        if not isinstance(prompt, str):
            raise server.error("POST /apply-template is answered without a prompt", _NOT_ONE)
        # it takes a BOS that the template printed off the prompt, and the tokenizer puts it back
        return self._ids(server, prompt, special=True)

    def _ids(self, server: Server, text: str, *, special: bool) -> list[int]:
        body = {**_model(server), "content": text, "add_special": special, "parse_special": True}
        return _ids(server, server.post("/tokenize", body))


DIALECTS: dict[str, Dialect] = {one.name: one for one in (_Vllm(), _LlamaCpp())}


def choose_dialect(server: Server, name: str) -> Dialect:
    """The dialect of that name; for `auto`, the one in which the server gives a word ids.

    Raises ConfigError for an unknown name, ServerError where the server knows neither.
    """
    if name != "auto":
        if name not in DIALECTS:
            raise ConfigError(describe(f"no dialect {name!r}", fix=nearest(name, ["auto", *DIALECTS])))
        return DIALECTS[name]
    refusals = []
    for dialect in DIALECTS.values():
        try:
            if dialect.text(server, "word"):
                return dialect
        except RefusedError as refusal:
            refusals.append(f"{dialect.name}: status {refusal.status}, {refusal}")
        else:
            # llama.cpp finds no content in vLLM's request, and answers with no ids
            refusals.append(f"{dialect.name}: no ids for a word")
    raise server.error(f"it speaks neither dialect ({'; '.join(refusals)})", "Name one with --dialect.")


def _model(server: Server) -> dict[str, str]:
    return {} if server.model is None else {"model": server.model}


def _request(record: Mapping[str, Any], upto: int, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The chat as a client sends it; what is not set is not there."""
    arguments = {**kwargs, **(record.get("chat_template_kwargs") or {})}
    out: dict[str, Any] = {"messages": [_message(one) for one in record["messages"][:upto]]}
    if record.get("tools"):
        out["tools"] = record["tools"]
    if arguments:
        out["chat_template_kwargs"] = arguments
    return out


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """One message: arguments of calls as JSON text, reasoning under both of its names, no training flag."""
    out = {key: value for key, value in message.items() if key != "weight"}
    if "reasoning_content" in out:
        out["reasoning"] = out["reasoning_content"]
    if "tool_calls" in out:
        out["tool_calls"] = [{**call, "function": _function(call["function"])} for call in out["tool_calls"]]
    return out


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {**function, "arguments": text}


def _ids(server: Server, answer: Mapping[str, Any]) -> list[int]:
    tokens = answer.get("tokens")
    if not isinstance(tokens, list) or not all(type(one) is int and 0 <= one < _LARGEST_ID for one in tokens):
        raise server.error("POST /tokenize is answered without a list of ids under the key tokens", _NOT_ONE)
    return tokens
