# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree.testing`: serve a fake suite until stdin ends; its address is the first line on stdout."""

import sys
from datetime import UTC, datetime

from finetree.testing.clock import Clock
from finetree.testing.suite import Suite


def main() -> None:
    """Serve."""
    with Suite(clock=Clock(datetime.now(tz=UTC), speed=1.0)) as suite:
        sys.stdout.write(f"{suite.address}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
