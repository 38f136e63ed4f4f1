# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree.testing`: serve a fake suite until stdin ends; its address is the first line on stdout."""

import sys

from finetree.testing.suite import Suite


def main() -> None:
    """Serve."""
    with Suite() as suite:
        sys.stdout.write(f"{suite.address}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
