# SPDX-License-Identifier: Apache-2.0
"""Give all distributions one version: each carries it, and asks for exactly it of its siblings.

python release/versions.py 0.2.0    write it into every pyproject.toml, the SDK (a constant) and the chart
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTANT = Path("clients/python/finetree/_version.py")
"""Where the SDK has the version: reading it from metadata would cost a third of the time that its import may take."""
CHART = Path("release/chart/Chart.yaml")
"""Its `appVersion` is the tag of the images that it starts."""
VERSION = re.compile(r"[0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?")
"""PEP 440, in its normal form and without epoch or local part: what an index takes."""
OWN = re.compile(r'^version = ".*"$', flags=re.MULTILINE)
SIBLING = re.compile(r'"(finetree[a-z-]*(?:\[[a-z0-9,-]+\])?)==[^"]*"')


def members() -> list[Path]:
    """The folders of the distributions, relative to the repository."""
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [Path(member) for member in root["tool"]["uv"]["workspace"]["members"]]


def with_version(pyproject: str, version: str) -> str:
    """Return the text of a pyproject.toml with `version` as its own and as that of each sibling it asks for."""
    return SIBLING.sub(rf'"\1=={version}"', OWN.sub(f'version = "{version}"', pyproject, count=1))


def main() -> int:
    """Write the version that the command line gives; return the exit status."""
    parser = argparse.ArgumentParser(description="Give all distributions one version.")
    parser.add_argument("version", help="such as 0.2.0 or 0.2.0rc1")
    version = parser.parse_args().version
    if not VERSION.fullmatch(version):
        print(f"{version!r} is no version such as 0.2.0 or 0.2.0rc1 (PEP 440, without a leading v)", file=sys.stderr)
        return 2
    for member in members():
        file = ROOT / member / "pyproject.toml"
        file.write_text(with_version(file.read_text(encoding="utf-8"), version), encoding="utf-8")
    for file, name in ((ROOT / CONSTANT, "__version__ = "), (ROOT / CHART, "appVersion: ")):
        text = file.read_text(encoding="utf-8")
        line = re.compile(f'^{name}".*"$', flags=re.MULTILINE)
        file.write_text(line.sub(f'{name}"{version}"', text), encoding="utf-8")
    print(f"{len(members())} distributions are {version} now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
