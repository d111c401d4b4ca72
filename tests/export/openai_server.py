"""A server with the completions interface of OpenAI as vLLM extends it: adaptive_jax decodes, by the setting it is told."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import adaptive_jax as aj

# what may be asked: its type, and the values that vLLM takes
FIELDS: dict[str, tuple[type, Any]] = {
    "model": (str, lambda value: value == "tiny"),
    "prompt": (str, bool),
    "n": (int, lambda value: value >= 1),
    "max_tokens": (int, lambda value: value >= 1),
    "temperature": (float, lambda value: 0 <= value <= 2),
    "top_p": (float, lambda value: 0 < value <= 1),
    "top_k": (int, lambda value: value == -1 or value >= 1),
    "min_p": (float, lambda value: 0 <= value <= 1),
}


@contextlib.contextmanager
def openai_server(lm: aj.LM) -> Iterator[str]:
    """The address of the server."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *parts: object) -> None:
            pass

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            wrong = [name for name in asked if name not in FIELDS]
            wrong += [
                name
                for name, (kind, allowed) in FIELDS.items()
                if type(asked.get(name)) is not kind or not allowed(asked[name])
            ]
            if self.path != "/v1/completions" or self.headers["Content-Type"] != "application/json" or wrong:
                return self._answer(400, {"error": {"message": f"{self.path}: {wrong}", "code": 400}})
            setting = {name: asked[name] for name in ("temperature", "top_p", "min_p")}
            policy = aj.static(top_k=max(asked["top_k"], 0), **setting)
            (done,) = aj.generate(lm, [asked["prompt"]], policy, n=asked["n"], max_new_tokens=asked["max_tokens"], seed=0)
            ends = {"stop": "stop", "budget": "length"}
            choices = [
                {"index": index, "text": one.text, "finish_reason": ends[one.finish_reason]} for index, one in enumerate(done)
            ]
            return self._answer(200, {"object": "text_completion", "model": asked["model"], "choices": choices})

        def _answer(self, status: int, content: object) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
