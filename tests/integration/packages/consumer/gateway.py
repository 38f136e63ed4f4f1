# SPDX-License-Identifier: Apache-2.0
"""An asynchronous program that uses the SDK, the raw stubs, and the fake suite in its tests."""

import asyncio
from typing import assert_type

from finetree import TLS, AsyncClient, AsyncJob, call_metadata
from finetree.testing import Script, Suite
from finetree_api.trainer.v1 import job_pb2, trainer_pb2


async def jobs(client: AsyncClient, *, authorization: str) -> list[str]:
    """Call for somebody else, with their credentials."""
    with call_metadata({"authorization": authorization}):
        return [job.name async for job in client.list_jobs()]


async def follow(client: AsyncClient, name: str) -> job_pb2.Job:
    """Follow a job to its end."""
    job = client.job(name)
    assert_type(job, AsyncJob)
    async with job.events(after_seq=3) as stream:
        async for event in stream:
            print(event.seq, stream.cursor)
    return await job.wait(timeout=10)


async def raw(client: AsyncClient, name: str) -> tuple[str, str]:
    """Use what the client does not offer."""
    response = await client.raw.trainer.GetJob(trainer_pb2.GetJobRequest(name=name))
    info = await client.server_info("trainer")
    return response.job.uid, info.version


async def main() -> None:
    """Run against a fake suite."""
    with Suite() as suite:
        suite.trainer.script = Script(steps=3)
        async with suite.async_client() as client:
            data = suite.datasets.add([{"prompt": "One and one?", "completion": "Two."}])
            job = await client.train({"model": {"name": "tiny"}, "lora": {"rank": 8}, "dataset": {"name": data.name}})
            print(
                await follow(client, job.name),
                await raw(client, job.name),
                await jobs(client, authorization="Bearer t"),
            )


def encrypted() -> AsyncClient:
    """Trust an authority of one's own."""
    return AsyncClient("finetree.example.com:443", tls=TLS(ca=b"pem", server_name="finetree"), project="search")


if __name__ == "__main__":
    asyncio.run(main())
