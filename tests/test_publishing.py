"""Pages leave the press without a script or style inside, under one policy."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import execution
import publishing
import serving
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[1]
PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>A page</title>
<link href="../_static/styles/theme.css?digest=1" rel="stylesheet" />
<link rel="stylesheet" type="text/css" href="../_static/book.css?v=2" />
<script src="../_static/book.js"></script>
<script>let a = "</p>" < 1;</script>
<script>let b = 2;</script>
<script src="../_static/other.js?v=1"></script>
<script defer src="../_static/third.js"></script>
<script>options.pagename = 'page';</script><script type="application/json">{"style": "x"}</script>
<style>p { color: red }</style></head>
<body><script>
document.write(`<em>written</em>`);
</script><button onclick="toggle()">x</button>
<p style="color: blue">one <code>style=&quot;x&quot;</code></p>
<td class="a b" title="a > b" style="text-align: &quot;right&quot;">two</td>
<hr style='width:1px'/></body>
"""


def published(tmp_path: Path, text: str) -> tuple[BeautifulSoup, str, dict[str, None]]:
    static = tmp_path / "_static"
    (static / "inline").mkdir(parents=True)
    (static / "styles").mkdir()
    (tmp_path / "notebooks").mkdir()
    (static / "basic.css").write_text("li { background: url(file.png) }")
    (static / "styles" / "theme.css").write_text('@import "../basic.css";\nb { color: red }')
    (static / "book.js").write_text("(() => 0)()")
    (static / "other.js").write_text("(() => 1)()")
    (static / "book.css").write_text('i { mask: url("data:a.b") }')
    rules: dict[str, None] = {}
    page = tmp_path / "notebooks" / "page.html"
    freed = publishing._freed(text, page, tmp_path, rules, {})
    whole = publishing._with_one_sheet(freed, page, tmp_path, "\n".join(rules))
    return BeautifulSoup(whole, "html.parser"), whole, rules


def test_a_page_holds_no_script_handler_or_style(tmp_path: Path) -> None:
    page, text, rules = published(tmp_path, PAGE)
    assert not page.find_all(style=True)
    assert not page.find_all("style")
    assert not re.search(r"\son\w+=", text)
    inline = [s for s in page.find_all("script", src=False) if not s.get("type")]
    assert inline == []
    assert page.find("td")["class"][:2] == ["a", "b"]
    assert page.find("td")["title"] == "a > b"
    assert page.find("code").text == 'style="x"'
    for tag in ("p", "td", "hr"):
        name = page.find(tag)["class"][-1]
        assert sum(rule.startswith(f".{name}.{name}.{name} ") for rule in rules) == 1
    assert 'text-align: "right"' in " ".join(rules)
    assert next(iter(rules)) == "p { color: red }"


def test_a_page_has_one_style_sheet_with_the_own_rules_last(tmp_path: Path) -> None:
    page, _, rules = published(tmp_path, PAGE)
    (link,) = page.select("link[rel=stylesheet]")
    sheet = (tmp_path / "notebooks" / str(link["href"])).read_text()
    parts = ["url(../file.png)", "b { color: red }", 'url("data:a.b")', *rules]
    assert sorted(parts, key=sheet.index) == parts


def test_scripts_beside_one_another_are_one_and_what_they_write_is_there(tmp_path: Path) -> None:
    page, *_ = published(tmp_path, PAGE)
    assert page.body.em.text == "written"
    scripts = [str(script["src"]) for script in page.select("script[src]")]
    joined, third, named = scripts
    assert (tmp_path / "notebooks" / joined).read_text().split("\n;\n") == [
        "(() => 0)()", 'let a = "</p>" < 1;', "let b = 2;", "(() => 1)()",
    ]  # fmt: skip
    assert third == "../_static/third.js"
    assert "pagename" in (tmp_path / "notebooks" / named).read_text()


def test_the_policy_is_the_first_thing_that_a_page_says(tmp_path: Path) -> None:
    page, *_ = published(tmp_path, PAGE)
    first = page.head.find(True)
    assert first["http-equiv"] == "Content-Security-Policy"
    assert first["content"] == serving.POLICY
    assert "unsafe" not in serving.POLICY
    rules = dict(rule.split(" ", 1) for rule in serving.POLICY.split("; "))
    assert {name for name, value in rules.items() if "data:" in value} == {"img-src", "font-src"}
    assert {value.replace(" data:", "") for value in rules.values()} == {"'self'", "'none'"}


def test_the_page_for_no_page_needs_nothing_beside_it() -> None:
    text = publishing.NOWHERE.format(policy=publishing.META_POLICY, address="https://a.b/c/")
    page = BeautifulSoup(text, "html.parser")
    assert page.head.find(True)["charset"] == "utf-8"
    assert page.find("meta", attrs={"http-equiv": True})["content"] == serving.POLICY
    assert not page.select("script, link, img, [style]")
    assert [a["href"] for a in page.select("main a")] == [
        "https://a.b/c/index.html", "https://a.b/c/search.html",
    ]  # fmt: skip


def test_make_serve_sends_the_policy_and_ends_quietly(tmp_path: Path) -> None:
    (tmp_path / "book").mkdir()
    (tmp_path / "build" / "html").mkdir(parents=True)
    (tmp_path / "build" / "html" / "index.html").write_text("a page")
    program = tmp_path / "book" / "serving.py"
    program.write_text((ROOT / "book" / "serving.py").read_text())
    command = [sys.executable, str(program)]
    child = subprocess.Popen(
        [*command, "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job's ignores it
    )
    assert child.stdout is not None
    address = child.stdout.readline().strip()
    port = address.removesuffix("/").rpartition(":")[2]
    connection = HTTPConnection("127.0.0.1", int(port))
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.read() == b"a page"
    assert answer.headers["Content-Security-Policy"].startswith(serving.POLICY)
    connection.close()
    taken = subprocess.run([*command, port], capture_output=True, text=True, check=False)
    assert (taken.returncode, taken.stderr.count("\n")) == (2, 1)
    assert f"PORT = {port}: Address already in use" in taken.stderr
    os.kill(child.pid, signal.SIGINT)
    assert child.communicate(timeout=20)[1] == ""
    assert child.returncode == 0
    for wrong in ("x", "-1", "70000"):
        done = subprocess.run([*command, wrong], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_another_corpus_is_another_ground_of_the_chapters() -> None:
    assert execution.ground("one") == execution.ground("one") != execution.ground("other")
