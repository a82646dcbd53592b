"""The command finds its verbs, and answers help, version and mistakes without heavy libraries."""

import pkgutil
import re
import subprocess
import sys

import pytest
import typer

from moe_leverage import __version__, cli
from moe_leverage.modules import import_modules

PROGRAM = """
import sys
from moe_leverage import cli
cli.__path__.append(sys.argv.pop(1))
try:
    cli.main()
finally:
    print(*sorted({"torch", "pandas", "scipy", "matplotlib"} & set(sys.modules)), file=sys.stderr)
"""
NEW_VERB = """
import typer
from moe_leverage.cli import app

@app.command()
def greet():
    typer.echo("a verb of its own module")
"""


def called(folder, *arguments):
    command = [sys.executable, "-c", PROGRAM, str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr.splitlines()


def test_a_verb_of_a_new_module_is_found(tmp_path):
    (tmp_path / "greeting.py").write_text(NEW_VERB)
    assert called(tmp_path, "greet")[:2] == (0, "a verb of its own module\n")


def test_every_module_brings_a_verb(tmp_path):
    code, shown, heavy = called(tmp_path, "--help")
    assert code == 0
    assert heavy == [""]
    modules = {module.name for module in pkgutil.iter_modules(cli.__path__)} - {"progress"}  # shown
    verbs = {"instruments": "router-trace"}  # else of the module's own name
    assert all(f" {verbs.get(name, name)} " in shown for name in modules)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["greet"], "moe-leverage: No such command 'greet'."),
        (["corpus", "info", "--tier", "x"], "moe-leverage: tier = 'x': must be one of smoke, full"),
        (
            ["design", "--compute", "-1"],
            "moe-leverage: compute = -1.0: must be a number from 1 to",
        ),
        (["explain", "nosuch"], "moe-leverage: CONFIG = 'nosuch': is neither a file nor one of"),
    ],
)
def test_a_mistake_is_answered_at_once(tmp_path, arguments, answer):
    code, shown, said = called(tmp_path, *arguments)
    assert (code, shown) == (2, "")
    assert said[0].startswith(answer)
    assert said[1:] == [""]


def test_the_version_is_printed_without_a_verb(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["moe-leverage", "--version"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert capsys.readouterr() == (f"moe-leverage {__version__}\n", "")


def helps():
    """The words of every help text, by verb."""
    import_modules(cli.__name__)

    def walk(command, path):
        below = getattr(command, "commands", {})
        for name, entry in below.items():
            yield from walk(entry, (*path, name))
        yield path, [command.help or "", *(getattr(p, "help", "") or "" for p in command.params)]

    return list(walk(typer.main.get_command(cli.app), ()))


@pytest.mark.parametrize(("verb", "texts"), helps(), ids=lambda v: " ".join(v)[:20])
def test_a_help_text_loses_no_word(monkeypatch, capsys, verb, texts):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["moe-leverage", *verb, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = set(re.findall(r"[^\s│]+", capsys.readouterr().out))
    words = {word.replace("\\[", "[") for text in texts for word in text.split()}
    assert words - shown == set()


@pytest.mark.parametrize("message", ["a\nb", "\x1b[2J", "x" * 10**6, "\u202e", "\udcff"])
def test_a_message_is_one_line_of_a_length_and_without_commands(capsys, message):
    with pytest.raises(SystemExit):
        cli.fail(message)
    error = capsys.readouterr().err
    assert len(error) <= 300
    assert error[:-1].isprintable()
    assert error.endswith("\n")


def test_an_error_of_the_system_names_the_file_and_no_number(monkeypatch, capsys):
    def break_(**rest):
        raise FileExistsError(17, "File exists", "run")

    monkeypatch.setattr(cli, "app", break_)
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == "moe-leverage: run: File exists\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["study", "plan", "nope"], 2),
        (["study", "run", "nope"], 2),
        (["study", "run", "tuning", "--threads", "0"], 2),
        (["study", "run", "tuning", "--max-minutes", "nan"], 2),
        (["study", "run", "tuning", "--backend", "nope"], 2),
        (["study", "plan", "tuning"], 0),
        (["study", "status"], 0),
        (["train", "--config", "none.json"], 2),
        (["router-trace", "--out", "none/trace.json"], 2),
        (["fit", "none.csv", "--report", "none/report.html"], 2),
    ],
)
def test_what_trains_is_loaded_by_what_trains(tmp_path, arguments, code):
    found, _, said = called(tmp_path, *arguments)
    assert found == code
    assert not {"torch", "scipy", "matplotlib"} & set(said[-1].split())
    assert len(said) == 1 + (code == 2)
