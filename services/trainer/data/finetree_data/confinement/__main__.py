# SPDX-License-Identifier: Apache-2.0
"""`python -m finetree_data.confinement`: take the measures of the policy in the environment, and print what holds.

What a system allows is known for certain only by doing it, and a process can do it once: so the service asks a process
that ends afterwards. One that becomes another user also says, on a second line, which folders are closed to it: the
user may belong to lists of access, and be somebody else on the server of a network disk.
"""

import json
import os
import sys
from pathlib import Path

from finetree_data.confinement import measures, places
from finetree_data.confinement.confine import ConfinementError, confine
from finetree_data.confinement.policy import Policy


def main() -> int:
    """Print the report as one line; return 1 where a half-taken measure has broken the process."""
    policy = Policy.take(os.environ) or Policy(namespace=True)
    # Asked while they can still be seen: to a user who may not pass through its parents, a folder is not there.
    own = [folder for folder in places.python_folders() if Path(folder).exists()]
    try:
        confinement = confine(policy)
    except ConfinementError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(measures.to_text(confinement.measures) + "\n")
    if policy.user:
        sys.stdout.write(json.dumps(closed_to_this_user(policy, own)) + "\n")
    return 0


def closed_to_this_user(policy: Policy, own: list[str]) -> list[str]:
    """Return the folders that this user cannot read, or write to where the policy lets it; `own`: those of Python."""
    found = [folder for folder in (*policy.read, *own) if not os.access(folder, os.R_OK | os.X_OK)]
    return found + [folder for folder in policy.write if not os.access(folder, os.R_OK | os.W_OK | os.X_OK)]


if __name__ == "__main__":
    sys.exit(main())
