# SPDX-License-Identifier: Apache-2.0
"""Build every distribution into a folder, beside an inventory of what they need from others and its licenses.

python release/build.py --uv UV [--output dist]

The inventory is CycloneDX 1.5 (`uv export`): the locked closure of the whole suite, with hashes, on every platform.
uv.lock knows no licenses, so they are read from the environment this runs in; what is not installed there (CUDA
libraries beside a torch for CPUs) is listed without.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LICENSE_FILE = re.compile(r"(licen[cs]e|copying|notice|authors)[^/]*$", flags=re.IGNORECASE)
LONGEST_NAME = 80
"""Characters of a license's name in metadata; older packages have the whole text there."""


def main() -> int:
    """Build what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(description="Build every distribution, an SBOM and the third-party licenses.")
    parser.add_argument("--uv", default="uv", help="uv, of the version that pyproject.toml asks for")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder; what is in it is removed")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    uv(arguments.uv, "build", "--all-packages", "--out-dir", str(output))
    sbom = json.loads(uv(arguments.uv, "export", *CLOSURE))
    third_party = list(with_licenses(sbom))
    (output / "sbom.cdx.json").write_text(json.dumps(sbom, indent=2) + "\n", encoding="utf-8")
    (output / "THIRD-PARTY-LICENSES.txt").write_text("".join(third_party), encoding="utf-8")
    (output / ".gitignore").unlink(missing_ok=True)
    print(f"build: {len(list(output.glob('*.whl')))} wheels and as many sdists, {len(third_party)} packages of others")
    return 0


CLOSURE = (
    *("--frozen", "--format", "cyclonedx1.5", "--preview-features", "sbom-export"),
    *("--package", "finetree-cli", "--all-extras", "--no-dev"),
)


def uv(program: str, *arguments: str) -> str:
    """Run uv in the repository and return what it prints; its own message is the error, and ends the program."""
    command = [program, *arguments[:1], "--quiet", *arguments[1:]]
    finished = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)
    return finished.stdout


def with_licenses(sbom: dict[str, Any]) -> Iterator[str]:
    """Add licenses to the inventory's components, in place; yield a chapter for each component of others."""
    for component in sbom["components"]:
        if "purl" not in component:
            component["licenses"] = [{"expression": "Apache-2.0"}]  # a distribution of this repository
            continue
        found = installed(component["name"])
        names = license_names(found) if found else []
        if names:
            component["licenses"] = names
        said = ", ".join(entry.get("expression") or entry["license"]["name"] for entry in names)
        texts = license_texts(found) if found else []
        title = f"{component['name']} {component['version']}: {said or 'see its own distribution'}"
        yield "\n".join([title, "=" * len(title), *texts, "", ""])


def installed(name: str) -> Distribution | None:
    """Return what is installed under a name here, of whatever version; None where nothing is."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def license_names(found: Distribution) -> list[dict[str, Any]]:
    """Return a distribution's license in CycloneDX's form: its expression, else the name it gives, else classifiers."""
    metadata = found.metadata
    if "License-Expression" in metadata:
        return [{"expression": metadata["License-Expression"]}]
    name = metadata["License"].strip() if "License" in metadata else ""
    if name and name.upper() != "UNKNOWN" and "\n" not in name and len(name) <= LONGEST_NAME:
        return [{"license": {"name": name}}]
    classifiers = [value for value in metadata.get_all("Classifier", []) if value.startswith("License :: ")]
    return [{"license": {"name": value.rpartition(" :: ")[2]}} for value in classifiers]


def license_texts(found: Distribution) -> list[str]:
    """Return the license files that a distribution's metadata folder carries, each once, in order of their paths."""
    files = sorted(
        (str(path), path) for path in found.files or [] if ".dist-info/" in str(path) and LICENSE_FILE.search(path.name)
    )
    texts = (path.read_binary().decode(errors="replace") for _, path in files)
    return list(dict.fromkeys(text.strip() + "\n" for text in texts))


if __name__ == "__main__":
    sys.exit(main())
