# SPDX-License-Identifier: Apache-2.0
"""The SDK pages through lists of a trainer while others add to them: no entry is lost, none comes twice."""

import contextlib

import finetree
from finetree_runtime.server.service import serving
from finetree_trainer.application import service
from finetree_trainer.settings import Settings
from trainer_harness import FixedEstimator, options_of

ENTRIES = 23


@contextlib.asynccontextmanager
async def client_of(tmp_path):
    built = service(Settings(**options_of(tmp_path, {})), FixedEstimator())
    async with serving(built) as address, finetree.AsyncClient(address) as client:
        yield client


async def add(client, number):
    return (await client.upload_dataset([{"text": f"row {number}"}], display_name=str(number))).name


async def test_what_is_inserted_while_paging_moves_nothing(tmp_path):
    async with client_of(tmp_path) as client:
        there = [await add(client, number) for number in range(ENTRIES)]
        found: list[str] = []
        async for page in client.list_datasets(page_size=4).pages():
            found += [dataset.name for dataset in page]
            await add(client, 1000 + len(found))
        assert found == there[::-1]


async def test_a_stored_token_continues_where_a_limit_ended(tmp_path):
    async with client_of(tmp_path) as client:
        there = [await add(client, number) for number in range(ENTRIES)]
        pages = [page async for page in client.list_datasets(limit=10, page_size=4).pages()]
        assert [len(page) for page in pages] == [4, 4, 2]
        await add(client, 1000)
        rest = [each.name async for each in client.list_datasets(page_token=pages[-1].next_page_token)]
        assert [each.name for page in pages for each in page] + rest == there[::-1]
