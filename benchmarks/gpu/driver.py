"""Runs a queue of measurements on a machine with two GPUs: python driver.py --work FOLDER ...

Each line of the queue is one server, a JSON object:

    {"variant": "seats-512", "values": "../../recipes/a3mega/deepseek-r1-671b/values.yaml",
     "serverArgs": {"max-num-seqs": 512}, "env": {"NAME": "value"}, "model": "FOLDER",
     "steps": [{"prompts": 512, "input": 1000, "output": 256, "limit": 0, "repetitions": 3}],
     "ask": ["--seed", "1"], "lose": "kill"}

`values` is a rendered recipe (or a file of its shape); `serverArgs` and `env` change it, null takes
a flag away. `model` is another folder than --model. `limit` caps the client's requests in flight, 0
is none. `ask` are options of answers/ask.py, for a model of answers/model.py, whose weights are not
dummy ("load-format": "auto"). `lose` (kill or cut) takes the second host away at the end. The queue
may grow while the driver runs; {"end": true} ends it.
Results go to FOLDER/results.jsonl, one line a reading, logs beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shlex
import subprocess
import sys
import threading
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import load
import yaml
from rig import PORT, RIG_ENVIRONMENT, Rig, engine_flags, gpu_query

HERE = Path(__file__).resolve().parent
ASK = HERE / "answers" / "ask.py"
FIRST_SEED = 1001
WARM_UP = {"prompts": 128, "input": 1000, "output": 32}
STEP_LIMIT_SECONDS = 240.0
TOLD = re.compile(
    r"(GPU KV cache size: [\d,]+ tokens|Model loading took [\d.]+ GiB|torch.compile took [\d.]+ s|"
    r"Directly load AOT compilation|Graph capturing finished in \d+ secs, took [\d.]+ GiB|"
    r"init engine .*? took [\d.]+ s|Available KV cache memory: [\d.]+ GiB|"
    r"Using \S+ attention backend|Using \S+ \S*MoE backend|Maximum concurrency[^\n]*|"
    r"NET/Socket : Using [^\n]{0,60}|OutOfMemoryError[^\n]{0,90})"
)


class Driver:
    """Takes jobs from the queue and writes readings."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.work: Path = options.work
        self.model = str(options.model)
        self.launch: Path = options.launch.resolve()
        self.engine = shlex.split(options.engine)
        self.rig = Rig(self.work, self.launch, self.engine, options.model)
        self.context: dict[str, Any] = {}
        self.servers = 0

    def write(self, kind: str, **facts: Any) -> None:
        """Appends one reading and shows it."""
        line = load.dumps({"kind": kind, "at": round(time.time(), 1), **self.context, **facts})
        with (self.work / "results.jsonl").open("a") as out:
            out.write(line + "\n")
        print(line[:600], flush=True)

    def machine(self) -> None:
        """Notes what this runs on."""
        import torch

        self.write(
            "machine",
            gpus=gpu_query("name,memory.total,driver_version"),
            python=sys.version.split()[0],
            torch=torch.__version__,
            nccl=".".join(map(str, torch.cuda.nccl.version())),
            vllm=version("vllm"),
            transformers=version("transformers"),
            cpus=len(Path("/proc/cpuinfo").read_text().split("processor\t")) - 1,
            rig_environment=RIG_ENVIRONMENT,
        )

    def jobs(self) -> Any:
        """Yields queue lines as they come, with all lines known so far."""
        done = 0
        while True:
            path = self.work / "queue.jsonl"
            lines = path.read_text().splitlines() if path.exists() else []
            jobs = [json.loads(line) for line in lines if line.strip()]
            if done < len(jobs):
                done += 1
                if jobs[done - 1].get("end"):
                    return
                yield jobs[done - 1], jobs
            else:
                time.sleep(0.5)

    def settle(self, job: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
        """The engine's flags and environment: the recipe's, changed by the job."""
        values = yaml.safe_load((HERE / job["values"]).read_text())
        arguments = {"load-format": "dummy"} | values["vllm"]["serverArgs"] | job.get("serverArgs", {})
        arguments = {name: value for name, value in arguments.items() if value is not None}
        named = [*values["vllm"].get("env", [])]
        named += (values.get("network") or {}).get("ncclSettings", [])
        environment = {pair["name"]: str(pair["value"]) for pair in named}
        return engine_flags(arguments), {**environment, **job.get("env", {})}

    def prepare(self, jobs: list[dict[str, Any]]) -> None:
        """Makes the prompts of all known jobs while the first server starts."""
        for job in jobs:
            for step, seed in repetitions(job.get("steps", [])):
                load.prepare(self.model, step, seed)
                load.prepare(self.model, WARM_UP, 7)

    def run(self, job: dict[str, Any], jobs: list[dict[str, Any]]) -> None:
        """One server from start to end."""
        flags, environment = self.settle(job)
        name = job["variant"]
        self.rig.model = Path(job.get("model", self.model))
        self.servers += 1
        self.context = {"variant": name}
        preparing = threading.Thread(target=self.prepare, args=(jobs,))
        preparing.start()
        log = f"{self.servers:02d}-{name}"
        try:
            self.rig.start(log, flags, environment)
            times = self.rig.wait_until_serving()
            facts = sorted({f for path in self.rig.log for f in TOLD.findall(path.read_text())})
            kept = any("AOT" in fact for fact in facts)
            self.write(
                "start",
                seconds=times,
                kept_caches=kept,
                flags=flags,
                environment=environment,
                log=facts,
                memory=gpu_query("memory.used"),
            )
            preparing.join()
            if "ask" in job:
                self.ask(job["ask"])
            if "steps" in job:
                load.run_bench(self.model, WARM_UP, 7, STEP_LIMIT_SECONDS)
                self.write("answers", **asyncio.run(load.greedy_answers(self.model)))
            for step, seed in repetitions(job.get("steps", [])):
                self.measure(step, seed)
                if (self.work / "skip").exists():
                    (self.work / "skip").unlink()
                    break
            if job.get("lose"):
                self.write("loss", **asyncio.run(load.host_loss(self.rig, job["lose"])))
        except Exception as error:
            why = "".join(traceback.format_exception_only(error)).strip()
            logs = [path.read_text(errors="replace") for path in self.rig.log]
            errors = [line for text in logs for line in text.splitlines() if " ERROR " in line]
            self.write(
                "failure",
                why=why,
                flags=flags,
                environment=environment,
                errors=errors[:30],
                logs=[text[-1500:] for text in logs],
            )
        preparing.join()
        self.rig.stop()
        text = "".join(path.read_text(errors="replace") for path in self.rig.log)
        links = sorted(set(re.findall(r"via (?:NET/\S+|P2P\S*|SHM\S*)", text)))
        spilled = len(re.findall("out of memory", text, re.IGNORECASE))
        self.write("end", out_of_memory=spilled, links=links)

    def ask(self, options: list[str]) -> None:
        """Questions that have one right answer; counts, and what was wrong."""
        command = [sys.executable, str(ASK), "--url", f"127.0.0.1:{PORT}", *options]
        command += ["--model", str(self.rig.model)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.stdout:
            raise RuntimeError(done.stderr[-1000:])
        words = ["python", f"benchmarks/gpu/answers/{ASK.name}", *options, "--model", self.rig.model.name]
        self.write("right_answers", command=shlex.join(words), **json.loads(done.stdout))

    def measure(self, step: dict[str, int], seed: int) -> None:
        """One repetition, with the processor time that each process took."""
        before, own = load.server_load(self.rig), time.process_time()
        words = load.bench_arguments(Path(self.model).name, step, seed)
        command = ["vllm", "bench", "serve", *words]
        result = load.run_bench(self.model, step, seed, STEP_LIMIT_SECONDS)
        after, own = load.server_load(self.rig), time.process_time() - own
        seconds = result["duration"]
        busy = {name: (used - before.get(name, 0.0)) / seconds for name, used in after.items()}
        self.write(
            "bench",
            step=step,
            seed=seed,
            command=shlex.join(command),
            result=result,
            memory=gpu_query("memory.used"),
            client_cpu=round(own / seconds, 2),
            cpu={name: round(used, 2) for name, used in busy.items() if used > 0.05},
        )


def repetitions(steps: list[dict[str, int]]) -> Any:
    """Yields (step, seed): a new seed each time, since prompts seen before are cached."""
    seed = FIRST_SEED
    for step in steps:
        shape = {name: value for name, value in step.items() if name != "repetitions"}
        for _ in range(step.get("repetitions", 1)):
            yield shape, seed
            seed += 1


def plug_in(folder: Path) -> None:
    """Makes the folder in which every vLLM process finds dummy_weights.py and answers/harm.py."""
    entry = folder / "manyhost_dummy_weights-1.dist-info"
    entry.mkdir(parents=True, exist_ok=True)
    metadata = "Metadata-Version: 2.1\nName: manyhost-dummy-weights\nVersion: 1\n"
    (entry / "METADATA").write_text(metadata)
    text = "[vllm.general_plugins]\nmanyhost_dummy_weights = dummy_weights:register\n"
    (entry / "entry_points.txt").write_text(text)
    for source in (HERE / "dummy_weights.py", HERE / "answers" / "harm.py"):
        (folder / source.name).write_text(source.read_text())


def main() -> None:
    """Reads the command line and works the queue off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="queue, logs, caches, results")
    parser.add_argument("--model", type=Path, required=True, help="folder made by model.py")
    parser.add_argument("--engine", default="vllm", help="command prefix of the engine")
    charts = HERE.parents[1] / "charts" / "llm-multihost" / "launcher" / "launch.sh"
    parser.add_argument("--launch", type=Path, default=charts)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    plug_in(options.work / "plugin")
    driver = Driver(options)
    subprocess.run(["nvidia-smi"], check=True, stdout=subprocess.DEVNULL)
    driver.machine()
    for job, jobs in driver.jobs():
        driver.run(job, jobs)


if __name__ == "__main__":
    main()
