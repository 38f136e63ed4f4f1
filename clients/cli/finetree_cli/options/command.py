# SPDX-License-Identifier: Apache-2.0
"""Base classes of the commands: shared options, examples in the help, and the settings that the options fill.

Neither this module nor a command's module imports anything heavier than click: `finetree --help` takes at most 200 ms.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from finetree_cli.errors import EXIT_CODES
from finetree_cli.output import Output

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from finetree import Client
    from finetree.config.options import Options
    from finetree.config.settings import Service
    from finetree.config.settings import Settings as ResolvedSettings

T = TypeVar("T", bound="DataclassInstance")


@dataclass(slots=True)
class Settings:
    """Values of the shared options; with None, the environment and the SDK's defaults apply."""

    address: str | None = None
    recommender: str | None = None
    estimator: str | None = None
    trainer: str | None = None
    project: str | None = None
    profile: str | None = None
    out: Output = field(default_factory=Output)
    arguments: tuple[str, ...] = ()
    """The words of the command line, of which a command may make the next one to type."""
    command: click.Command | None = None
    """The command that runs: errors name its options in place of the contract's fields."""

    def client(self) -> "Client":
        """Create a client of the services; it connects on first use."""
        from finetree import Client

        return Client(
            self.address,
            recommender_address=self.recommender,
            estimator_address=self.estimator,
            trainer_address=self.trainer,
            project=self.project,
            profile=self.profile,
        )

    def resolved(self, *, lines: bool = False) -> "ResolvedSettings":
        """Look up what a client would be set to, and from where (in the file: with the line), without making one."""
        from finetree.config.settings import resolve

        given = {"address": self.address, "project": self.project}
        given |= {f"{name}_address": getattr(self, name) for name in ("recommender", "estimator", "trainer")}
        return resolve(given, profile=self.profile, lines=lines)

    def options(self) -> "Options":
        """Make the options of a client without a client: that would load gRPC."""
        from finetree.config.options import make_options

        own: dict[Service, str | None] = {
            "recommender": self.recommender,
            "estimator": self.estimator,
            "trainer": self.trainer,
        }
        return make_options(self.address, own, profile=self.profile, project=self.project)


def settings(context: click.Context) -> Settings:
    """Return the settings of this invocation."""
    found: Settings = context.find_root().ensure_object(Settings)
    return found


pass_settings = click.make_pass_decorator(Settings, ensure=True)
"""Decorator that passes the settings as a command's first argument."""


def take_flags(kind: type[T], flags: dict[str, Any]) -> T:
    """Move the fields of a dataclass out of a command's keyword arguments."""
    names = [item.name for item in fields(kind)]
    return kind(**{name: flags.pop(name) for name in names})


def _names(kind: "str | type[DataclassInstance]") -> tuple[str, ...]:
    return (kind,) if isinstance(kind, str) else tuple(item.name for item in fields(kind))


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Return a callback that stores an option's value if one is given; the occurrence nearest to the command wins."""

    def callback(context: click.Context, _: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(settings(context), name, value)

    return callback


def _keep_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        settings(context).out.json = True


def shared_options() -> list[click.Parameter]:
    """Return the options of every command."""
    services = [
        click.Option(
            [f"--{name}"],
            metavar="HOST:PORT",
            expose_value=False,
            callback=_keep(name),
            help=f"Address of the {name} (FINETREE_{name.upper()}_ADDRESS).",
        )
        for name in ("recommender", "estimator", "trainer")
    ]
    one = click.Option(
        ["--address"],
        metavar="HOST:PORT",
        expose_value=False,
        callback=_keep("address"),
        help="One address for all three services (FINETREE_ADDRESS).",
    )
    project = click.Option(
        ["--project"],
        metavar="NAME",
        expose_value=False,
        callback=_keep("project"),
        help="Project of datasets and jobs (FINETREE_PROJECT). [default: default]",
    )
    profile = click.Option(
        ["--profile"],
        metavar="NAME",
        expose_value=False,
        callback=_keep("profile"),
        help="Profile of the configuration file (FINETREE_PROFILE); see `finetree profile`.",
    )
    text = 'Print JSON on stdout: one object, or one on each line of a stream; errors are {"error": {…}}.'
    json = click.Option(["--json"], is_flag=True, expose_value=False, callback=_keep_json, help=text)
    return [json, one, *services, project, profile]


_OWN, _SHARED = "Options", "Options of every command"
SHARED = frozenset(str(option.name) for option in shared_options())
"""Names of the shared options; the help lists them separately."""


Sections = Mapping[str, "Sequence[str | type[DataclassInstance]]"]
"""Names of options, or dataclasses whose fields they are, by the title of their section in the help."""


report_formats = click.option(
    "--output",
    metavar="FORMAT[=FILE],…",
    default="text",
    show_default=True,
    help="Formats, each to stdout or to a file: text, markdown, json, junit, sarif, github, gitlab.",
)
"""In which formats a report is written, and where."""


class Command(click.Command):
    """A command with examples, the shared options, and sections of its own options where they are many."""

    def __init__(
        self, *args: Any, examples: Sequence[str] = (), sections: Sections = MappingProxyType({}), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self._titles = {name: title for title, kinds in sections.items() for kind in kinds for name in _names(kind)}
        self.params.extend(shared_options())

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and keep which one it is for errors."""
        settings(ctx).command = self
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options by section, those without one after them, then the shared ones."""
        found: dict[str, list[tuple[str, str]]] = {title: [] for title in (*self._titles.values(), _OWN, _SHARED)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):  # arguments are in the usage line
                name = parameter.name or ""
                found[_SHARED if name in SHARED else self._titles.get(name, _OWN)].append(record)
        for title, records in found.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the examples and the exit codes."""
        _write_epilog(self.examples, formatter)


class Group(click.Group):
    """A group of commands with the shared options."""

    command_class = Command

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)
        self.params.extend(shared_options())

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the examples and the exit codes."""
        _write_epilog(self.examples, formatter)


Group.group_class = Group


def _write_epilog(examples: Sequence[str], formatter: click.HelpFormatter) -> None:
    if examples:
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"  {example}\n")
    formatter.write_paragraph()
    formatter.write_text(EXIT_CODES)
