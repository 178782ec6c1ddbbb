"""Asks a server thousands of questions that have one right answer, and counts: python ask.py --help.

Standard library only, so that it runs wherever a server does. It prints one JSON object: counts,
the engine's own counters over the run, and every wrong answer with its prompt. Exit status 1 says
that an answer was wrong or failed.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.request import Request, urlopen

from prompts import Case, Vocabulary, cases

# The engine's counters that say whether a run met what it should: https://docs.vllm.ai/en/v0.26.0/usage/metrics/
COUNTERS = {
    "preemptions": "vllm:num_preemptions_total",
    "prefix_queries": "vllm:prefix_cache_queries_total",
    "prefix_hits": "vllm:prefix_cache_hits_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generated_tokens": "vllm:generation_tokens_total",
}
KEPT = 20  # wrong answers that are written out


@dataclass
class Tally:
    """What came of one round.

    Attributes:
        in_flight: Requests at a time.
        right: Answers equal to the right one, token by token.
        wrong: Answers that differ.
        failed: Requests without an answer.
        left: Requests whose client went away on purpose.
        seconds: The whole round.
        cases: The first of the wrong and failed, whole.
        counters: The engine's, over the round.
    """

    in_flight: int
    right: int = 0
    wrong: int = 0
    failed: int = 0
    left: int = 0
    seconds: float = 0.0
    tokens: int = 0
    cases: list[dict[str, Any]] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=dict)


class Server:
    """An OpenAI-compatible server, over one kept connection a thread."""

    def __init__(self, host: str, port: int, model: str) -> None:
        self.host, self.port, self.model = host, port, model
        self.local = threading.local()
        self.opened: list[http.client.HTTPConnection] = []

    def complete(self, case: Case, timeout: float, logprobs: int = 0) -> dict[str, Any]:
        """The answer's `choices[0]`.

        Raises:
            OSError, HTTPException, ValueError: no answer, or none in `timeout` seconds.
        """
        body = {"model": self.model, "prompt": case.prompt, "temperature": 0, "return_token_ids": True}
        body |= {"max_tokens": len(case.answer) + 8}
        body |= {"logprobs": logprobs} if logprobs else {}
        connection = getattr(self.local, "connection", None)
        if connection is None:
            connection = self.local.connection = http.client.HTTPConnection(self.host, self.port)
            self.opened.append(connection)
        connection.timeout = timeout
        if connection.sock:
            connection.sock.settimeout(timeout)
        try:
            connection.request(
                "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise ValueError(f"{response.status}: {text[:300]!r}")
            choice: dict[str, Any] = json.loads(text)["choices"][0]
        except BaseException:
            connection.close()
            self.local.connection = None
            raise
        return choice

    def close(self) -> None:
        """Closes the connections of threads that are over."""
        for connection in self.opened:
            connection.close()
        self.opened.clear()

    def swap_kv_blocks(self, seed: int) -> None:
        """Harms the KV cache (harm.py) once."""
        body = json.dumps({"method": "swap_kv_blocks", "args": [str(seed)]}).encode()
        call = Request(f"http://{self.host}:{self.port}/collective_rpc", body)
        urlopen(call, timeout=60).close()

    def counters(self) -> dict[str, float]:
        """The engine's counters, added up over its labels."""
        with urlopen(f"http://{self.host}:{self.port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found = {}
        for name, metric in COUNTERS.items():
            values = re.findall(rf"^{re.escape(metric)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
            found[name] = sum(map(float, values))
        return found


def judged(case: Case, choice: dict[str, Any]) -> bool:
    """Whether an answer is the right one, to its last token and its end."""
    got, end = choice["token_ids"], case.answer[-1]
    if got[-1:] != [end]:
        got = [*got, end]  # some versions leave the last token out
    return got == case.answer and choice["finish_reason"] == "stop"


def ask(server: Server, source: Iterator[Case], count: int, in_flight: int, leave: int) -> Tally:
    """One round: `count` requests, of which every `leave`-th goes away early (0: none)."""
    tally, lock = Tally(in_flight), threading.Lock()
    before, begin = server.counters(), time.monotonic()

    def one(number: int) -> None:
        with lock:
            case = next(source)
        leaving = bool(leave) and number % leave == leave - 1
        kept: dict[str, Any] = {}
        outcome = "failed"
        try:
            choice = server.complete(case, 0.25 if leaving else 600)
            outcome = "right" if judged(case, choice) else "wrong"
            kept = {"got": choice["token_ids"], "finish_reason": choice["finish_reason"]}
        except (OSError, http.client.HTTPException, ValueError) as error:
            kept = {"error": repr(error)}
            if leaving and isinstance(error, socket.timeout):
                outcome = "left"
        with lock:
            setattr(tally, outcome, getattr(tally, outcome) + 1)
            tally.tokens += len(kept.get("got", []))
            if outcome in ("wrong", "failed") and len(tally.cases) < KEPT:
                tally.cases.append({"outcome": outcome, **asdict(case), **kept})

    with ThreadPoolExecutor(in_flight) as pool:
        list(pool.map(one, range(count)))
    server.close()
    tally.seconds = round(time.monotonic() - begin, 1)
    tally.counters = {name: value - before[name] for name, value in server.counters().items()}
    return tally


def control(server: Server, source: Iterator[Case], count: int, in_flight: int) -> tuple[Tally, int]:
    """A round during which KV blocks are swapped, and how many times they were."""
    over, swaps = threading.Event(), itertools.count()
    server.swap_kv_blocks(next(swaps))  # the first call takes seconds, and the questions may take no more

    def harm() -> None:
        while not over.wait(0.1):
            server.swap_kv_blocks(next(swaps))

    thread = threading.Thread(target=harm)
    thread.start()
    try:
        tally = ask(server, source, count, in_flight, 0)
    finally:
        over.set()
        thread.join()
    return tally, next(swaps)


def margin(server: Server, source: Iterator[Case], count: int) -> float:
    """The least gap, in log probability, between the right token and the next one, over some answers.

    Asked one at a time; an answer that is wrong counts as 0.
    """
    least = float("inf")
    for case in itertools.islice(source, count):
        choice = server.complete(case, 600, logprobs=2)
        if not judged(case, choice):
            return 0.0
        for top in choice["logprobs"]["top_logprobs"]:
            best = sorted(top.values())
            least = min(least, best[-1] - best[-2])
    return round(least, 2)


def main() -> None:
    """Reads the command line, asks, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="127.0.0.1:8000", help="HOST:PORT")
    parser.add_argument("--model", required=True, help="its name on the server")
    parser.add_argument("--symbols", type=int, required=True, help="of the model's vocabulary")
    parser.add_argument("--vocabulary", type=int, required=True, help="its size")
    parser.add_argument("--links", default="8,400", help="fewest,most links of a common beginning")
    parser.add_argument("--rounds", default="2000x96,4000x256,4800x512", help="COUNTxIN_FLIGHT, ...")
    parser.add_argument("--leave", type=int, default=50, help="one client in this many goes away early")
    parser.add_argument("--margin", type=int, default=8, help="answers to take the least margin of")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--control", default="", help="COUNTxIN_FLIGHT with KV blocks swapped (harm.py), at the end"
    )
    options = parser.parse_args()
    host, _, port = options.url.partition(":")
    server = Server(host, int(port), options.model)
    least, most = map(int, options.links.split(","))
    source = cases(Vocabulary(options.symbols, options.vocabulary), options.seed, (least, most))
    result: dict[str, Any] = {
        "seed": options.seed,
        "margin": margin(server, source, options.margin),
        "rounds": [],
    }
    for words in options.rounds.split(","):
        count, in_flight = map(int, words.split("x"))
        tally = ask(server, source, count, in_flight, options.leave)
        result["rounds"].append(asdict(tally))
    if options.control:
        count, in_flight = map(int, options.control.split("x"))
        tally, swaps = control(server, source, count, in_flight)
        tally.cases = tally.cases[:1]  # wrong by intention: one as an example
        result["control"] = {"swaps": swaps, **asdict(tally)}
    print(json.dumps(result))
    bad = sum(one["wrong"] + one["failed"] for one in result["rounds"])
    sys.exit(1 if bad or not result["margin"] else 0)


if __name__ == "__main__":
    main()
