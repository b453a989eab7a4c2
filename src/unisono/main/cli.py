"""The command ``unisono``. Exit codes: 0 done, 1 a check failed, 2 a mistake in what was asked, 3 something is away."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

import unisono
from unisono.base.errors import CallerError, InvalidInput, Unavailable, UnisonoError
from unisono.main import config, warm
from unisono.main.cli_plant import plant
from unisono.main.cli_support import load_settings, say
from unisono.main.doctor import look_at_folder

FAILED: Final = 1
WRONG: Final = 2
AWAY: Final = 3

app = typer.Typer(
    name="unisono",
    help="A virtual power plant: start it, dispatch it, see what it did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
settings_app = typer.Typer(help="The settings: check, show, reference.", no_args_is_help=True)
app.add_typer(settings_app, name="config")
plant(app)


@app.callback(invoke_without_command=True)
def _whole(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"unisono {unisono.__version__}")
        raise typer.Exit


@app.command()
def up(
    roles: Annotated[str, typer.Option(help="Which roles to run, by commas.")] = "historian,realtime,web,front",
) -> None:
    """Start engines and roles, watch over them, stop them with Ctrl-C."""
    from unisono.main import up as platform

    wanted = tuple(role.strip() for role in roles.split(",") if role.strip())
    for role in wanted:
        if role not in platform.ROLES:
            raise InvalidInput("--roles", role, f"must be among {', '.join(platform.ROLES)}")
    platform.run(load_settings(), wanted, config.find_file(), say)


@app.command()
def doctor() -> None:
    """Say what is found on this machine, what is wrong, and what to do."""
    from unisono.main.doctor import examine

    findings = examine(load_settings())
    table = Table(show_header=False, box=None)
    colour = {"ok": "green", "warning": "yellow", "problem": "red"}
    for finding in findings:
        mark = f"[{colour[finding.verdict]}]{finding.verdict}[/]"
        table.add_row(mark, finding.what, finding.seen + (f"\n-> {finding.advice}" if finding.advice else ""))
    Console().print(table)
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(FAILED)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="Which bench; without one, all are listed.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
    devices: Annotated[int | None, typer.Option(help="Another size than the target's.", min=1)] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Measure what is acknowledged and kept.")] = False,
) -> None:
    """Measure figures beside their references; exit code 1 when a target or a check is missed."""
    from unisono.main.bench import registry
    from unisono.main.bench.figures import BenchOptions, show

    if not name:
        for known, what in registry.BENCHES.items():
            typer.echo(f"{known:12s} {what}")
        return
    folder = load_settings().folder
    warm.choose_cache(folder)
    result = registry.run(name, BenchOptions(folder=folder / "bench" / name, n_devices=devices, keep=keep))
    if json:
        typer.echo(result.as_json())
    else:
        show(result, Console())
    if not result.met:
        raise typer.Exit(FAILED)


@app.command()
def demo(
    devices: Annotated[int, typer.Option(help="How many devices.", min=100, max=100_000)] = 10_000,
    seed: Annotated[int, typer.Option(help="One seed makes one world.", min=0)] = 1,
    world: Annotated[str, typer.Option(help="default, or data: the traces in UNISONO_DATA.")] = "default",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the plant running until Ctrl-C.")] = False,
    folder: Annotated[Path, typer.Option(help="The demonstration's own data folder.")] = Path("var/demo"),
    report: Annotated[Path | None, typer.Option(help="Where the HTML report goes.")] = None,
) -> None:
    """Run the main job: simulated devices, one dispatch, faults, and a report, in four minutes."""
    if importlib.util.find_spec("pvlib") is None:
        raise Unavailable("the demonstration's weather", "it is a file of a package: pip install --no-deps pvlib")
    if world not in ("default", "data"):
        raise InvalidInput("--world", world, "must be default or data")
    folder = folder.absolute()
    warm.choose_cache(folder)
    main_job = importlib.import_module("unisono.main.demo.run")
    options = main_job.DemoOptions(
        n_devices=devices,
        seed=seed,
        world=world,
        keep=keep,
        folder=folder,
        report_path=(report or folder / "report.html").absolute(),
    )
    raise typer.Exit(main_job.run(options, Console()))


@app.command()
def backup(target: Annotated[Path, typer.Argument(help="The folder or file to write.")]) -> None:
    """Write everything that is kept to one place, while the platform runs."""
    importlib.import_module("unisono.main.backup").backup(load_settings(), target)
    say(f"written: {target}")


@app.command()
def restore(source: Annotated[Path, typer.Argument(help="What `unisono backup` wrote.")]) -> None:
    """Fill an empty data folder from a backup."""
    importlib.import_module("unisono.main.backup").restore(load_settings(), source)
    say(f"restored into {load_settings().folder}; start it with: unisono up")


@settings_app.command("check")
def check(file: Annotated[Path | None, typer.Argument(help="Another file than ./unisono.toml.")] = None) -> None:
    """Name every bad field, its value and the rule; exit code 2 if there is any."""
    settings = config.load(file)
    source = file or config.find_file()
    place = look_at_folder(settings.folder)
    if place.verdict == "problem":
        raise InvalidInput("data_dir", str(settings.folder), f"{place.seen}: {place.advice}")
    say(f"{source or 'no file; environment and defaults'}: fine; the data folder is {settings.folder}")


@settings_app.command("show")
def show_settings() -> None:
    """Print what holds as TOML that unisono.toml takes; secrets stand in comments, masked."""
    typer.echo(config.shown(load_settings()), nl=False)


@settings_app.command("reference")
def reference(file: Annotated[Path | None, typer.Argument(help="Where to write the page.")] = None) -> None:
    """Write the reference page of all settings."""
    if file is None:
        typer.echo(config.reference_page(), nl=False)
    else:
        file.write_text(config.reference_page(), "utf-8")


def exit_code(error: UnisonoError) -> int:
    """Return the exit code that says whose fault it was."""
    if isinstance(error, CallerError | config.ConfigErrors) or getattr(error, "status", 500) < 500:
        return WRONG
    return AWAY if isinstance(error, Unavailable) or getattr(error, "status", 0) >= 500 else FAILED


def run(arguments: list[str] | None = None) -> None:
    """Run the command line; an error on purpose is one line on stderr and an exit code, never a traceback."""
    try:
        app(args=arguments, prog_name="unisono")
    except UnisonoError as error:
        for line in str(error).splitlines():
            print(f"unisono: {line}", file=sys.stderr)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


if __name__ == "__main__":
    run()
