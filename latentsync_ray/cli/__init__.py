"""The command line: a thin shell over the library; every command is one function here or in a neighbouring file.

Exit codes: 0 all well; 1 clips failed (or storage did); 2 wrong arguments, job or model, nothing was started; 3 clips were left
for want of time or budget; 130 after Ctrl-C, 143 after SIGTERM.
Heavy imports stand inside the commands, so that help is instant.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Annotated

import typer

import latentsync_ray
from latentsync_ray import redact
from latentsync_ray.cli import models as model_commands
from latentsync_ray.cli.demo import demo
from latentsync_ray.cli.dub import lipsync, run
from latentsync_ray.cli.ending import exit_code_of
from latentsync_ray.cli.init import init
from latentsync_ray.cli.look import report
from latentsync_ray.cli.plan import plan
from latentsync_ray.cli.serve import price, serve, serve_key
from latentsync_ray.cli.terminal import ERR
from latentsync_ray.cli.verify import verify
from latentsync_ray.errors import LatentSyncError

__all__ = ["app", "main"]

app = typer.Typer(
    name="latentsync-ray",
    help="Lip-sync videos to new speech with LatentSync: one pair, or whole datasets on Ray.",
    epilog="New here? Run: latentsync-ray demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, init, lipsync, plan, run, report, verify, serve, serve_key, price):
    app.command(no_args_is_help=command in (lipsync, plan, run, report, verify, serve_key, price))(command)
app.add_typer(model_commands.app, name="models")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(latentsync_ray.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code. Errors of this package become one line on stderr, all others a traceback.

    Neither shows the secrets of an address.
    """
    try:
        app(args=arguments)
    except LatentSyncError as error:
        ERR.print("[bold red]error:[/] ", end="")
        ERR.print(redact.text(str(error)), markup=False, highlight=False, soft_wrap=True)
        sys.exit(exit_code_of(error))
    finally:
        sys.excepthook = _show_bug  # now: typer has set one of its own


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(redact.traceback_of(error))
