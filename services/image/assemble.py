# SPDX-License-Identifier: Apache-2.0
"""Lay out the files of an image: `python assemble.py STEP FOLDER` runs in the build stage, as root, on Debian.

FOLDER gets one folder for each layer: `system` (Python, shared libraries, the few files in /etc that programs read) and
`libraries` (third-party distributions) in the step `libraries`; `program` (ours, and what the image starts) in the step
`program MODULE`. Everything that could differ
between two builds of one commit is left out or set: times of files, compiled code that names times, notes of the
installer. What an image does not start is not in it: no shell, no package manager, no tests of the standard library.
"""

import compileall
import os
import py_compile
import shutil
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

ENVIRONMENT = Path("/opt/finetree")
DATA = Path("var/lib/finetree")
_VOLUMES = (
    *("access", "authority", "database-data", "database-password", "login", "object-store-data", "object-store-keys"),
    *("recommender", "team", "tls", "trainer"),
)
MOUNTS = tuple(f"etc/finetree/{name}" for name in _VOLUMES)
"""Where docker-compose.yml puts its volumes: a volume takes its owner from the folder that it is first put over."""
OWNER = 10001
"""User and group that the image runs as; also in services/Dockerfile."""
FILE_TIME = 315_532_800
"""Time of every file, 1980-01-01: the same in all builds, so that layers whose contents are the same are the same."""
NOT_NEEDED = {
    *("__pycache__", "site-packages", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data"),
    *("test", "tests", "tkinter", "turtledemo", "venv"),
}
"""Folders of the standard library that no service imports."""
LOADED_BY_NAME = ("libgcc_s.so.1",)
"""Shared libraries that no file is linked with: glibc opens this one when a thread is cancelled."""
NOTES_OF_INSTALLER = ("uv_cache.json", "direct_url.json", "_virtualenv.py", "_virtualenv.pth", ".lock")
"""Files that the installer writes for itself; the first has times of the build."""
START = """#!{python}
import runpy
import sys

sys.argv[0] = {module!r}
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


def libraries(target: Path) -> None:
    """Write the layers `system` and `libraries`, which change with uv.lock and the base image alone."""
    system, others = target / "system", target / "libraries"
    _copy_python(system)
    _copy_shared_libraries(system)
    _write_etc(system)
    _copy_package_records(system)
    _copy_environment(others, ours=False)
    _finish(system)
    _finish(others)


def program(target: Path, module: str) -> None:
    """Write the layer `program`, of an image that starts `python -m MODULE`."""
    layer = target / "program"
    _copy_environment(layer, ours=True)
    start = layer / ENVIRONMENT.relative_to("/") / "bin" / "start"
    start.parent.mkdir()
    start.write_text(START.format(python=ENVIRONMENT / "bin" / "python", module=module), encoding="ascii")
    start.chmod(0o755)
    if module == "finetree_cli":
        _place(Path(__file__).with_name("first_start.py"), start.parent.with_name("first_start.py"))
    _finish(layer)


def _finish(layer: Path) -> None:
    _compile(layer)
    _set_times(layer)


def _copy_python(system: Path) -> None:
    """Copy the interpreter under its own name, and its standard library."""
    interpreter = Path(sys.executable).resolve()
    _copy(interpreter, system)
    for version in ("", sysconfig.get_python_version()):
        # The environment links to one of these names; Debian's and the official image have other ones.
        link = interpreter.with_name(f"python3{version.removeprefix('3')}")
        if link.is_symlink():
            _copy(link, system)
    library = Path(sysconfig.get_path("stdlib"))

    def unneeded(folder: str, names: list[str]) -> set[str]:
        left_out = {name for name in names if name in NOT_NEEDED or name.startswith("config-")}
        return left_out if Path(folder) == library else left_out & {"__pycache__", "test", "tests"}

    shutil.copytree(library, system / library.relative_to("/"), symlinks=True, ignore=unneeded)


def _copy_shared_libraries(system: Path) -> None:
    """Copy every shared library that Python or a distribution is linked with and that the base image has."""
    # Debian's /lib is a link, and programs name their loader by it.
    for name in ("lib", "lib64"):
        if (link := Path("/", name)).is_symlink():
            (system / name).symlink_to(link.readlink())
    linked = [Path(sys.executable).resolve(), *_shared_objects(ENVIRONMENT), *_shared_objects(system)]
    listed = subprocess.run(["ldd", *map(str, linked)], capture_output=True, text=True, check=False).stdout
    found = {Path(word) for line in listed.splitlines() if line[:1] == "\t" for word in line.split() if word[0] == "/"}
    for name in LOADED_BY_NAME:
        found |= set(Path("/usr/lib").glob(f"*/{name}"))
    for path in sorted(found):
        if not path.is_relative_to(ENVIRONMENT) and not path.is_relative_to(system):
            _copy(path, system)
    # Libraries that a GPU's driver brings along are found through the cache, which its tools renew by this program.
    _copy(Path("/usr/sbin/ldconfig") if Path("/usr/sbin/ldconfig").exists() else Path("/sbin/ldconfig"), system)
    shutil.copytree("/etc/ld.so.conf.d", system / "etc/ld.so.conf.d")
    shutil.copy("/etc/ld.so.conf", system / "etc/ld.so.conf")
    subprocess.run(["ldconfig", "-r", str(system)], check=True)
    shutil.rmtree(system / "var/cache/ldconfig", ignore_errors=True)


def _write_etc(system: Path) -> None:
    """Write the users, how names are looked up, the authorities to trust, and the folders that programs expect."""
    etc = system / "etc"
    (etc / "passwd").write_text(
        f"root:x:0:0:root:/nonexistent:/nonexistent\nfinetree:x:{OWNER}:{OWNER}:finetree:/{DATA}:/nonexistent\n",
        encoding="ascii",
    )
    (etc / "group").write_text(f"root:x:0:\nfinetree:x:{OWNER}:\n", encoding="ascii")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n", encoding="ascii")
    authorities = Path("/etc/ssl/certs/ca-certificates.crt")
    _copy(authorities, system)
    for names in (ssl.get_default_verify_paths().openssl_cafile,):
        link = system / names.lstrip("/")
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(authorities)
    # The mode of a shared temporary folder.
    owned = [(str(name), 0o700, OWNER) for name in (DATA, *MOUNTS)]
    for name, mode, owner in [("tmp", 0o1777, 0), ("run", 0o755, 0), *owned]:
        folder = system / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
        os.chown(folder, owner, owner)


def _copy_package_records(system: Path) -> None:
    """Copy license texts and dpkg's record of each Debian package that a file is of; scanners read `status.d`."""
    files = {f"/{path.relative_to(system)}" for path in _files(system)}
    names = files | {name.removeprefix("/usr") for name in files}
    listed = subprocess.run(["dpkg", "-S", *sorted(names)], capture_output=True, text=True, check=False).stdout
    owned = [line for line in listed.splitlines() if not line.startswith(("diversion by", "local diversion"))]
    packages = {name for line in owned for name in line.partition(": ")[0].split(", ")}
    records = system / "var/lib/dpkg/status.d"
    records.mkdir(parents=True)
    for package in sorted(packages):
        status = subprocess.run(["dpkg", "-s", package], capture_output=True, check=True).stdout
        plain = package.partition(":")[0]
        (records / plain).write_bytes(status)
        terms = Path("/usr/share/doc", plain, "copyright")
        if terms.exists():
            _copy(terms.resolve(), system)


def _copy_environment(layer: Path, *, ours: bool) -> None:
    """Copy the environment's distributions: those of this repository, or all others and the environment itself."""
    place = ENVIRONMENT.relative_to("/")
    packages = Path(sysconfig.get_path("purelib"))
    for path in _files(ENVIRONMENT):
        within = path.relative_to(ENVIRONMENT)
        if within.parts[0] == "bin" and not within.name.startswith("python"):
            continue
        if "__pycache__" in within.parts or path.name in NOTES_OF_INSTALLER or path.suffix == ".pyc":
            continue
        if ours == (path.is_relative_to(packages) and path.relative_to(packages).parts[0].startswith("finetree")):
            _place(path, layer / place / within)
    _shorten_records(layer / packages.relative_to("/"))


def _shorten_records(packages: Path) -> None:
    """Take the files that were left out off each distribution's RECORD; their hashes are the build's own."""
    for record in sorted(packages.glob("*.dist-info/RECORD")):
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        record.write_text("".join(line for line in lines if (packages / line.rsplit(",", 2)[0]).exists()), "utf-8")


def _compile(layer: Path) -> None:
    """Compile every module of a layer: nothing can be compiled later on a file system that cannot be written.

    The compiled code never looks at its source's time, nor at the source.
    """
    # One process, and one order of sets: what the compiler writes depends on both.
    if os.environ.get("PYTHONHASHSEED") != "0":
        raise SystemExit("run with PYTHONHASHSEED=0")
    for folder in sorted({path.parent for path in _files(layer) if path.suffix == ".py"}):
        compileall.compile_dir(
            folder,
            maxlevels=0,
            ddir=f"/{folder.relative_to(layer)}",
            quiet=2,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def _set_times(layer: Path) -> None:
    for path in [layer, *layer.rglob("*")]:
        os.utime(path, (FILE_TIME, FILE_TIME), follow_symlinks=False)


def _files(folder: Path) -> Iterator[Path]:
    """Yield files and links below a folder, in order."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or path.is_file():
            yield path


def _shared_objects(folder: Path) -> Iterable[Path]:
    return (path for path in _files(folder) if ".so" in path.suffixes and not path.is_symlink())


def _copy(path: Path, system: Path) -> None:
    """Copy a file to the same place below another root, with the links that lead to it."""
    real_parent = path.parent.resolve()
    target = system / real_parent.relative_to("/") / path.name
    if path.is_symlink():
        _copy(real_parent / path.readlink(), system)
    _place(path, target)


def _place(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() and not target.is_symlink():
        shutil.copy2(path, target, follow_symlinks=False)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["libraries", folder]:
            libraries(Path(folder))
        case ["program", folder, name]:
            program(Path(folder), name)
        case _:
            raise SystemExit("usage: assemble.py libraries FOLDER, or assemble.py program FOLDER MODULE")
