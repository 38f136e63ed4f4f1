# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""Calls of the trainer about sweeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from finetree_api.trainer.v1 import sweep_pb2
from google.type import money_pb2

from finetree._async.pages import AsyncPages
from finetree._async.transport import AsyncTransport
from finetree._shared import rpcs
from finetree._shared.retry import Backoff
from finetree._shared.trainer import sweep_requests
from finetree._shared.trainer.sweep_requests import Domain, Halving
from finetree._shared.trainer_requests import JobLike
from finetree.errors import FinetreeError


class AsyncSweepCalls:
    """Sweeps of the client's project: many trainings of one job with different settings."""

    _transport: AsyncTransport

    async def create_sweep(
        self,
        job: JobLike | sweep_pb2.SweepTemplate,
        parameters: Mapping[str, Domain] | None = None,
        *,
        trials: int | None = None,
        search: str | int = 0,
        seed: int | None = None,
        metric: str = "",
        halving: Halving = None,
        max_cost: money_pb2.Money | str | None = None,
        max_parallel: int | None = None,
        display_name: str = "",
        timeout: float | None = None,
        request_id: str = "",
    ) -> sweep_pb2.Sweep:
        """Create a sweep. When it returns, the sweep is durable; the server runs its trials, whoever watches.

        Args:
            job: what every trial is a variation of, as `create_job` takes it; or a whole SweepTemplate, which leaves
                the other arguments unused.
            parameters: settings that differ, by their RunSpec path: a list of values, or a range as {"low": 1e-4,
                "high": 5e-4}, with "scale": "SWEEP_SCALE_LOG" or "SWEEP_SCALE_LINEAR" if need be.
            trials: most trials; None means every combination of a grid, else 10.
            search: "grid" or "random"; 0 means a grid where all are lists that fit.
            seed: decides what is drawn.
            metric: what decides, such as "eval_loss"; empty means held-out loss where rows are held out.
            halving: True, or its settings: trials that fall behind are stopped.
            max_cost: most that all trials may cost, such as "20 USD"; None means no limit.
            max_parallel: trials at the same time; None means 2.
            display_name: name for people.
            timeout: seconds; None means the client's timeout, else 60.
            request_id: idempotency key; the same one gives the same sweep, for ever. Empty: a new one, once per call.

        Raises:
            InvalidArgument: a setting is wrong, in the template or in one of the trials; SWEEP_NEEDS_EVALUATIONS.
            ResourceExhausted: SWEEP_TOO_EXPENSIVE: it is expected to cost more than `max_cost`.
            FinetreeError: what `create_job` raises.
        """
        sweep = sweep_requests.sweep_template(
            job,
            parameters,
            trials=trials,
            search=search,
            seed=seed,
            metric=metric,
            halving=halving,
            max_cost=max_cost,
            max_parallel=max_parallel,
            display_name=display_name,
        )
        request = sweep_requests.create_sweep(self._transport.options.project, sweep, request_id)
        created = await self._transport.unary(
            rpcs.CREATE_SWEEP, request, timeout=timeout, request_id=request.request_id
        )
        return created.sweep

    async def validate_sweep(
        self,
        job: JobLike | sweep_pb2.SweepTemplate,
        parameters: Mapping[str, Domain] | None = None,
        *,
        trials: int | None = None,
        search: str | int = 0,
        seed: int | None = None,
        metric: str = "",
        halving: Halving = None,
        max_cost: money_pb2.Money | str | None = None,
        max_parallel: int | None = None,
        timeout: float | None = None,
    ) -> sweep_pb2.ValidateSweepResponse:
        """Price a sweep without creating it: its trials, and what all of them should take.

        Takes what `create_sweep` takes and raises what it raises, but for SWEEP_TOO_EXPENSIVE.
        """
        sweep = sweep_requests.sweep_template(
            job,
            parameters,
            trials=trials,
            search=search,
            seed=seed,
            metric=metric,
            halving=halving,
            max_cost=max_cost,
            max_parallel=max_parallel,
        )
        request = sweep_requests.validate_sweep(self._transport.options.project, sweep)
        return await self._transport.unary(rpcs.VALIDATE_SWEEP, request, timeout=timeout)

    async def get_sweep(self, name: str, *, timeout: float | None = None) -> sweep_pb2.Sweep:
        """Get a sweep as it is now.

        Args:
            name: resource name or short id.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: SWEEP_NOT_FOUND.
        """
        request = sweep_requests.get_sweep(self._transport.options.project, name)
        return (await self._transport.unary(rpcs.GET_SWEEP, request, timeout=timeout)).sweep

    async def watch_sweep(self, name: str, *, timeout: float | None = None) -> AsyncIterator[sweep_pb2.Sweep]:
        """Follow a sweep: as it is now, then with every change, until it has ended; also over restarts of the service.

        Args:
            name: resource name or short id.
            timeout: seconds of each call beyond the 20 that it waits; None means the client's timeout, else 10.

        Raises:
            NotFound: SWEEP_NOT_FOUND.
            Unavailable: nothing answered for the client's `reconnect_timeout`, or at the beginning.
        """
        own = timeout if timeout is not None else self._transport.options.timeout or rpcs.QUICK
        project, known = self._transport.options.project, None
        backoff = Backoff(self._transport.options.reconnect_timeout)
        while True:
            wait = sweep_requests.LONGEST_WAIT if known is not None else 0
            request = sweep_requests.get_sweep(project, name, wait=wait, known=known)
            try:
                sweep = (await self._transport.unary(rpcs.GET_SWEEP, request, timeout=own + wait)).sweep
            except FinetreeError as error:
                if known is None:
                    raise
                await asyncio.sleep(backoff.delay(error))
                continue
            backoff.progressed()
            if known is None or sweep.update_time != known:
                yield sweep
            if sweep.state in sweep_requests.ENDED:
                return
            known = sweep.update_time

    def list_sweeps(
        self, *, page_size: int = 0, limit: int | None = None, page_token: str = "", timeout: float | None = None
    ) -> AsyncPages[sweep_pb2.Sweep]:
        """List the sweeps of the project, newest first, without their trials.

        Args:
            page_size: largest page; 0 means the server's choice.
            limit: items in all; None means every one.
            page_token: `next_page_token` of a page of this list, to continue behind it; empty means the beginning.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """
        listing = sweep_requests.list_sweeps(self._transport.options.project, page_size)
        return AsyncPages(self._transport, listing, timeout, limit=limit, page_token=page_token)

    async def cancel_sweep(self, name: str, *, timeout: float | None = None, request_id: str = "") -> sweep_pb2.Sweep:
        """Ask a sweep to stop: no trial is started any more, and those that run are cancelled.

        Args:
            name: resource name or short id.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: SWEEP_NOT_FOUND.
        """
        request = sweep_requests.cancel_sweep(self._transport.options.project, name, request_id)
        answered = await self._transport.unary(
            rpcs.CANCEL_SWEEP, request, timeout=timeout, request_id=request.request_id
        )
        return answered.sweep
