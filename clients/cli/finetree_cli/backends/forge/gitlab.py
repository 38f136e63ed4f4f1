# SPDX-License-Identifier: Apache-2.0
"""Notes of a merge request on GitLab, and which one a pipeline runs for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from finetree_cli.backends.forge.comments import Comment
from finetree_cli.backends.forge.http import Site

API = "https://gitlab.com/api/v4"


@dataclass(frozen=True, slots=True)
class MergeRequest:
    """The notes of a merge request."""

    site: Site
    project: str
    """Number or path of the project that the merge request is for."""
    iid: int
    """Number of the merge request in it."""
    max_length: int = 1_000_000

    @property
    def _path(self) -> str:
        return f"/projects/{quote(self.project, safe='')}/merge_requests/{self.iid}/notes"

    def comments(self) -> Iterator[Comment]:
        """List the notes from the oldest."""
        me = self.site.ask("GET", "/user").document["id"]
        for each in self.site.pages(self._path, {"sort": "asc", "order_by": "created_at"}):
            ours = (each.get("author") or {}).get("id") == me and not each.get("system")
            yield Comment(each["id"], each.get("body") or "", ours)

    def add(self, body: str) -> None:
        """Make a note."""
        self.site.ask("POST", self._path, body={"body": body})

    def edit(self, comment: Comment, body: str) -> None:
        """Replace a note's text."""
        self.site.ask("PUT", f"{self._path}/{comment.id}", body={"body": body})

    def remove(self, comment: Comment) -> None:
        """Delete a note."""
        self.site.ask("DELETE", f"{self._path}/{comment.id}")


def site(environment: Mapping[str, str]) -> Site | None:
    """Return the API with the token of the environment; None without one. A job's own token may not write notes."""
    token = environment.get("GITLAB_TOKEN")
    if not token:
        return None
    return Site((environment.get("CI_API_V4_URL") or API).rstrip("/"), {"PRIVATE-TOKEN": token})


def merge_request(api: Site, environment: Mapping[str, str], number: int | None = None) -> MergeRequest | str:
    """Find the merge request of a pipeline; a text says why there is none to comment on."""
    iid = str(number) if number is not None else environment.get("CI_MERGE_REQUEST_IID", "")
    project = environment.get("CI_MERGE_REQUEST_PROJECT_ID") or environment.get("CI_PROJECT_ID", "")
    if not iid.isdecimal() or not project:
        return "the pipeline runs for no merge request"
    return MergeRequest(api, project, int(iid))
