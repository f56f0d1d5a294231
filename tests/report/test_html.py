"""The page: one file without network, safe against its data, small, and at work in a real browser."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sftdata.config import build_config
from sftdata.pipeline.run import run_prepare
from sftdata.report.html import MAX_TOKENS, render, shown_row
from sftdata.report.view import ShownDocument
from sftdata_cli.check import command

EVIL = '</pre><script>document.title="owned"</script><img src=x onerror=alert(1)>\x1b[31m\u202e"\'&'


def page_of(path: Path, out: Path, *more: str) -> str:
    arguments = [str(path), "--tokenizer", "builtin", "--template", "chatml", "--max-length", "512", *more]
    CliRunner().invoke(command, [*arguments, "--report", str(out), "-q"], catch_exceptions=False, standalone_mode=False)
    return out.read_text(encoding="utf-8")


def records(count: int) -> str:
    rows: list[dict[str, Any]] = []
    for n in range(count):
        reply = EVIL if n % 50 == 1 else f"It is {n}. " * (1 + n % 40)
        rows.append(
            {"messages": [{"role": "user", "content": f"{n}? {{{{a}}}}"}, {"role": "assistant", "content": reply}]}
        )
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "chats.jsonl").write_text(records(400), encoding="utf-8")
    page_of(folder / "chats.jsonl", folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run over two sources, with records that are refused, cut and repeated."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "a.jsonl").write_text(records(300), encoding="utf-8")
    more = [json.loads(line) for line in records(100).splitlines()]
    more[3]["messages"][1]["content"] = ""
    more[4]["messages"][1]["content"] = "and so on, " * 300
    more[5] = {"messages": [{"role": "user", "content": EVIL}]}
    (folder / "b.jsonl").write_text("".join(json.dumps(one) + "\n" for one in more), encoding="utf-8")
    sources = {name: {"inputs": str(folder / f"{name}.jsonl"), "epochs": 2} for name in ("a", "b")}
    options = {"tokenizer": "builtin", "template": "chatml", "max_length": 512, "overlong": "truncate"}
    run_prepare(build_config({"sources": sources, "out": str(folder / "out"), "eval": "0.1", **options}))
    return folder / "out" / "report.html"


@pytest.fixture(params=["page", "run_page"])
def any_page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and whether they nest."""

    VOID = frozenset({"meta", "br", "line", "rect", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: dict[str, int] = {}
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_nests_and_asks_nobody_for_anything(any_page: Path) -> None:
    text = any_page.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert not {"img", "link", "iframe", "object"} & set(reader.tags)
    assert reader.tags["script"] == 1
    assert not {"src", "onerror", "onclick"} & reader.attributes
    assert not re.findall(r"https?://|url\(|@import", text)


def test_data_is_escaped_and_its_control_characters_shown(any_page: Path) -> None:
    text = any_page.read_text(encoding="utf-8")
    assert "<script>document" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_page_says_what_was_found_and_shows_trained_tokens(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for part in ("SFT714 unfilled-placeholder", "Truncation curve", "max length 512", "Trained share", "Bin fill"):
        assert part in text
    assert re.search(r'class="t b"', text)
    assert re.search(r'class="t s e"', text)


def test_the_page_of_a_run_shows_what_was_written_and_what_was_not(run_page: Path) -> None:
    text = run_page.read_text(encoding="utf-8")
    assert "<title>sftdata: sealed</title>" in text
    for part in (
        "<h1>Sealed</h1>",
        "SFT108",
        "SFT106",
        "Mixture",
        "Truncation curve",
        "2.00",
        "one of several documents",
    ):
        assert part in text, part
    pill = r'(?: <span class="pill (?:error|warning)">[^<]*</span>)'
    titles = re.findall(rf"<summary>record [^<]*?({pill}*)</summary>", text)
    shown = [("not trained" in pills, pills) for pills in titles]
    refused = [codes for mark, codes in shown if mark]
    assert len(shown) > 8
    assert sum("SFT108" in codes for codes in refused) == sum("SFT106" in codes for codes in refused) == 1
    assert any("SFT610" in codes for mark, codes in shown if not mark), "a document that was cut"
    assert re.search(r'class="t b"', text)


def test_a_run_that_is_not_sealed_has_a_page_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"messages": []}\n' + records(2), encoding="utf-8")
    options = {"tokenizer": "builtin", "template": "chatml", "max_length": 512, "out": str(tmp_path / "out")}
    assert not run_prepare(build_config({"inputs": (str(path),), **options})).sealed
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h1>Not sealed</h1>" in text
    assert "more than --max-reject-rate" in text
    assert "not trained" in text


def test_the_same_run_shows_the_same_rows(run_page: Path, tmp_path: Path) -> None:
    again = run_page.parents[1]
    config = json.loads((run_page.parent / "report.json").read_bytes())
    sources = {name: {"inputs": str(again / f"{name}.jsonl"), "epochs": 2} for name in ("a", "b")}
    options = {"tokenizer": "builtin", "template": "chatml", "max_length": 512, "overlong": "truncate", "workers": 2}
    run_prepare(build_config({"sources": sources, "out": str(tmp_path / "out"), "eval": "0.1", **options}))
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    part = '<h2 id="rows">'
    assert (
        text.partition(part)[2].partition("<footer>")[0]
        == run_page.read_text(encoding="utf-8").partition(part)[2].partition("<footer>")[0]
    )
    assert config["fingerprint"][:16] in text


def test_every_plot_has_a_text_and_its_numbers(any_page: Path) -> None:
    text = any_page.read_text(encoding="utf-8")
    assert text.count("<svg") == text.count('role="img" aria-label="') == text.count("<summary>Numbers</summary>") >= 5


def test_the_page_stays_small_however_long_the_rows(page: Path) -> None:
    document = ShownDocument("long", list(range(5000)), list(range(5000)))
    rows = [shown_row(document, lambda ids: f"<tok{ids[0]}>", frozenset()) for _ in range(60)]
    report = {
        "status": "sealed",
        "reason": "",
        "version": "0",
        "engine": "x",
        "fingerprint": "f" * 64,
        "made": "now",
        "inputs": [],
        "notes": [],
        "rules": {},
        "packing": {},
        "ledger": {
            "records": {"read": 0, "written": 0, "rejected": 0, "duplicate": 0},
            "examples": {"written": 0, "rejected": 0},
            "tokens": {"rendered": 0, "written": 0, "dropped": 0, "trained": 0},
        },
    }
    text = render(report, rows)
    assert text.count("<details class=") == MAX_TOKENS // 3000
    assert len(text.encode()) < 5 * 2**20
    assert "2,000 more tokens are not shown" in text


CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium chromium-driver"
)


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_real_browser_draws_it_without_a_complaint(any_page: Path, tmp_path: Path, scheme: str) -> None:
    shot = tmp_path / "page.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    done = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,2600", *dark),
            *(
                f"--user-data-dir={tmp_path}",
                "--enable-logging=stderr",
                "--v=0",
                f"--screenshot={shot}",
                any_page.as_uri(),
            ),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    assert shot.stat().st_size > 50_000


@needs_chromium
def test_the_filter_hides_rows_of_other_rules_and_data_runs_nothing(page: Path, tmp_path: Path) -> None:
    script = """<script>const s = document.getElementById("rule"); s.value = "SFT005";
    s.dispatchEvent(new Event("change"));</script></body>"""
    copy = tmp_path / "copy.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            "--dump-dom",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    shown = re.findall(r'<details class="row" data-rules="([^"]*)"(?: open="")?>', done.stdout)
    hidden = re.findall(r'<details class="row" data-rules="([^"]*)"(?: open="")? hidden="">', done.stdout)
    assert shown
    assert hidden
    assert all("SFT005" in rules.split() for rules in shown)
    assert not any("SFT005" in rules.split() for rules in hidden)
    assert "<title>sftdata: passed</title>" in done.stdout
