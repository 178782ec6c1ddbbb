"""Runs a queue of measurements on a machine with GPUs: python driver.py --work FOLDER ...

Each line of the queue is one server, a JSON object:

    {"variant": "seats-512", "values": "../../recipes/a3mega/deepseek-r1-671b/values.yaml",
     "serverArgs": {"max-num-seqs": 512}, "env": {"NAME": "value"}, "model": "FOLDER",
     "steps": [{"prompts": 512, "input": 1000, "output": 256, "limit": 0, "repetitions": 3}],
     "ask": ["--seed", "1"], "lose": "kill"}

`values` is a rendered recipe (or a file of its shape); `serverArgs` and `env` change it, null takes
a flag away. `model` is another folder than --model, and `config` the config.json of a model that is
written first (slice/derive.py makes such lines, with the `plan` that they come from). `hosts` is 2
unless it says 1; `executor` is mp unless it says ray. `parallel`, {"tensor": 4, "data": 1}, are the
ranks of one host, one a GPU; 1 each unless it says more. `limit` caps the client's requests in flight, 0
is none. `ask` are options of answers/ask.py, for a model of answers/model.py, whose weights are not
dummy ("load-format": "auto"). `lose` (kill or cut) takes the second host away at the end. `gpu_gib`
leaves a job out on a smaller GPU. The queue may grow while the driver runs; {"end": true} ends it.

Results go to FOLDER/results.jsonl, one line a reading, logs beside it. A reading that is there when
the driver starts, or in the file of an earlier machine (--known), is not taken again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import load
import model
import readings
import yaml
from rig import BETWEEN_HOSTS, DEVICES, PORT, RIG_ENVIRONMENT, Rig, engine_flags, gpu_query

HERE = Path(__file__).resolve().parent
ASK = HERE / "answers" / "ask.py"
FIRST_SEED = 1001
WARM_UP = {"prompts": 128, "input": 1000, "output": 32}
STEP_LIMIT_SECONDS = 240.0
ONCE = {"ask": "right_answers", "lose": "loss"}  # the reading that a job's key gives once
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
        self.model: Path = options.model or options.work / "m9"
        self.launch: Path = options.launch.resolve()
        self.engine = shlex.split(options.engine)
        self.rig = Rig(self.work, self.launch, self.engine, self.model)
        self.context: dict[str, Any] = {}
        self.servers = 0
        self.results = self.work / "results.jsonl"
        earlier = [*options.known, *filter(Path.exists, [self.results])]
        self.known = [record for path in earlier for record in readings.load(path)]

    def write(self, kind: str, **facts: Any) -> None:
        """Appends one reading and shows it."""
        line = load.dumps({"kind": kind, "at": round(time.time(), 1), **self.context, **facts})
        line = line.replace(f"{self.work}/", "")  # where it was measured is nobody's business
        with self.results.open("a") as out:
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
            between_hosts=BETWEEN_HOSTS,
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
        values: dict[str, Any] = {"vllm": {"serverArgs": {}}}
        if "values" in job:
            values = yaml.safe_load((HERE / job["values"]).read_text())
        arguments = {"load-format": "dummy"} | values["vllm"]["serverArgs"] | job.get("serverArgs", {})
        arguments = {name: value for name, value in arguments.items() if value is not None}
        named = [*values["vllm"].get("env", [])]
        named += (values.get("network") or {}).get("ncclSettings", [])
        environment = {pair["name"]: str(pair["value"]) for pair in named}
        return engine_flags(arguments), {**environment, **job.get("env", {})}

    def model_of(self, job: dict[str, Any]) -> str:
        """The job's model folder; one that driver and job describe is written when it is not there."""
        if "model" in job:
            return str(job["model"])
        config = job.get("config", model.CONFIG)
        # One folder a model, not a job: compiled code is kept for the folder it was made for.
        mark = zlib.crc32(json.dumps(config, sort_keys=True).encode())
        folder = self.work / "models" / f"slice-{mark:08x}" if "config" in job else self.model
        if not folder.exists():
            model.write(folder, config)
        return str(folder)

    def left(self, job: dict[str, Any]) -> list[tuple[dict[str, int], int]]:
        """The job's repetitions that no earlier run of this queue has taken."""
        taken = [(r["step"], r["seed"]) for r in self.known if readings.is_of(r, "bench", job["variant"])]
        return [pair for pair in repetitions(job.get("steps", [])) if pair not in taken]

    def why_not(self, job: dict[str, Any]) -> str:
        """Why there is nothing to do for a job here, or nothing."""
        gpus = job.get("hosts", 2) * math.prod(job.get("parallel", {}).values())
        if len(DEVICES) < gpus:
            return f"needs {gpus} GPUs, and CUDA_VISIBLE_DEVICES names {len(DEVICES)}"
        wanted = job.get("gpu_gib", 0)
        memory = min(int(mib) for mib in gpu_query("memory.total")) / 1024
        if memory < wanted:
            return f"needs a GPU of {wanted} GiB"
        kinds = {"start", *(kind for key, kind in ONCE.items() if key in job)}
        taken = {record["kind"] for record in self.known if record.get("variant") == job["variant"]}
        return "all its readings are there" if kinds <= taken and not self.left(job) else ""

    def prepare(self, jobs: list[dict[str, Any]]) -> None:
        """Makes the prompts of all known jobs while the first server starts."""
        for job in jobs:
            for step, seed in self.left(job) if "variant" in job else []:
                load.prepare(self.model_of(job), step, seed)
                load.prepare(self.model_of(job), WARM_UP, 7)

    def run(self, job: dict[str, Any], jobs: list[dict[str, Any]]) -> None:
        """One server from start to end."""
        name = job["variant"]
        if why := self.why_not(job):
            print(f"{name}: {why}", flush=True)
            return
        flags, environment = self.settle(job)
        self.rig.model = Path(self.model_of(job))
        self.rig.hosts, self.rig.executor = job.get("hosts", 2), job.get("executor", "mp")
        parallel = {"tensor": 1, "data": 1} | job.get("parallel", {})
        self.rig.tensor, self.rig.data = parallel["tensor"], parallel["data"]
        folder = str(self.rig.model)
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
            ranks = [readings.rank(path.read_text(errors="replace")) for path in self.rig.log]
            self.write(
                "start",
                hosts=self.rig.hosts,
                executor=self.rig.executor,
                parallel=parallel,
                plan=job.get("plan"),
                ranks=ranks,
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
                load.run_bench(folder, WARM_UP, 7, STEP_LIMIT_SECONDS)
                self.write("answers", **asyncio.run(load.greedy_answers(folder)))
                self.before_load(job)
            for step, seed in self.left(job):
                self.measure(step, seed)
                if (self.work / "skip").exists():
                    (self.work / "skip").unlink()
                    break
            if job.get("lose"):
                self.write("loss", **self.loss(job["lose"]))
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

    def before_load(self, job: dict[str, Any]) -> None:
        """What else is read from a server that has been warmed up."""

    def loss(self, how: str) -> dict[str, Any]:
        """Takes a part of the server away under load."""
        return asyncio.run(load.host_loss(self.rig, how))

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
        folder = str(self.rig.model)
        before, own = load.server_load(self.rig), time.process_time()
        words = load.bench_arguments(self.rig.model.name, step, seed)
        command = ["vllm", "bench", "serve", *words]
        with load.Watch(self.rig.engine_url) as watch:
            result = load.run_bench(folder, step, seed, STEP_LIMIT_SECONDS)
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
            engine=watch.seen(),
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


def main(kind: type[Driver] = Driver) -> None:
    """Reads the command line and works the queue off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="queue, logs, caches, results")
    parser.add_argument(
        "--model", type=Path, help="folder made by model.py; else m9 in the work folder, written"
    )
    parser.add_argument("--known", type=Path, nargs="*", default=[], help="results of earlier machines")
    parser.add_argument("--engine", default="vllm", help="command prefix of the engine")
    charts = HERE.parents[1] / "charts" / "llm-multihost" / "launcher" / "launch.sh"
    parser.add_argument("--launch", type=Path, default=charts)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    plug_in(options.work / "plugin")
    driver = kind(options)
    subprocess.run(["nvidia-smi"], check=True, stdout=subprocess.DEVNULL)
    driver.machine()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    try:
        for job, jobs in driver.jobs():
            driver.run(job, jobs)
    finally:
        driver.rig.stop()


if __name__ == "__main__":
    main()
