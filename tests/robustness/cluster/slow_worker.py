# SPDX-License-Identifier: Apache-2.0
"""A real worker process whose training is that of the campaign: `slow_worker.py FOLDER_OF_THE_CAMPAIGN ARGUMENTS…`."""

import sys

from finetree_worker.process.confinement import confine_process
from finetree_worker.process.log_capture import set_environment

sys.path.insert(0, sys.argv[1])
# As the worker's own program does, before anything starts a thread; what is on the path can be read.
CONFINEMENT = confine_process()
set_environment()

import scripted_training  # noqa: E402 - see above
from finetree_worker.process.process import Process, parse  # noqa: E402 - see above

scripted_training.SECONDS = float(sys.argv[2])


class Core(scripted_training.Core):
    """The campaign's training; it measures and keeps nothing."""

    def rest(self, _task: object) -> None:
        """Take no other task."""


sys.exit(Process(parse(sys.argv[3:]), Core(), CONFINEMENT).run())
