"""Every attack of the corpus, in one process that is watched: each ends in its error and runs nothing.

`python -m tests.faults attacks` makes the files, then opens them in a process of its own. An audit hook sees what
Python does there: nothing may be unpickled, started or connected, and no text of an attacker compiled or imported. All
is done twice. In the second round, with nothing left to be imported for the first time, nothing may be compiled,
executed or imported at all.
"""

from __future__ import annotations

import importlib
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import kinoml_data as kd
from tests.faults.attack_corpus import RAN, TEXT, Attack, Source, attacks
from tests.faults.report import Report

NEVER = (
    *("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn"),
    *("os.spawn", "os.startfile", "socket.", "urllib.Request", "webbrowser.open", "sys.addaudithook", "os.mkdir"),
)
NEVER_WARM = ("compile", "exec", "import", "marshal.", "code.__new__", "ctypes.")
NAMED = ("compile", "exec", "import")  # never with an attacker's text
ELSEWHERE = ("passwd", "outside")  # files that attackers name, and nobody opens
SECONDS, MEMORY, MESSAGE = 20.0, 512 << 20, 1000
WHEN_BUSY = 10  # times as long it may take if other programs use the processor


def run(cases: int | None = None, seed: int = 0, *, weaken: str = "") -> Report:
    """All attacks; `weaken` takes away one protection, see `WEAKEN`, which has to be noticed."""
    corpus = attacks()
    report = Report("attacks", seed, len(corpus) if cases is None else cases)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder:
        sources = {}
        for number, attack in enumerate(corpus):
            place = Path(folder) / str(number)
            place.mkdir()
            source = attack.make(place)
            sources[attack.name] = str(source) if isinstance(source, Path) else source
        given = Path(folder) / "sources.json"
        given.write_text(json.dumps(sources))
        command = [sys.executable, "-m", __name__, str(given), weaken]
        try:
            child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        except subprocess.TimeoutExpired as error:
            report.problems.append(f"nothing more after {(error.stdout or b'').splitlines()[-1:]}")
        else:
            lines = child.stdout.splitlines()
            report.executed = len({line for line in lines if line.startswith("tried ")})
            report.problems += [line.removeprefix("problem ") for line in lines if line.startswith("problem ")]
            if child.returncode:
                report.problems.append(f"the process ended with {child.returncode}: {child.stderr[-2000:]}")
        report.problems += [f"{path} is there: something ran" for path in Path(folder).rglob(RAN)]
    report.seconds = time.perf_counter() - began
    return report


ROOT = Path(__file__).parents[2]


def judge(attack: Attack, source: Source) -> str | None:
    """What is wrong with how an attack ends; None if nothing."""
    began, worked, before = time.monotonic(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error: BaseException | None = None
    old = signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS * WHEN_BUSY)
    try:
        open_and_read(source)
    except BaseException as caught:
        error = caught
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    # Its own work counts, not that of other programs; what waits instead of working ends with the alarm.
    seconds = max(time.process_time() - worked, (time.monotonic() - began) / WHEN_BUSY)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if seconds > SECONDS:
        return f"took {seconds:.0f} s"
    if grown > MEMORY:
        return f"took {grown >> 20} MiB"
    if attack.error is None:
        return None if error is None else f"is harmless, and ended in {error!r}"[:500]
    if error is None:
        return "was read as if nothing were wrong"
    text = str(error)
    if type(error) is not attack.error:
        return f"ended in {error!r}, not in {attack.error.__name__}"[:500]
    if attack.said not in text:
        return f"says {text[:300]!r}, which is without {attack.said!r}"
    if any(not (c.isprintable() or c == "\n") for c in text):
        return f"says {text[:300]!r}, with control characters"
    if len(text) > MESSAGE or text.count("\n") > 3:
        return f"says {len(text)} characters, {text[:300]!r}"
    return None


def _late(*_: Any) -> None:
    raise TimeoutError(f"hangs: nothing after {SECONDS * WHEN_BUSY:.0f} s")


def open_and_read(source: Source) -> None:
    """Whatever a user does first: a dataset, its splits, all rows, one row."""
    with kd.load_dataset(source) as dataset:
        for part in (dataset, *(dataset.split(name) for name in dataset.indices)):
            part[:]
        dataset[0]


class Watch:
    """An audit hook, which lasts as long as the process."""

    def __init__(self) -> None:
        self.on = self.warm = False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        named = event in NAMED and TEXT in "".join(map(_text, args))
        if event == "open":
            named = Path(_text(args[0])).stem in ELSEWHERE
        if named or event.startswith(NEVER) or (self.warm and event.startswith(NEVER_WARM)):
            self.on = False
            self.seen.append(f"{event} {[_text(arg)[:100] for arg in args]}")
            self.on = True


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def main(given: str, weaken: str) -> None:
    """In the process of its own: a line per attack tried, and one per problem."""
    corpus = {attack.name: attack for attack in attacks()}
    sources = {n: Path(s) if isinstance(s, str) else s for n, s in json.loads(Path(given).read_text()).items()}
    if weaken:
        WEAKEN[weaken](corpus)
    importlib.import_module("torch")  # now and not while it is watched: the CUDA build runs ldconfig
    watch = Watch()
    for watch.warm in (False, True):
        for name, attack in corpus.items():
            print("tried", json.dumps(name), flush=True)
            watch.on = True
            problem = judge(attack, sources[name])
            watch.on = False
            for said in [*([problem] if problem else []), *watch.seen]:
                print(f"problem {name}: {said}".replace("\n", " "), flush=True)
            watch.seen.clear()


# -- the same without a protection


def _unpickling(_: Any) -> None:
    import numpy as np

    from kinoml_data.layouts import npy

    read = npy.read
    npy.read = lambda path: np.load(path, allow_pickle=True) if path.is_file() else read(path)


def _evaluating(_: Any) -> None:
    import ast

    from kinoml_data.layouts import npy

    parse = npy.parse

    def evaluate(text: bytes) -> Any:
        with suppress(Exception):
            ast.literal_eval(text[10:].decode("latin-1"))
        return parse(text)

    npy.parse = evaluate


def _yaml_of_python(_: Any) -> None:
    import yaml

    from kinoml_data.spec import config

    config._yaml = lambda text: yaml.load(text, yaml.UnsafeLoader)


def _expecting_too_much(corpus: dict[str, Attack]) -> None:
    good = corpus["harmless: stored"]
    corpus["harmless: stored"] = Attack(good.name, good.make, kd.errors.CorruptStoreError)


WEAKEN: dict[str, Callable[[dict[str, Attack]], None]] = {
    "unpickling": _unpickling,
    "evaluating": _evaluating,
    "yaml of Python": _yaml_of_python,
    "expecting too much": _expecting_too_much,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
