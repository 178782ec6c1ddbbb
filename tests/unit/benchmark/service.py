"""A served model for the client to measure: the API and the counters of vLLM, in a thread of the test."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class Service:
    """Answers each completion with its length in tokens; `fault` breaks it.

    Attributes:
        fault: "", 500 (every second request), garbage (no text), wrong-counts, moody
            (chats differ), dies (with the first request of the load), or dies-early (of the warm-up).
        key: Without it nobody gets an answer below /v1.
        prompts: Of the streamed completions.
        counts: prompt and generation tokens, requests finished.
    """

    def __init__(self, fault: str = "", key: str = "") -> None:
        self.fault, self.key = fault, key
        self.lock = threading.Lock()
        self.prompts: list[Any] = []
        self.counts = {"prompt": 0, "generation": 0, "length": 0, "stop": 0, "asked": 0}
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

            def do_GET(self) -> None:
                if self.let_in():
                    self.reply(service.get(self.path))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.let_in():
                    return
                if not self.path.endswith("/completions"):
                    self.reply("")  # the tool asks for /tokenize, and can do without
                    return
                with service.lock:
                    service.counts["asked"] += 1
                    number = service.counts["asked"]
                if service.fault == "500" and body.get("stream_options") and number % 2:
                    self.send_error(500)
                    return
                first = body.get("stream_options") if service.fault == "dies" else body.get("stream")
                if service.fault.startswith("dies") and first:
                    service.die()
                    self.close_connection = True
                    return
                if body.get("messages"):
                    self.reply(service.chat(number))
                    return
                self.stream(body)

            def let_in(self) -> bool:
                known = self.headers["Authorization"] == f"Bearer {service.key}"
                if not known and service.key and self.path.startswith("/v1/"):
                    self.send_error(401)
                    return False
                return True

            def reply(self, text: str) -> None:
                data = text.encode()
                self.send_response(200 if data else 404)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def event(self, choices: list[Any], **more: Any) -> None:
                body = {"object": "text_completion", "choices": choices, **more}
                data = b"data: " + json.dumps(body).encode() + b"\n\n"
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

            def stream(self, body: dict[str, Any]) -> None:
                prompt = body["prompt"]
                service.prompts.append(prompt)
                size = len(prompt) if isinstance(prompt, list) else len(prompt.split())
                tokens = body["max_tokens"]
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                time.sleep(0.05)
                for _ in range(tokens):
                    time.sleep(0.003)
                    self.event([{"text": "" if service.fault == "garbage" else " a"}])
                service.count(size, tokens)
                self.event([], usage={"prompt_tokens": size, "completion_tokens": tokens})
                self.wfile.write(b"0\r\n\r\n")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def die(self) -> None:
        """Take no connection any more, as a server whose process is gone."""
        self.server.socket.close()

    def count(self, prompt: int, tokens: int) -> None:
        with self.lock:
            self.counts["prompt"] += prompt
            self.counts["generation"] += tokens * (2 if self.fault == "wrong-counts" else 1)
            self.counts["length"] += 1

    def chat(self, number: int) -> str:
        with self.lock:
            self.counts["generation"] += 5
            self.counts["stop"] += 1
        text = f"mood {number}" if self.fault == "moody" else "an answer"
        message = {"content": text, "reasoning": None}
        choice = {"message": message, "finish_reason": "stop"}
        return json.dumps({"choices": [choice], "usage": {"completion_tokens": 5}})

    def get(self, path: str) -> str:
        if path == "/v1/models":
            return json.dumps({"data": [{"id": "tiny-r1", "max_model_len": 2048}]})
        if path == "/version":
            return '{"version": "0.32.0+cpu"}'
        if path != "/metrics":
            return ""
        with self.lock:
            counts = dict(self.counts)
        return "\n".join(
            [
                "# HELP vllm:prompt_tokens_total Number of prefill tokens processed.",
                f'vllm:prompt_tokens_total{{engine="0"}} {counts["prompt"]}.0',
                f'vllm:generation_tokens_total{{engine="0"}} {counts["generation"]}.0',
                f'vllm:request_success_total{{engine="0",finished_reason="length"}} {counts["length"]}.0',
                f'vllm:request_success_total{{engine="0",finished_reason="stop"}} {counts["stop"]}.0',
                'vllm:num_requests_running{engine="0"} 0.0',
                'vllm:cache_config_info{block_size="16",engine="0",enable_prefix_caching="True"} 1.0',
            ]
        )

    def __enter__(self) -> Service:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
