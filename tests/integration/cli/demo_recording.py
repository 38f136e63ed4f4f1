# SPDX-License-Identifier: Apache-2.0
"""Record `finetree demo` as docs/images/demo.svg: `python tests/integration/cli/demo_recording.py`.

It runs the real demo (a few minutes) and draws what it prints on stdout. With a file as its argument it draws that
file's text, the saved output of a run, instead; folders under the home folder are written with ~.
"""

import io
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 120
"""Width of the picture; tables in a pipe have the same."""
SVG = Path(__file__).parents[3] / "docs" / "images" / "demo.svg"
FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Fonts that rich's SVG loads from the web; without them the reader's own monospaced font is used."""

SPACE = "&#160;"
CHARACTER = 12.2
"""Width of a character in rich's SVG."""
INDENTED = re.compile(
    rf'x="0" y="(?P<y>[\d.]+)" textLength="(?P<length>[\d.]+)"(?P<rest>[^>]*)>(?P<spaces>(?:{SPACE})+)'
)


def run_demo() -> str:
    """Run the demo in a data folder of its own and return its stdout."""
    with tempfile.TemporaryDirectory(prefix="finetree-demo-") as folder:
        command = [sys.executable, "-m", "finetree_cli", "demo", "--data-dir", folder]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.replace(folder, "~/demo")


def shortened(text: str) -> str:
    """Drop the padding of lines, and write the home folder as ~."""
    plain = "\n".join(line.rstrip() for line in text.splitlines()).replace(str(Path.home()), "~")
    return re.sub(r"\n{3,}", "\n\n", plain)


def wrapped(line: str) -> list[str]:
    """Wrap a line that is wider than the picture."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, COLUMNS, subsequent_indent=indent, drop_whitespace=len(line) > COLUMNS) or [""]


def draw(text: str) -> str:
    """Draw text as an SVG of a terminal."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False, color_system=None)
    for line in [part for whole in text.splitlines() for part in wrapped(whole)]:
        console.print(Text(line, style="bold" if line.startswith("[") else ""), no_wrap=True, crop=False)
    svg = console.export_svg(title="make run", unique_id="demo")
    svg = FONT_FACES.sub("", svg).replace("Fira Code", "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace")
    return INDENTED.sub(_moved, svg)


def _moved(found: re.Match[str]) -> str:
    """Move an indented text to the right: some programs drop spaces at its beginning."""
    spaces = found["spaces"].count(SPACE)
    length = float(found["length"]) - spaces * CHARACTER
    return f'x="{spaces * CHARACTER:.1f}" y="{found["y"]}" textLength="{length:.1f}"{found["rest"]}>'


if __name__ == "__main__":
    printed = Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else run_demo()
    SVG.write_text(draw(shortened(printed)), encoding="utf-8")
