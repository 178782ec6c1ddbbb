"""The load generators: which words start them. What they write is read beside them (client/runner.py)."""

from __future__ import annotations

import msgspec

from manyhost.benchmark.result import Load
from manyhost.errors import InvalidInput


class Runner(msgspec.Struct, frozen=True, kw_only=True):
    """A load generator.

    Attributes:
        tool: Its name, here and in client/runner.py.
        distribution: The Python distribution that has its version; empty for ours.
        words: What starts it; {names} are filled in by the client, for each process and for the calibration.
        values: What is filled in for the load itself.
        steady: The same for the calibration, whose requests are small.
    """

    tool: str
    distribution: str
    words: tuple[str, ...]
    values: dict[str, str]
    steady: dict[str, str]


STEADY_INPUT, STEADY_OUTPUT = 32, 20  # tokens of a request of the calibration


def manyhost(load: Load, vocabulary: int) -> Runner:
    """Return our own load generator (client/load.py), which needs nothing but Python.

    Args:
        load: What to send.
        vocabulary: Token ids of prompts are below it.
    """
    words = ["{python}", "{client}/load.py", "--url", "{url}"]
    words += ["--concurrency", "{concurrency}", "--rate", "{rate}", "--go", "{go}"]
    words += ["--prefix-tokens", "{prefix}", "--prefix-count", "{prefixes}", "--prefix-seed", "{measurement}"]
    made = _ours("manyhost", words, load, vocabulary)
    prefix = {"prefix": str(load.prefix_tokens), "prefixes": str(load.prefix_count)}
    short = {"prefix": str(STEADY_INPUT // 2 if load.prefix_count else 0)}
    return msgspec.structs.replace(made, values=made.values | prefix, steady=made.steady | short)


def vllm_bench_serve(program: tuple[str, ...], load: Load, tokenizer: str) -> Runner:
    """Return `vllm bench serve` of the engine's own version: vLLM's benchmark, in the same image.

    Args:
        program: What starts vLLM's command line.
        load: What to send.
        tokenizer: Folder or name of the tokenizer that makes the prompts.
    """
    words = [*program, "bench", "serve", "--backend", "openai", "--endpoint", "/v1/completions"]
    words += ["--base-url", "{url}", "--model", "{model}", "--tokenizer", "{tokenizer}"]
    values = {"input": str(load.input_tokens), "output": str(load.output_tokens), "tokenizer": tokenizer}
    values |= {"rate": repr(load.rate) if load.rate else ""}
    if load.prefix_tokens:
        words += ["--dataset-name", "prefix_repetition"]
        words += ["--prefix-repetition-prefix-len", "{prefix}", "--prefix-repetition-suffix-len", "{rest}"]
        words += [
            "--prefix-repetition-num-prefixes",
            "{prefixes}",
            "--prefix-repetition-output-len",
            "{output}",
        ]
        rest = load.input_tokens - load.prefix_tokens
        values |= {"prefix": str(load.prefix_tokens), "rest": str(rest), "prefixes": str(load.prefix_count)}
    else:
        words += [
            "--dataset-name",
            "random",
            "--random-input-len",
            "{input}",
            "--random-output-len",
            "{output}",
        ]
        words += ["--random-range-ratio", "{spread}"]
        values |= {"spread": repr(load.spread)}
    words += ["--num-prompts", "{requests}", "--max-concurrency", "{concurrency}", "--request-rate", "{rate}"]
    words += ["--ignore-eos"] if load.ignore_eos else []
    words += ["--seed", "{seed}", "--temperature", "0", "--ready-check-timeout-sec", "0", "--disable-tqdm"]
    words += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99"]
    words += ["--save-result", "--save-detailed", "--result-dir", "{folder}", "--result-filename", "{result}"]
    steady = {"input": str(STEADY_INPUT), "output": str(STEADY_OUTPUT)}
    if load.prefix_tokens:
        steady |= {"prefix": str(STEADY_INPUT // 2), "rest": str(STEADY_INPUT // 2), "prefixes": "1"}
    else:
        steady |= {"spread": "0.0"}
    return Runner(tool="vllm", distribution="vllm", words=tuple(words), values=values, steady=steady)


def locust(program: str, load: Load, vocabulary: int) -> Runner:
    """Return Locust with our streaming users (client/locustfile.py).

    Args:
        program: Locust's.
        load: What to send.
        vocabulary: Token ids of prompts are below it.

    Raises:
        InvalidInput: The load is one that these users cannot send.
    """
    if load.rate or load.prefix_tokens:
        what = "arrivals by rate" if load.rate else "prompts with a common beginning"
        raise InvalidInput(
            f"the users for Locust have no {what}", where="--runner locust", fix="leave --runner out"
        )
    words = [
        program,
        "--headless",
        "--only-summary",
        "--locustfile",
        "{client}/locustfile.py",
        "--host",
        "{url}",
    ]
    words += ["--users", "{users}", "--spawn-rate", "{users}"]
    return _ours("locust", words, load, vocabulary, distribution="locust")


def aiperf(python: str, load: Load, vocabulary: int) -> Runner:
    """Return AIPerf with requests of ours (client/aiperf_load.py).

    Args:
        python: Of AIPerf's environment.
        load: What to send.
        vocabulary: Token ids of prompts are below it.

    Raises:
        InvalidInput: The load is one that these requests cannot make.
    """
    if load.prefix_tokens:
        raise InvalidInput(
            "the requests for AIPerf have no prompts with a common beginning",
            where="--runner aiperf",
            fix="leave --runner out",
        )
    words = [
        python,
        "{client}/aiperf_load.py",
        "--url",
        "{url}",
        "--concurrency",
        "{users}",
        "--rate",
        "{rate}",
    ]
    return _ours("aiperf", words, load, vocabulary, distribution="aiperf")


def _ours(tool: str, words: list[str], load: Load, vocabulary: int, *, distribution: str = "") -> Runner:
    """Return a load generator that takes the options of client/completions.py."""
    words += ["--model", "{model}", "--input-tokens", "{input}", "--output-tokens", "{output}"]
    words += ["--spread", "{spread}", "--vocabulary", str(vocabulary)]
    words += ["--requests", "{requests}", "--seed", "{seed}"]
    words += [] if load.ignore_eos else ["--stop-at-eos"]
    words += ["--result", "{result}"]
    values = {
        "input": str(load.input_tokens),
        "output": str(load.output_tokens),
        "spread": repr(load.spread),
        "rate": repr(load.rate) if load.rate else "",
    }
    steady = {"input": str(STEADY_INPUT), "output": str(STEADY_OUTPUT), "spread": "0.0"}
    return Runner(tool=tool, distribution=distribution, words=tuple(words), values=values, steady=steady)
