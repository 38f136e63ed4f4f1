# SPDX-License-Identifier: Apache-2.0
"""A program that is interrupted, as by Ctrl-C, at random moments while it opens and reads event streams.

Run by test_interrupts.py. It says how many interrupts arrived and how long the slowest round took to end.
"""

import json
import random
import signal
import sys
import time

import finetree

ROUNDS = 60


def interrupted_round(address: str, name: str, moment: float) -> tuple[bool, float]:
    """Read events until an interrupt; whether it arrived, and the seconds from it until the client was closed."""
    arrived = time.monotonic()
    client = finetree.Client(address)
    try:
        signal.setitimer(signal.ITIMER_REAL, moment)
        try:
            for _ in client.job(name).events():
                pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            arrived = time.monotonic()
            client.close()
    except KeyboardInterrupt:
        return True, time.monotonic() - arrived
    return False, time.monotonic() - arrived


def interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Arguments: the suite's address, the name of a job that goes on, seconds over which the moments are spread."""
    address, name, spread = sys.argv[1], sys.argv[2], float(sys.argv[3])
    signal.signal(signal.SIGALRM, interrupt)
    moments = random.Random(11)
    rounds = [interrupted_round(address, name, moments.uniform(0.0005, spread)) for _ in range(ROUNDS)]
    slowest = max(seconds for _, seconds in rounds)
    sys.stdout.write(json.dumps({"interrupts": sum(arrived for arrived, _ in rounds), "slowest": slowest}))


if __name__ == "__main__":
    main()
