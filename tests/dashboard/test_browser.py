"""The dashboard in a real browser, by its keys."""

import contextlib
import json
import os
import pathlib
import shutil

import pytest

from tests.dashboard.test_server import folder, server  # noqa: F401  # fixtures

pytestmark = pytest.mark.slow
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, and Chromium")
expect = sync_api.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(server):  # noqa: F811
    with sync_api.sync_playwright() as playwright, contextlib.ExitStack() as stack:
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except sync_api.Error as e:
            pytest.skip(f"no Chromium: {e}")
        stack.callback(browser.close)
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        page.asked, page.wrong = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector("a.row")
        yield page


def shot(page, name):
    """Where $PTFT_SHOTS is a folder, what is seen now."""
    if folder_ := os.environ.get("PTFT_SHOTS"):
        page.screenshot(path=str(pathlib.Path(folder_) / f"{name}.png"), full_page=True)


def test_it_is_used_by_keys(page, server, folder):  # noqa: F811
    assert "token" not in page.url and page.title() == "Runs - ptft dashboard"
    names = page.locator("a.row").all_inner_texts()
    assert sorted(names) == ["deep/second", "first", "stolen"]
    page.keyboard.press("j")
    page.keyboard.press("j")
    focused = "document.activeElement.textContent"
    assert page.evaluate(focused) == names[1]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px", "focus is seen"
    page.keyboard.press("x")
    expect(page.locator("main")).to_contain_text("Curves: those chosen")
    assert page.evaluate(focused) == names[1], "what is in focus stays"
    shot(page, "runs")
    # a filter, and one that is none
    page.keyboard.press("/")
    page.keyboard.type("after.validation/nll<2")
    page.keyboard.press("Enter")
    expect(page.locator("a.row")).to_have_count(1)
    page.keyboard.type("x(")
    page.keyboard.press("Enter")
    page.wait_for_selector("#state.wrong")
    for _ in range(2):
        page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    page.wait_for_selector("#state:not(.wrong)")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('first')")
    assert page.locator("figure svg").count() == 1 and "t1.5" in page.locator("pre").first.inner_text()
    shot(page, "run")


def test_it_is_live_and_safe(page, server, folder):  # noqa: F811
    page.goto(f"http://127.0.0.1:{server.server_port}/#/run/deep%2Fsecond")
    page.wait_for_selector("figure svg")
    row = {"step": 50, "kind": "train", "loss": 123.0}
    with (folder / "deep/second/metrics.jsonl").open("a") as file:
        file.write(
            ("" if (folder / "deep/second/metrics.jsonl").read_text().endswith("\n") else "\n") + json.dumps(row) + "\n"
        )
    expect(page.locator("main")).to_contain_text("123 at step 50")
    page.keyboard.press("e")
    page.wait_for_selector("a.row")
    assert "Why <b>?" in page.inner_text("main"), "a text is a text"
    shot(page, "experiments")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector(".graph svg")
    page.locator("button:has-text('log')").nth(1).click()
    expect(page.locator("#log")).to_contain_text("this is why")
    expect(page.locator("details td").nth(1)).to_have_text("a|b")
    assert page.locator("details code").text_content() == "table.csv"
    assert "<b>" in page.locator("details p").text_content(), "a text is a text"
    shot(page, "experiment")
    page.set_viewport_size({"width": 400, "height": 800})
    shot(page, "experiment-narrow")
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, "nothing is beyond a narrow page's edge"
    page.keyboard.press("g")
    page.wait_for_selector("h1:has-text('Runs')")
    shot(page, "runs-narrow")
    here = f"http://127.0.0.1:{server.server_port}/"
    assert all(url.startswith((here, "data:")) for url in page.asked)
    # the browser itself says 400 of the filter that was none
    assert [text for text in page.wrong if "400" not in text] == []
