# SPDX-License-Identifier: Apache-2.0
"""The model hub and the clock: what a download needs, and what certificates and tokens are compared with."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from finetree_cli.doctor.finding import Finding, Installation, Level

SUBJECT = "network"
HUB = "https://huggingface.co"
SKEW = timedelta(seconds=60)
"""Difference of clocks that is worth a warning: tokens and certificates are checked to the minute."""


def check(installation: Installation) -> Iterator[Finding]:
    """Ask the hub for its front page's headers, unless this is to stay offline."""
    if installation.offline or os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        text = "not asked: offline; models on the disk are used"
        yield Finding(SUBJECT, "hub", Level.OK, text)
        return
    endpoint = os.environ.get("HF_ENDPOINT") or HUB
    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=installation.timeout) as answer:  # noqa: S310 - https
            date = answer.headers.get("Date")
    except HTTPError as error:
        date = error.headers.get("Date")  # it answers
    except (URLError, OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        text = f"{endpoint} cannot be reached ({why}): models on the disk are used, none is downloaded"
        yield Finding(SUBJECT, "hub", Level.WARNING, text, "HTTPS_PROXY or HF_ENDPOINT name a way; --offline is silent")
        return
    yield Finding(SUBJECT, "hub", Level.OK, f"{endpoint} answers")
    if date:
        yield clock(parsedate_to_datetime(date), datetime.now(UTC))


def clock(theirs: datetime, ours: datetime) -> Finding:
    """Compare this machine's clock with that of a server."""
    off = ours - theirs
    if abs(off) > SKEW:
        way = "ahead of" if off > timedelta() else "behind"
        text = f"this machine's clock is {abs(off).total_seconds():.0f} s {way} the hub's"
        return Finding(SUBJECT, "clock", Level.WARNING, text, "timedatectl set-ntp true")
    return Finding(SUBJECT, "clock", Level.OK, "this machine's clock agrees with the hub's to the minute")
