# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_data.confinement`: take the measures of the policy in the environment, and print what holds.

What a system allows is known for certain only by doing it, and a process can do it once: so the service asks a process
that ends afterwards.
"""

import os
import sys

from finetree_data.confinement import measures
from finetree_data.confinement.confine import ConfinementError, confine
from finetree_data.confinement.policy import Policy


def main() -> int:
    """Print the report as one line; return 1 where a half-taken measure has broken the process."""
    try:
        confinement = confine(Policy.take(os.environ) or Policy(namespace=True))
    except ConfinementError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(measures.to_text(confinement.measures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
