# SPDX-License-Identifier: Apache-2.0
"""Write everything that is generated from the contract: stubs, their types, the validation rules, the reference pages.

python protos/generate.py             write protos/gen, typings and docs/api
python protos/generate.py --check     write nothing; fail where they differ from the .proto files
python protos/generate.py --release   make the present contract the baseline of the compatibility check
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from api_reference import pages

PROTOS = Path(__file__).resolve().parent
TYPINGS = PROTOS.parent / "typings"
REFERENCE = PROTOS.parent / "docs" / "api"
API = "finetree_api"
RULES = f"{API}/rules.binpb"
COMMENTS = f"{API}/comments.json"
COMMENTED = (f"{API}/types/", f"{API}/trainer/v1/job.proto")
"""Files whose comments are kept: those of a job file, which editors show."""
HEADER = '# SPDX-License-Identifier: Apache-2.0\n"""{}"""\n'
ROOT_DOC = "The finetree contract as generated code, and its validation rules (rules.binpb, a FileDescriptorSet)."


def main() -> int:
    """Run the one action the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description="Write everything that is generated from the contract.")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument(
        "--check", action="store_true", help="fail where what is generated differs from the .proto files"
    )
    actions.add_argument("--release", action="store_true", help="make the present contract the released baseline")
    arguments = parser.parse_args()
    if arguments.release:
        return release()
    with tempfile.TemporaryDirectory() as scratch:
        wanted = generate(Path(scratch))
    return check(wanted) if arguments.check else write(wanted)


def generate(scratch: Path) -> dict[Path, bytes]:
    """Generate into `scratch`; return every generated file's content by the path it belongs at."""
    gen, typings = scratch / "gen", scratch / "typings"
    gen.mkdir()
    typings.mkdir()
    run("buf", "generate", "--template", "buf.gen.yaml", "--output", str(gen))
    generate_services(gen, scratch / "all.binpb")
    rules = gen / RULES
    build_image(rules, "--as-file-descriptor-set")
    described = commented(scratch / "commented.json")
    (gen / COMMENTS).write_text(comments(described), encoding="utf-8")
    vendored = [str(path.relative_to(PROTOS / "vendor")) for path in sorted(PROTOS.glob("vendor/google/**/*.proto"))]
    protoc("-Ivendor", f"--mypy_out=quiet:{typings}", *vendored)
    add_packages(gen)
    reference = {REFERENCE / name: text.encode() for name, text in pages(described).items()}
    return collect(gen, PROTOS / "gen") | collect(typings, TYPINGS) | reference


def generate_services(gen: Path, descriptors: Path) -> None:
    """Write each service's `_pb2_grpc.py`; files without a service get none."""
    build_image(descriptors, "--as-file-descriptor-set")
    services = [path for path in contract_files() if "\nservice " in (PROTOS / path).read_text(encoding="utf-8")]
    protoc(f"--descriptor_set_in={descriptors}", f"--grpc_python_out={gen}", *services)
    for stub in gen.rglob("*_pb2_grpc.pyi"):
        if not stub.with_suffix(".py").exists():
            stub.unlink()


def build_image(target: Path, *options: str) -> None:
    """Write the contract and all it imports, options included and comments not, to `target`."""
    run("buf", "build", "--path", API, "--exclude-source-info", "--output", str(target), *options)


def commented(image: Path) -> dict[str, Any]:
    """Return the contract's FileDescriptorSet with its comments, as JSON; `image` is a scratch file."""
    run("buf", "build", "--path", API, "--as-file-descriptor-set", "--output", str(image))
    found: dict[str, Any] = json.loads(image.read_text(encoding="utf-8"))
    return found


def comments(descriptors: dict[str, Any]) -> str:
    """Return the comments of messages, fields and enum values by full name, as JSON."""
    found: dict[str, str] = {}
    for file in descriptors["file"]:
        if not file["name"].startswith(COMMENTED):
            continue
        for location in file["sourceCodeInfo"]["location"]:
            name = commented_name(file, location.get("path", []))
            if name and "leadingComments" in location:
                found[name] = " ".join(location["leadingComments"].split())
    return json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False) + "\n"


def commented_name(file: dict[str, Any], path: list[int]) -> str:
    """Return the full name of what a location is about: a message, its field, or an enum's value; "" for the rest."""
    # descriptor.proto: 4 is message_type and 5 is enum_type of a file; 2 is field of a message and value of an enum.
    if len(path) not in (2, 4) or path[0] not in (4, 5) or (len(path) == 4 and path[2] != 2):
        return ""
    kind, member = ("messageType", "field") if path[0] == 4 else ("enumType", "value")
    outer = file[kind][path[1]]
    name = f"{file['package']}.{outer['name']}"
    return name if len(path) == 2 else f"{name}.{outer[member][path[3]]['name']}"


def contract_files() -> list[str]:
    """Our .proto files, relative to this folder, in a stable order."""
    return sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob(f"{API}/**/*.proto"))


def add_packages(gen: Path) -> None:
    """Make every generated folder a regular package: PEP 420 folders hide from zip imports and from type checkers."""
    (gen / API / "py.typed").touch()
    for folder in [gen / API, *sorted(path for path in (gen / API).rglob("*") if path.is_dir())]:
        name = ".".join(folder.relative_to(gen).parts)
        text = ROOT_DOC if name == API else f"Generated from the contract's package {name}."
        (folder / "__init__.py").write_text(HEADER.format(text), encoding="utf-8")


def collect(source: Path, target: Path) -> dict[Path, bytes]:
    """Every file below `source`, by the path it has below `target`."""
    files = (path for path in sorted(source.rglob("*")) if path.is_file())
    return {target / path.relative_to(source): path.read_bytes() for path in files}


def present() -> set[Path]:
    """The generated files that are there now, caches left out."""
    found = [*(PROTOS / "gen").rglob("*"), *TYPINGS.rglob("*"), *REFERENCE.rglob("*")]
    return {path for path in found if path.is_file() and "__pycache__" not in path.parts}


def write(wanted: dict[Path, bytes]) -> int:
    """Bring the tree to `wanted`, touching only what differs."""
    stale = present() - wanted.keys()
    changed = [path for path, content in wanted.items() if not path.exists() or path.read_bytes() != content]
    for path in stale:
        path.unlink()
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wanted[path])
    print(f"generate: {len(wanted)} files, {len(changed)} changed, {len(stale)} removed")
    return 0


def check(wanted: dict[Path, bytes]) -> int:
    """Compare the tree with `wanted`; name each file that differs."""
    different = {path for path, content in wanted.items() if not path.exists() or path.read_bytes() != content}
    for path in sorted(different | (present() - wanted.keys())):
        print(f"{path.relative_to(PROTOS.parent)} is not what its .proto says: run `make generate`", file=sys.stderr)
    return 1 if different or present() - wanted.keys() else 0


def release() -> int:
    """Write released.binpb and released.json; refuse to give one version two contents."""
    version = tomllib.loads((PROTOS / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    image, record = PROTOS / "new-released.binpb", PROTOS / "released.json"
    build_image(image)
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    last = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    if last.get("version") == version and last.get("sha256") != digest:
        image.unlink()
        print(f"{version} is released already: raise the version first (make version VERSION=…)", file=sys.stderr)
        return 1
    image.replace(PROTOS / "released.binpb")
    record.write_text(json.dumps({"version": version, "sha256": digest}, indent=2) + "\n", encoding="utf-8")
    print(f"release: {version}, sha256 {digest}")
    return 0


def protoc(*arguments: str) -> None:
    """Run the protoc that grpcio-tools carries."""
    run(sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc", *arguments)


def run(*command: str) -> None:
    """Run a tool of this environment in this folder; its own message is the error, and ends the program."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": search, "PYTHONWARNINGS": "ignore"}
    finished = subprocess.run(command, cwd=PROTOS, env=environment, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


if __name__ == "__main__":
    sys.exit(main())
