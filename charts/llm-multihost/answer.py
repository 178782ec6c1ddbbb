"""What `helm test` runs in a pod of its own: one completion through the Service, as a client asks for it.

answer.py ADDRESS MODEL

Its last line says what came back or why nothing did. It needs Python 3 and nothing else.
"""

import http.client
import json
import os
import ssl
import sys
import time
import urllib.parse

CONNECT_SECONDS = 30  # a Service forwards to a new pod a moment after the pod is ready
ANSWER_SECONDS = 200  # with these helm test, which waits 300, still hears why


def ask(address: str, body: dict[str, object]) -> tuple[int, bytes]:
    """Send one completion request; return the answer's status and body."""
    url = urllib.parse.urlsplit(address)
    if url.scheme == "https":
        # The certificate names the public address, not the Service.
        unverified = ssl._create_unverified_context()  # noqa: S323
        link: http.client.HTTPConnection = http.client.HTTPSConnection(
            url.netloc, timeout=ANSWER_SECONDS, context=unverified
        )
    else:
        link = http.client.HTTPConnection(url.netloc, timeout=ANSWER_SECONDS)
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("VLLM_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    try:
        link.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = link.getresponse()
        return answer.status, answer.read()
    finally:
        link.close()


def problem(address: str, model: str) -> str:
    """Ask until something answers; return what is wrong, nothing when text came back."""
    body = {"model": model, "prompt": "The capital of France is", "max_tokens": 16, "temperature": 0}
    # A first token that ends the answer would leave nothing to look at.
    body |= {"ignore_eos": True}
    end = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            status, data = ask(address, body)
            break
        except TimeoutError:
            return f"no answer within {ANSWER_SECONDS} s"
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() > end:
                return f"nothing answers, so no group is ready: {error}"
            time.sleep(1)
    shown = " ".join(data[:300].decode(errors="replace").split())
    if status != 200:
        return f"answered {status}: {shown}"
    try:
        text = json.loads(data)["choices"][0]["text"]
    except (ValueError, KeyError, IndexError, TypeError):
        return f"answered what is no completion: {shown}"
    if not text:
        return f"answered without a word: {shown}"
    print(f"answer.py: {address} answers for {model}: {text!r}")  # noqa: T201
    return ""


if __name__ == "__main__":
    wrong = problem(*sys.argv[1:3])
    sys.exit(f"answer.py: {sys.argv[1]} {wrong}" if wrong else 0)
