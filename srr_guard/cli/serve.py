"""`srr-guard serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from srr_guard.extras import require_installed
from srr_guard.terminal import say


def serve(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML file.")] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(help="OpenAI-compatible server, up to and with /v1; may be repeated."),
    ] = None,
    fallback: Annotated[
        list[str] | None,
        typer.Option(help="Server that is asked when no other answers; may be repeated."),
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="The local model answers.")] = False,
    scorer_url: Annotated[
        list[str] | None,
        typer.Option(help="Server that scores, up to and with /v1; may be repeated."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0: a free one.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the settings, and stop.")] = False,
) -> None:
    """Serve guarded answers over HTTP, to any OpenAI client."""
    require_installed(
        "`srr-guard serve`",
        *("fastapi", "uvicorn", "httpx2", "pydantic_settings", "prometheus_client", "yaml"),
        extra="serve",
    )
    from srr_guard.serving import load_config
    from srr_guard.serving import serve as run

    arguments: dict[str, Any] = {"host": host, "port": port, "local": {} if local else None}
    servers: list[dict[str, Any]] = [{"url": url} for url in upstream or ()]
    servers += [{"url": url, "fallback": True} for url in fallback or ()]
    arguments["upstreams"] = servers or None
    arguments["scorer"] = {"urls": scorer_url} if scorer_url else None

    def read() -> Any:
        return load_config(config, **arguments)

    settings = read()
    if check:
        say(
            f"ok: {len(settings.upstreams)} upstreams, local model "
            f"{'on' if settings.local else 'off'}, {len(settings.keys)} keys, policies "
            f"{', '.join(sorted(settings.policies))}"
        )
        return
    run(settings, reread=read)
