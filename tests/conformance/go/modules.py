# SPDX-License-Identifier: Apache-2.0
"""The modules that go.mod asks for, as its vendor folder, out of Debian's packages: for machines without a Go proxy.

Debian has Go modules as source packages. They are downloaded, not installed: the machine stays as it is, and nobody
needs to be root. Their versions must be those of go.mod. Elsewhere Go fetches its modules as it always does.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
VENDOR = HERE / "vendor"
PACKAGES = {
    "github.com/golang/protobuf": "golang-github-golang-protobuf-1-5-dev",
    "golang.org/x/net": "golang-golang-x-net-dev",
    "golang.org/x/sys": "golang-golang-x-sys-dev",
    "golang.org/x/text": "golang-golang-x-text-dev",
    "google.golang.org/genproto": "golang-google-genproto-dev",
    "google.golang.org/genproto/googleapis/rpc": "golang-google-genproto-dev",
    "google.golang.org/grpc": "golang-google-grpc-dev",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc": "golang-google-grpc-dev",
    "google.golang.org/protobuf": "golang-google-protobuf-dev",
}
"""Debian's package of each module."""
SNAPSHOTS = re.compile(r"google\.golang\.org/(genproto|grpc/cmd/)")
"""Modules whose version in Debian is another than in go.mod: of them only messages that never change are used, and
the generator of stubs, which Debian keeps beside grpc."""
MESSAGES = re.compile(r"google\.golang\.org/genproto/(?!googleapis/(rpc|type)\b)")
"""What is left out of genproto, which is large."""
LANGUAGE = "1.21"
"""Version of Go that the oldest of these modules needs."""


class ModulesMissingError(Exception):
    """Debian's packages cannot be had, or are others than go.mod asks for; the message says what to do."""


def required() -> dict[str, str]:
    """Return the version that go.mod asks for, by module."""
    return dict(re.findall(r"^\t(\S+) (v\S+)", (HERE / "go.mod").read_text(encoding="utf-8"), flags=re.MULTILINE))


def vendor() -> None:
    """Make the vendor folder, unless it is that of the present go.mod.

    Raises:
        ModulesMissingError: there is no apt-get, it cannot download, or Debian has other versions.
    """
    done, wanted = VENDOR / "go.mod", (HERE / "go.mod").read_bytes()
    if done.exists() and done.read_bytes() == wanted:
        return
    shutil.rmtree(VENDOR, ignore_errors=True)
    sources = unpacked() / "usr/share/gocode/src"
    lines: list[str] = []
    for module, version in sorted(required().items()):
        lines += [f"# {module} {version}", f"## explicit; go {LANGUAGE}", *copied(module, sources)]
    (VENDOR / "modules.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    done.write_bytes(wanted)
    shutil.rmtree(BUILD / "root")


def unpacked() -> Path:
    """Download the packages and unpack them below build/; return the folder that stands for "/"."""
    folder, root = BUILD / "packages", BUILD / "root"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)
    folder.mkdir(parents=True)
    names = sorted(set(PACKAGES.values()))
    if shutil.which("apt-get") is None:
        raise ModulesMissingError(
            "there is no apt-get here: set GO_MODULES=proxy, and have Go fetch its modules itself"
        )
    if apt(folder, "download", *names).returncode:
        # The machine's lists of packages are missing or old; ours lie beside them and need no root.
        updated = apt(folder, "update")
        got = apt(folder, "download", *names, lists=True)
        if got.returncode:
            raise ModulesMissingError(f"apt-get cannot download {', '.join(names)}:\n{updated.stderr}{got.stderr}")
    for file in sorted(folder.glob("*.deb")):
        check(file)
        subprocess.run(["dpkg-deb", "--extract", file, root], check=True)
    return root


def apt(folder: Path, verb: str, *names: str, lists: bool = False) -> subprocess.CompletedProcess[str]:
    """Run apt-get in a folder; `lists` and updates use lists of packages below build/."""
    options = ["-qq", "-o", "APT::Sandbox::User="]
    if lists or verb == "update":
        state = BUILD / "apt"
        for place in ("lists/partial", "cache/archives/partial"):
            (state / place).mkdir(parents=True, exist_ok=True)
        options += ["-o", f"Dir::State::lists={state}/lists", "-o", f"Dir::Cache={state}/cache"]
    command = ["apt-get", *options, verb, *names]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"}
    )


def check(file: Path) -> None:
    """Compare a package's version with go.mod's."""
    name, found = file.name.split("_")[0], file.name.split("_")[1].replace("%3a", ":")
    upstream = re.sub(r"^\d+:", "", found).rpartition("-")[0]
    for module, version in required().items():
        if PACKAGES[module] == name and not SNAPSHOTS.match(module) and f"v{upstream}" != version:
            raise ModulesMissingError(
                f"go.mod asks for {module} {version}, and the distribution's {name} is {found}: Debian 13 has it; "
                "elsewhere set GO_MODULES=proxy"
            )


def copied(module: str, sources: Path) -> list[str]:
    """Copy a module's packages into the vendor folder; return their import paths."""
    found = []
    for folder in [sources / module, *sorted(path for path in (sources / module).rglob("*") if path.is_dir())]:
        path = folder.relative_to(sources).as_posix()
        owner = max((name for name in PACKAGES if path == name or path.startswith(f"{name}/")), key=len)
        files = [file for file in folder.iterdir() if file.is_file() and not file.name.endswith("_test.go")]
        if owner != module or MESSAGES.match(path) or "testdata" in path or not any(f.suffix == ".go" for f in files):
            continue
        (VENDOR / path).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, VENDOR / path / file.name)
        found.append(path)
    return found
