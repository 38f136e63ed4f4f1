# SPDX-License-Identifier: Apache-2.0
import asyncio

import pytest
from finetree_runtime.errors import Unauthenticated
from finetree_runtime.server.entry.revalidation import while_valid


async def test_a_block_ends_with_what_the_check_raises():
    checks = []

    async def check() -> None:
        checks.append(1)
        if len(checks) == 3:
            raise Unauthenticated("TOKEN_REVOKED", "revoked")

    with pytest.raises(Unauthenticated):
        async with while_valid(check, 0.001):
            await asyncio.Event().wait()
    assert len(checks) == 3


async def test_a_short_block_is_not_checked_and_a_timeout_of_its_own_stays_one():
    async def check() -> None:
        raise AssertionError

    async with while_valid(check, 60.0):
        pass
    with pytest.raises(TimeoutError):
        async with while_valid(check, 60.0):
            raise TimeoutError


async def test_no_check_is_left_behind():
    asked = asyncio.Event()

    async def check() -> None:
        asked.set()

    before = asyncio.all_tasks()
    async with while_valid(check, 0.0):
        await asked.wait()
        assert asyncio.all_tasks() > before
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
