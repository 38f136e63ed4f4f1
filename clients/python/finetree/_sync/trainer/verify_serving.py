# SPDX-License-Identifier: Apache-2.0
"""Whether a running server serves what a job made."""

from __future__ import annotations

from finetree_api.trainer.v1 import trainer_pb2

from finetree._shared import rpcs, trainer_requests
from finetree._shared.downloads import Progress
from finetree._shared.served.canaries import ServingCheck, ServingReport
from finetree._shared.served.models import MOST_EVENTS, base_of, choose, recorded
from finetree._shared.served.openai_server import ANSWER_SECONDS, OpenAiServer
from finetree._shared.trainer.weights import JobHandle
from finetree._shared.trainer_requests import full_name
from finetree._sync.pages import Pages
from finetree._sync.transport import Transport


class VerifyServingCalls:
    """Canaries to a running server."""

    _transport: Transport

    def verify_serving(
        self,
        url: str,
        job: str | JobHandle,
        *,
        base_model: str | None = None,
        model: str | None = None,
        key: str = "",
        answer_timeout: float = ANSWER_SECONDS,
        on_progress: Progress | None = None,
        timeout: float | None = None,
    ) -> ServingReport:
        """Ask a running server like OpenAI's (vLLM, SGLang, llama.cpp …) whether an adapter has an effect there.

        Base and adapter answer the same prompts, the base twice: an adapter whose answers and log-probabilities are the
        base's own is loaded without an effect, which no server reports. Prompts that training has recorded answers of
        are asked too, and compared with them. `verdict` of the report says what they show.

        Args:
            url: address of the server, with /v1 or without it.
            job: job that made what is served: a handle, a resource name or a short id.
            base_model: name of the base there; None means the one that the adapter names, or the base's hub id.
            model: name of the adapter there; None means that of the job's id, or the only other model.
            key: key of the server, sent over https:// or to loopback alone; empty means none.
            answer_timeout: longest wait for one answer of the server, in seconds.
            on_progress: called with (prompts asked, prompts in all).
            timeout: seconds for each call of the trainer; None means the client's timeout, else 10.

        Raises:
            NotFound: JOB_NOT_FOUND; NOT_SERVED: the server has no such model.
            InvalidArgument: the address or the key cannot be used, or the names on the server do not tell base and
                adapter apart.
            Unavailable: SERVER_BROKEN: the server does not answer, or not as such servers do.
        """
        server = OpenAiServer(url, key, answer_timeout)
        name = job if isinstance(job, str) else job.name
        name = full_name(self._transport.options.project, "jobs", name)
        found = self._transport.unary(rpcs.GET_JOB, trainer_pb2.GetJobRequest(name=name), timeout=timeout).job
        request = trainer_requests.list_events(name, MOST_EVENTS, ("sample",), 0)
        answers = recorded(reversed(self._transport.unary(rpcs.LIST_EVENTS, request, timeout=timeout).events))
        hub_id = base_of(Pages(self._transport, trainer_requests.list_artifacts(name), timeout))
        base, adapter = choose(server.models(), uid=found.uid, hub_id=hub_id, base_model=base_model, model=model)
        check = ServingCheck(server, base, adapter, answers)
        for done, total in check.steps():
            if on_progress is not None:
                on_progress(done, total)
        return check.finished()
