"""A process that imports once and trains in children of its own, so that they can be killed: see test_killed.

    python -m tests.torch.killed FOLDER OPTIONS '{"NAME": ["SIGKILL:4", "SIGTERM:7"], ...}'

starts the run NAME in a fresh child, sends the signal to the child's process group once the metrics hold the step,
again and again, lets it finish at last, and prints how every child ended: `{"NAME": [-9, 143, 0], ...}`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from sftdata_torch.loop import train
from tests.torch.runs import settings


class Held:
    """Waits after the step that a signal is meant for until it has been sent."""

    def __init__(self, step, sent):
        self.at, self.sent = step, sent

    def step(self, done, total, values):
        while done == self.at and not self.sent.exists():
            time.sleep(0.001)

    def note(self, text):
        print(text, flush=True)


def child(folder, name, options, watch):
    """Fork, and train in the child, which leads a process group of its own."""
    number = os.fork()
    if number:
        return number
    os.setsid()
    torch.set_num_threads(1)
    try:
        outcome = train(settings(folder, name, **options), watch=watch)
        os._exit(0 if outcome.finished else 128 + outcome.signal)
    except Exception as error:  # noqa: BLE001  # a child must never return into the parent's code
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        os._exit(2)


def reached(path, step):
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return any(line.startswith(f'{{"step": {step},') for line in lines)


def ends(folder, name, kills, options):
    """Exit codes of the run's children."""
    found = []
    for kill in [*kills, None]:
        number, _, step = (kill or "").partition(":")
        sent = folder / f"{name}-{kill}.sent"
        process = child(folder, name, options, Held(int(step or 0), sent))
        if kill is not None:
            while not reached(folder / name / "metrics.jsonl", int(step)):
                time.sleep(0.001)
            os.killpg(process, signal.Signals[number])
            sent.touch()
        found.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    return found


def main():
    folder, options, runs = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    print(json.dumps({name: ends(folder, name, kills, options) for name, kills in runs.items()}))


if __name__ == "__main__":
    main()
