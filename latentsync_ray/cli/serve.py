"""``serve`` (the endpoint), ``serve-key`` (who may call it) and ``price`` (what it would cost)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from latentsync_ray.cli.terminal import ERR, OUT
from latentsync_ray.errors import ConfigError
from latentsync_ray.extras import install_command

__all__ = ["price", "serve", "serve_key"]


def serve(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Settings, a YAML file; 'latentsync-ray init serve' writes one.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    folder: Annotated[str | None, typer.Option(help="Queue, uploads and results.", show_default="serve-data")] = None,
    model: Annotated[str | None, typer.Option(help="A name from 'latentsync-ray models', or a folder or URI.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="LATENTSYNC_RAY_KEY", help="What callers send; made and printed when there is none yet."),
    ] = None,
    tls: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="CERT KEY", help="Certificate and private key (PEM): serve https.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join, e.g. auto; by default one on this machine.")] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Where Prometheus scrapes; by default a free port, which is printed. Not with --address."
        ),
    ] = None,
) -> None:
    """Offer the hosted endpoint fal-ai/latentsync on this machine or cluster, with a playground at /."""
    try:
        from filelock import FileLock, Timeout

        from latentsync_ray.serve import deploy
        from latentsync_ray.serve.failures import reclaim
        from latentsync_ray.serve.keys import new_key
        from latentsync_ray.serve.server import Server
        from latentsync_ray.serve.settings import load_settings
        from latentsync_ray.serve.web import check_port, listen
    except ImportError as error:
        raise _missing(error) from error
    from latentsync_ray.models.find import find_model
    from latentsync_ray.preflight import resolved
    from latentsync_ray.stages.mark import check_signing

    settings = load_settings(config, folder=folder)
    chosen = {"model": model, "steps": steps}
    recipe = settings.recipe.model_copy(update={name: value for name, value in chosen.items() if value is not None})
    recipe = resolved(type(recipe).model_validate(recipe.model_dump()), note=ERR.print)
    settings = settings.model_copy(update={"recipe": recipe})
    model_info = find_model(settings.recipe.model)
    model_info.fetch()  # a missing model is told here, and not by a worker that does not start
    if settings.signing and not address:
        check_signing(settings.signing)
    if metrics_port and address:
        raise ConfigError("--metrics-port is for a Ray of one's own; the cluster at --address has its own metrics port")
    if tls:
        for path in tls:
            if not path.is_file():
                raise ConfigError(f"{path} is not a file; --tls takes a certificate and its private key, both PEM")

    check_port(host, port)
    if metrics_port:
        check_port("127.0.0.1", metrics_port, option="--metrics-port")
    server = Server.of(settings)
    alone = None
    if "://" not in settings.folder and not settings.database:
        alone = FileLock(Path(settings.folder) / "server.lock", timeout=0)
        try:
            alone.acquire()
        except Timeout as error:
            raise ConfigError(f"another server uses {settings.folder}; stop it, or choose another --folder") from error
        reclaim(server.queue, settings)
    fresh = key or (new_key() if server.keys.empty() else None)
    if fresh:
        server.keys.add("default", fresh)
    if model_info.note:
        ERR.print(model_info.note)
    ERR.print("starting Ray and the model ...")

    def tell() -> None:
        shown = f"{'https' if tls else 'http'}://{'localhost' if host in ('0.0.0.0', '127.0.0.1') else host}:{port}"
        OUT.print(f"[bold]serving fal-ai/latentsync with {escape(settings.recipe.model)} at {shown}[/]", soft_wrap=True)
        if fresh and not key:
            OUT.print(f"key: [bold]{fresh}[/]  (shown once; another: latentsync-ray serve-key)", soft_wrap=True)
        OUT.print(f"[dim]playground: {shown}/   metrics: {deploy.metrics_url()}[/]", soft_wrap=True)
        OUT.print(f"[dim]logs: {deploy.log_folder()}   stop: Ctrl-C[/]", soft_wrap=True)

    try:
        deploy.launch(settings, address=address, metrics_port=metrics_port)
        listen(server, host=host, port=port, tls=tls, on_ready=tell)
        ERR.print("stopping; requests that are not finished are kept for the next start")
    finally:
        deploy.stop(joined=address is not None)
        if alone:
            alone.release()


def serve_key(
    name: Annotated[str, typer.Argument(help="Whose key it is; stands in logs and records.")],
    folder: Annotated[str | None, typer.Option(help="The server's folder.", show_default="serve-data")] = None,
    config: Annotated[Path | None, typer.Option(help="The server's settings.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the key away (servers notice within seconds).")] = False,
    print_only: Annotated[
        bool, typer.Option("--print-only", help="Do not keep it in the database: for the keys of a settings file.")
    ] = False,
) -> None:
    """Make a key for a caller and print it; a second one for the same name replaces the first."""
    try:
        from pydantic import ValidationError

        from latentsync_ray.serve.keys import new_key
        from latentsync_ray.serve.server import Server
        from latentsync_ray.serve.settings import Key, hash_key, load_settings
    except ImportError as error:
        raise _missing(error) from error

    if remove and print_only:
        raise ConfigError("--remove is for keys in the database, and --print-only leaves it alone: choose one")
    secret = new_key()
    try:
        Key(name=name, sha256=hash_key(secret))
    except ValidationError as error:
        raise ConfigError(f"{name!r} is no name for a key: letters, digits and . _ @ -, at most 64") from error
    if not print_only:
        settings = load_settings(config, folder=folder)
        if name in {key.name for key in settings.keys}:
            raise ConfigError(f"{name} is one of the keys in {config}; change it there (--print-only makes a new secret)")
        keys = Server.of(settings).keys
        if remove:
            if not keys.remove(name):
                raise ConfigError(f"the database knows no key {name!r}")
            return
        keys.add(name, secret)
    OUT.print(secret, soft_wrap=True)
    ERR.print(f"[dim]sha256, as the keys of a settings file need it: {hash_key(secret)}[/]", soft_wrap=True)


def price(
    seconds: Annotated[float, typer.Argument(min=0, help="Seconds of output.")],
    config: Annotated[Path | None, typer.Option(help="A server's settings, whose tariff counts.")] = None,
) -> None:
    """What a server asks for so many seconds of output."""
    from latentsync_ray.serve.settings import load_settings

    OUT.print(f"${load_settings(config).tariff.cost(seconds):.4g}")


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(f"the server needs packages that are not installed ({error.name}): {install_command('serve')}")
