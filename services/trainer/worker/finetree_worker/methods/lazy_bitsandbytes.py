# SPDX-License-Identifier: Apache-2.0
"""peft without an import of bitsandbytes, where nothing in the process needs it.

peft imports it to ask whether a layer is one of its own. With torch's compiler, which it imports in turn, that takes a
second of processor time and 45 MB in every process that trains plain LoRA. Quantized bases and 8-bit optimizers import
it by themselves, and before peft sees their layers.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NAME = "bitsandbytes"


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """Inside the block peft takes bitsandbytes for not installed, unless it is imported already.

    No layer of it exists as long as it is not imported, so peft decides as it would with it. Other threads must not
    import it meanwhile.
    """
    if _NAME in sys.modules:
        yield
        return
    # Python's own mark of a module that cannot be imported, which find_spec respects.
    sys.modules[_NAME] = None  # type: ignore[assignment]  # as documented for sys.modules
    try:
        yield
    finally:
        del sys.modules[_NAME]
        _forget_answers()


def import_peft() -> None:
    """Import peft without bitsandbytes; at once where it is imported."""
    with without_bitsandbytes():
        import peft  # noqa: F401 - imported for what it imports


def _forget_answers() -> None:
    """Have peft look for bitsandbytes again when it is asked the next time."""
    from peft.import_utils import is_bnb_4bit_available, is_bnb_available

    for known in (is_bnb_available, is_bnb_4bit_available):
        known.cache_clear()
