# SPDX-License-Identifier: Apache-2.0
"""The tree of commands."""

import importlib

import click

from finetree_cli.options.command import Group, Settings

COMMANDS: dict[str, str] = {
    "demo": "finetree_cli.commands.demo:demo",
    "up": "finetree_cli.commands.up:up",
    "recommend": "finetree_cli.commands.recommend:recommend",
    "estimate": "finetree_cli.commands.estimate:estimate",
    "check": "finetree_cli.commands.check:check",
    "lock": "finetree_cli.commands.lock:lock",
    "diff": "finetree_cli.commands.diff:diff",
    "render": "finetree_cli.commands.render:render",
    "comment": "finetree_cli.commands.comment:comment",
    "policy": "finetree_cli.commands.policy:policy",
    "schema": "finetree_cli.commands.schema:schema",
    "train": "finetree_cli.commands.train:train",
    "top": "finetree_cli.commands.top:top",
    "sweep": "finetree_cli.commands.sweep:sweep",
    "sweeps": "finetree_cli.commands.sweep:sweeps",
    "export": "finetree_cli.commands.export:export",
    "migrate": "finetree_cli.commands.migrate:migrate",
    "evaluate": "finetree_cli.commands.evaluate:evaluate",
    "jobs": "finetree_cli.commands.jobs:jobs",
    "chat": "finetree_cli.commands.chat:chat",
    "serve": "finetree_cli.commands.serve:serve",
    "targets": "finetree_cli.commands.targets:targets",
    "costs": "finetree_cli.commands.costs:costs",
    "sinks": "finetree_cli.commands.sinks:sinks",
    "serving": "finetree_cli.commands.serving:serving",
    "verify-serving": "finetree_cli.commands.verify_serving:verify_serving",
    "data": "finetree_cli.commands.data:data",
    "datasets": "finetree_cli.commands.datasets:datasets",
    "methods": "finetree_cli.commands.methods:methods",
    "packs": "finetree_cli.commands.packs:packs",
    "models": "finetree_cli.commands.models:models",
    "gpus": "finetree_cli.commands.gpus:gpus",
    "calibration": "finetree_cli.commands.calibration:calibration",
    "prices": "finetree_cli.commands.prices:prices",
    "capacity": "finetree_cli.commands.capacity:capacity",
    "storage": "finetree_cli.commands.storage:storage",
    "limits": "finetree_cli.commands.limits:limits",
    "tokens": "finetree_cli.commands.tokens:tokens",
    "login": "finetree_cli.commands.login:login",
    "whoami": "finetree_cli.commands.whoami:whoami",
    "audit": "finetree_cli.commands.audit:audit",
    "tls": "finetree_cli.commands.tls:tls",
    "doctor": "finetree_cli.commands.doctor:doctor",
    "backup": "finetree_cli.commands.backup:backup",
    "database": "finetree_cli.commands.database:database",
    "profile": "finetree_cli.commands.profile:profile",
    "config": "finetree_cli.commands.config:config",
    "version": "finetree_cli.commands.version:version",
}
"""Commands in the order of the help, with their modules; a module is imported when its command is used."""


class Root(Group):
    """The top level."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from finetree_cli.commands.version import version

        context.invoke(version, services=False)
        context.exit()


@click.command(
    cls=Root,
    examples=(
        "finetree demo",
        "finetree up",
        "finetree recommend --model smollm2-135m-instruct --this-machine --data train.jsonl --output job.yaml",
        "finetree estimate job.yaml",
        "finetree train job.yaml",
        "finetree jobs list",
        "finetree chat JOB --against base",
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version", is_flag=True, expose_value=False, callback=_show_version, help="Print versions, as `finetree version`."
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Choose a fine-tuning method, estimate what it takes, and train.

    Answers go to stdout, messages to stderr. FINETREE_ADDRESS, FINETREE_RECOMMENDER_ADDRESS,
    FINETREE_ESTIMATOR_ADDRESS, FINETREE_TRAINER_ADDRESS, FINETREE_PROJECT and FINETREE_PROFILE set the options of the
    same names; FINETREE_TOKEN, or what FINETREE_TOKEN_FILE or FINETREE_TOKEN_COMMAND gives, is sent to services as
    the bearer token; `finetree config show --origin` shows every setting. FINETREE_DEBUG=1 shows the stack trace of
    an unexpected error.
    """
    context.ensure_object(Settings)
