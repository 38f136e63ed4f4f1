# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""Push what a job made to a model hub."""

from __future__ import annotations

import asyncio

from finetree_api.trainer.v1 import job_pb2, trainer_pb2

from finetree._async.download import download
from finetree._async.pages import AsyncPages
from finetree._async.trainer.job_weights import AsyncJobWeights
from finetree._shared import rpcs, trainer_requests
from finetree._shared.downloads import Progress
from finetree._shared.hub import model_hub
from finetree._shared.hub.model_hub import PushedArtifact
from finetree._shared.hub.push import ANNOTATION, PushFolder, choose, files_of, target_of
from finetree._shared.retry import deadline_after, within


class AsyncJobPush(AsyncJobWeights):
    """A job's artifact on a model hub."""

    snapshot: job_pb2.Job | None

    async def push(
        self,
        repository: str,
        *,
        revision: str = "main",
        public: bool = False,
        artifact: str | None = None,
        token: str | None = None,
        endpoint: str | None = None,
        on_progress: Progress | None = None,
        timeout: float | None = None,
    ) -> PushedArtifact:
        """Push an artifact to a model hub with its model card, as one commit. Needs `pip install 'finetree[push]'`.

        The repository is made private unless `public` is given, and one that is public already is not pushed to without
        it. After a failure push again: files that have arrived are not sent again, and where nothing has changed there
        is no new commit. The commit is kept in the job's annotation finetree.dev/pushed. That needs the role `train` in
        the job's project: without it nothing is sent. In the pushed card the lines that load the artifact name the
        repository. Pushes of one process take turns. Where an asynchronous push is cancelled while it sends, what it
        has begun to send may go on.

        Args:
            repository: "organization/name"; made when it is not there.
            revision: branch; made when it is not there.
            public: whether everybody may read it.
            artifact: resource name or id of the artifact; None means the adapter, model or GGUF file.
            token: of the hub, with the right to write; None means HF_TOKEN. It is sent over TLS or to loopback alone.
            endpoint: address of the hub; None means HF_ENDPOINT, else https://huggingface.co.
            on_progress: called with (bytes so far, bytes in all) while the artifact is fetched from the trainer.
            timeout: seconds until the artifact is fetched; None means as long as bytes arrive. Sending is not limited.

        Raises:
            NotFound: JOB_NOT_FOUND; PUSH_REFUSED: no such repository for this token.
            InvalidArgument: PUSH_TOKEN_MISSING, PUSH_ADDRESS_INVALID, ARTIFACT_NOT_FOUND; PUSH_WOULD_PUBLISH: the
                repository is public; PUSH_REFUSED: the hub does not accept a file.
            FailedPrecondition: PUSH_NOT_INSTALLED; PUSH_FILE_UNREADABLE: a fetched file is gone or cannot be read.
            Unauthenticated: PUSH_REFUSED: the hub does not know the token.
            PermissionDenied: ROLE_MISSING: the trainer's token may not change the job; PUSH_REFUSED: the hub's token
                may not write there.
            ResourceExhausted: PUSH_REFUSED: too many requests.
            Unavailable: PUSH_REFUSED: the hub does not answer, or not as a hub; or the trainer does not.
        """
        target = target_of(repository, revision=revision, public=public, token=token, endpoint=endpoint)
        deadline = deadline_after(timeout)
        quick = self._transport.options.timeout or rpcs.QUICK
        # It changes nothing: a token that may not note the commit is refused before anything is sent.
        allowed = trainer_pb2.UpdateJobRequest(name=self.name)
        job = (await self._transport.unary(rpcs.UPDATE_JOB, allowed, timeout=within(deadline, quick))).job
        pages = AsyncPages(self._transport, trainer_requests.list_artifacts(self.name), None, deadline=deadline)
        chosen = choose([each async for each in pages], artifact)
        with await asyncio.to_thread(PushFolder, job.uid) as kept:
            folders = await download(self._transport, [chosen], kept.path, on_progress=on_progress, deadline=deadline)
            files = files_of(chosen, folders[chosen.name], repository=repository, revision=revision)
            pushed = await asyncio.to_thread(
                model_hub.push, target, files, artifact=chosen.name, message=f"Push {self.name}"
            )
            noted = {ANNOTATION: f"{repository}@{pushed.commit}"}
            request = trainer_requests.update_job(
                self.name, display_name=None, labels=None, annotations=noted, request_id=""
            )
            answer = await self._transport.unary(rpcs.UPDATE_JOB, request, timeout=quick, request_id=request.request_id)
            self.snapshot = answer.job
            await asyncio.to_thread(kept.discard)
        return pushed
