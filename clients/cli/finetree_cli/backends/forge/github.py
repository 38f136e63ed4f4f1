# SPDX-License-Identifier: Apache-2.0
"""Comments of a pull request on GitHub, and which one a workflow runs for."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_cli.backends.forge.comments import Comment
from finetree_cli.backends.forge.http import Refused, Site
from finetree_cli.errors import BadInput

API = "https://api.github.com"
MAX_EVENT_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class PullRequest:
    """The comments of a pull request."""

    site: Site
    repository: str
    number: int
    max_length: int = 65_536

    def comments(self) -> Iterator[Comment]:
        """List the comments from the oldest."""
        login = self._login()
        for each in self.site.pages(f"/repos/{self.repository}/issues/{self.number}/comments"):
            author = each.get("user") or {}
            ours = author.get("login") == login if login else author.get("type") == "Bot"
            yield Comment(each["id"], each.get("body") or "", ours)

    def add(self, body: str) -> None:
        """Make a comment."""
        self.site.ask("POST", f"/repos/{self.repository}/issues/{self.number}/comments", body={"body": body})

    def edit(self, comment: Comment, body: str) -> None:
        """Replace a comment's text."""
        self.site.ask("PATCH", f"/repos/{self.repository}/issues/comments/{comment.id}", body={"body": body})

    def remove(self, comment: Comment) -> None:
        """Delete a comment."""
        self.site.ask("DELETE", f"/repos/{self.repository}/issues/comments/{comment.id}")

    def _login(self) -> str:
        """Return whose the token is; "" for a workflow's own token, which may not ask and is a bot's."""
        try:
            return str(self.site.ask("GET", "/user").document["login"])
        except Refused as error:
            if error.status in (401, 403, 404):
                return ""
            raise


def site(environment: Mapping[str, str]) -> Site | None:
    """Return the API with the token of the environment; None without a token."""
    token = environment.get("GITHUB_TOKEN") or environment.get("GH_TOKEN")
    if not token:
        return None
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
    return Site((environment.get("GITHUB_API_URL") or API).rstrip("/"), headers)


def pull_request(api: Site, environment: Mapping[str, str], number: int | None = None) -> PullRequest | str:
    """Find the pull request of a workflow run; a text says why there is none to comment on.

    Everything is read from what GitHub itself says of the run, never from a file that a fork's run has left.

    Raises:
        BadInput: The repository's name or the event cannot be read.
        Refused: GitHub refuses.
    """
    repository = environment.get("GITHUB_REPOSITORY", "")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise BadInput("GITHUB_REPOSITORY is no owner/name", reason="COMMENT_TARGET_INVALID")
    if number is not None:
        return PullRequest(api, repository, number)
    event = _event(environment.get("GITHUB_EVENT_PATH", ""))
    if "pull_request" in event:
        source = (event["pull_request"].get("head") or {}).get("repo") or {}
        if source.get("full_name") != repository:
            return "the change comes from a fork, whose token may not comment; comment from a workflow_run workflow"
        return PullRequest(api, repository, int(event["pull_request"]["number"]))
    if "workflow_run" in event:
        found = _of_run(api, repository, event["workflow_run"])
        return PullRequest(api, repository, found) if found is not None else "the run belongs to no open pull request"
    return "the workflow runs for no pull request"


def _of_run(api: Site, repository: str, run: Mapping[str, Any]) -> int | None:
    """Find the open pull request whose head a finished run has checked; forks' runs name none themselves."""
    owner = ((run.get("head_repository") or {}).get("owner") or {}).get("login", "")
    query = {"state": "open", "head": f"{owner}:{run.get('head_branch', '')}"}
    for each in api.pages(f"/repos/{repository}/pulls", query):
        if each["head"]["sha"] == run.get("head_sha"):
            return int(each["number"])
    return None


def _event(name: str) -> dict[str, Any]:
    if not name:
        return {}
    try:
        with Path(name).open("rb") as stream:
            found = json.loads(stream.read(MAX_EVENT_BYTES))
    except (OSError, ValueError) as error:
        raise BadInput("GITHUB_EVENT_PATH is no readable event", reason="COMMENT_TARGET_INVALID") from error
    return found if isinstance(found, dict) else {}
