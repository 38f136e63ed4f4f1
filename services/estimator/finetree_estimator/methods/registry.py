# SPDX-License-Identifier: Apache-2.0
"""The methods that there are."""

from finetree_estimator.methods.adapter import Adapter
from finetree_estimator.methods.base import Method
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.qlora import Qlora

METHODS: dict[str, type[Method]] = {each.name: each for each in (Full, Lora, Qlora, Prefix, Adapter)}
"""Each method by the field of the contract's RunSpec.method."""
