"""What aiconfigurator says of the rows, as aiconfigurator.csv; runs in an environment of its own (README.md).

It ships the silicon points among its own data, and its CI is held against them: for it they are not held out.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import io
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SYSTEMS = {"H100 80GB SXM": "h100_sxm", "H200 141GB SXM": "h200_sxm"}


def asked(row: dict[str, str]) -> dict[str, str]:
    """Return its times in milliseconds for a row, or why there are none."""
    from aiconfigurator.cli.api import cli_estimate

    tensor, data = int(row["tensor"]), int(row["data"])
    running = max(1, int(row["concurrency"]) // int(row["groups"]))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = cli_estimate(
                model_path="deepseek-ai/DeepSeek-V3",
                system_name=SYSTEMS[row["gpu"]],
                mode="static_gen" if row["apart"] == "yes" else "agg",
                backend_name=row["engine"],
                isl=int(row["input"]),
                osl=int(row["output"]),
                batch_size=max(1, running // data),
                tp_size=tensor,
                pp_size=int(row["pipeline"]),
                attention_dp_size=data,
                moe_tp_size=1 if data > 1 else tensor,
                moe_ep_size=data,
            )
    except Exception as error:  # its own errors are many
        return {"refused": f"{type(error).__name__}: {' '.join(str(error).split())}"[:80]}
    return {"tpot_ms": f"{found.tpot:.3f}", "ttft_ms": f"{found.ttft:.2f}", "refused": ""}


def main() -> None:
    """Ask for every row that our model is held against."""
    version = importlib.metadata.version("aiconfigurator")
    rows = [row for row in csv.DictReader((FOLDER / "rows.csv").open()) if not row["unused"]]
    with (FOLDER / "aiconfigurator.csv").open("w") as file:
        writer = csv.DictWriter(file, ["id", "version", "tpot_ms", "ttft_ms", "refused"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({"id": row["id"], "version": version} | asked(row))
            sys.stderr.write(".")
            sys.stderr.flush()


if __name__ == "__main__":
    main()
