"""Measure this library and its peers side by side.

`python -m benchmarks.run` writes one JSON file per workload. Each workload runs in one process of at most ten minutes:
every competitor stores it and is compared with the source bit for bit, in a process of its own, so that a crash is
recorded and breaks nobody else; then all are timed in turn, round by round. Results are saved after each round. A run
that was interrupted continues there if it is started again with the same arguments and the same code.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks import workloads
from benchmarks.contest import Contest, log
from benchmarks.ours import OURS
from benchmarks.peers import PEERS
from benchmarks.results import FOLDER

PACKAGES = (
    *("kinoml-data", "torch", "numpy", "awkward", "pyarrow", "datasets", "h5py", "zarr", "lmdb", "tensordict"),
    *("torch-geometric", "litdata", "webdataset", "pylance", "grain", "array-record", "bagz", "spdl-io", "scdataset"),
)


def environment() -> dict[str, Any]:
    cpu = next(
        (s.split(":")[1].strip() for s in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in s), ""
    )
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    code = subprocess.run(git, capture_output=True, text=True, cwd=Path(__file__).parent, check=False).stdout.strip()
    return {
        "code": code,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def contest(options: argparse.Namespace, name: str, folder: Path) -> None:
    """Run one workload, and write what was found after every round."""
    data = workloads.make(name, options.rows)
    log(f"{name}: {len(data):,} rows, {data.nbytes / 1e6:.0f} MB, {data.source}")
    only = options.only.split(",") if options.only else None
    known = [cls for cls in (*OURS, *PEERS) if name in cls.works]
    chosen = [cls() for cls in known if only is None or cls.name in only]
    arguments = {"only": options.only, "rounds": options.rounds, "cap": options.cap, "minutes": options.minutes}
    about = {"workload": name, "rows": len(data), "bytes": data.nbytes, "source": data.source, "arguments": arguments}
    about |= environment()
    path: Path = options.out / f"{name}.json"
    found: dict[str, Any] = {"about": about, "rounds": 0, "seconds": 0.0, "finished": False, "results": {}}
    if not options.restart and path.exists() and (before := json.loads(path.read_text()))["about"] == about:
        found = before
    if found["finished"]:
        log(f"{name} is finished; --restart measures it again")
        return
    running = Contest(data, chosen, folder / f"{name}-{len(data)}", options.cap, found["results"])
    start = perf_counter() - found["seconds"]
    running.write_and_check()
    for number in range(found["rounds"], options.rounds):
        began = perf_counter()
        running.round(number)
        now = perf_counter()
        # Another round takes as long as this one, or less.
        late = now - start + (now - began) > 60 * options.minutes
        found |= {"rounds": number + 1, "seconds": now - start, "finished": late or number + 1 == options.rounds}
        replace(path, json.dumps(found, indent=1))
        log(f"round {number + 1} of {options.rounds} done" + ", and no time for more" * late)
        if late:
            break
    running.close()


def replace(path: Path, text: str) -> None:
    """Write a file such that it never contains a part of the text only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text + "\n")
    temporary.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=[*workloads.ROWS, "all"], default="all")
    parser.add_argument("--rows", type=int, help="fewer rows, for a quick look")
    parser.add_argument("--rounds", type=int, default=5, help="0 only compares with the source")
    parser.add_argument("--minutes", type=float, default=10, help="of a workload; no round is begun that ends later")
    parser.add_argument("--restart", action="store_true", help="measure again what an earlier run has found")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--cap", type=float, default=0.2, help="seconds that a slow competitor's epoch may take")
    parser.add_argument("--work", type=Path, help="where to write the stores, and to keep them")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    if options.workload == "all":
        for name in workloads.ROWS:
            subprocess.run([sys.executable, "-m", "benchmarks.run", *sys.argv[1:], "--workload", name], check=False)
        return
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    # A batch of 128 tensors sent by a worker takes as many descriptors; peers need them.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if options.work is not None:
        contest(options, options.workload, options.work)
    else:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            contest(options, options.workload, Path(folder))
    sys.stdout.flush()
    os._exit(0)  # threads of some peers do not end by themselves


if __name__ == "__main__":
    main()
