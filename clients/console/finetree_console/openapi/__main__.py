# SPDX-License-Identifier: Apache-2.0
"""Write the committed document, or compare it, with an image of the contract on standard input.

buf build --as-file-descriptor-set --output - --path finetree_api | python -m finetree_console.openapi [--check]
"""

import sys
from pathlib import Path

from finetree_console.openapi.document import encoded
from finetree_console.openapi.image import Image

FILE = Path(__file__).with_name("openapi.json")


def main(arguments: list[str]) -> int:
    """Write the document; with --check return 1 where the committed one is another."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m finetree_console.openapi [--check] < IMAGE\n")
        return 2
    wanted = encoded(Image(sys.stdin.buffer.read()))
    if not arguments:
        FILE.write_text(wanted, encoding="utf-8")
    elif not FILE.exists() or FILE.read_text(encoding="utf-8") != wanted:
        sys.stderr.write(f"{FILE.name} of the console is not what the contract says: run `make generate`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
