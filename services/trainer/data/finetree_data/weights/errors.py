# SPDX-License-Identifier: Apache-2.0
"""The error of weights that cannot be used."""


class WeightsError(Exception):
    """A folder holds no weights that can be used.

    `reason` is WEIGHTS_UNREADABLE or MODEL_PICKLED, `problem` a sentence's end ("has no adapter_config.json"),
    `remedy` what to do about it.
    """

    def __init__(self, problem: str, *, remedy: str, reason: str = "WEIGHTS_UNREADABLE") -> None:
        super().__init__(problem)
        self.reason = reason
        self.problem = problem
        self.remedy = remedy
