"""`moe-leverage corpus`: build the training text from pinned packages, and say what it holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from moe_leverage.cli import app

group = typer.Typer(help="The text the models learn: build it, describe it.", no_args_is_help=True)
app.add_typer(group, name="corpus")

Tier = Annotated[str, typer.Option(help="smoke (under 15 MB of downloads) or full.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@group.command()
def build(
    tier: Tier = "smoke",
    pin: Annotated[
        bool, typer.Option(help="Write the manifest instead of checking against it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build a tier in the cache, checked against its manifest.

    Example: moe-leverage corpus build --tier smoke
    """
    from moe_leverage import corpus

    start = time.monotonic()
    with _progress() as report:
        built = corpus.build_corpus(tier, pin=pin, report=report)
    found = {
        "tier": tier,
        "digest": built.digest,
        "train_tokens": len(built.train),
        "validation_tokens": sum(map(len, built.validation.values())),
        "seconds": round(time.monotonic() - start, 1),
    }
    if as_json:
        typer.echo(json.dumps(found))
    else:
        typer.echo(
            f"{tier}: {found['train_tokens']:,} training and {found['validation_tokens']:,} "
            f"validation tokens in {found['seconds']} s, as the manifest says"
        )


@group.command()
def info(tier: Tier = "smoke", as_json: Json = False) -> None:
    """Tokens, bytes, documents and licences of a tier, by domain, from its manifest.

    Example: moe-leverage corpus info --tier full --json
    """
    from moe_leverage import corpus, paths

    manifest = corpus.read_manifest(tier)
    built = (paths.CACHE / "corpus" / tier).is_dir()
    if as_json:
        typer.echo(json.dumps(manifest | {"built": built}))
        return
    typer.echo(f"{tier}, {'built' if built else 'not built'}, digest {manifest['digest'][:12]}\n")
    heading = ("domain", "share", "documents", "bytes", "tokens", "validation tokens")
    typer.echo("{:10}{:>7}{:>11}{:>13}{:>12}{:>19}".format(*heading))
    for domain, row in manifest["domains"].items():
        typer.echo(_line(domain, row))
    typer.echo("\nlicences (by domain)")
    for domain, row in manifest["domains"].items():
        typer.echo(f"{domain:10}{', '.join(row['licences'])}")


def _line(domain: str, row: dict[str, Any]) -> str:
    return (
        f"{domain:10}{row['share']:>7.1%}{row['documents']:>11,}{row['bytes']:>13,}"
        f"{row['tokens']:>12,}{row['validation_tokens']:>19,}"
    )


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar for each stage on the error stream if that is a terminal, and nothing otherwise."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bars: dict[str, Any] = {}

        def report(stage: str, share: float) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=1.0)
            progress.update(bars[stage], completed=share)

        yield report
