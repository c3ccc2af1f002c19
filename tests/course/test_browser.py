"""The site in Chromium, at the width of a phone and of a desk; axe finds nothing to mend.

apt-get install chromium
uv run --extra lectures --with axe-playwright-python pytest -m full tests/course/test_browser.py
"""

import importlib.util
import os
import re
import shutil
from pathlib import Path

import pytest

from minipeft import cli
from minipeft.course import notebooks

pytestmark = pytest.mark.full

LECTURES = Path(__file__).parents[2] / "lectures"
STEMS = sorted(file.stem for file in LECTURES.glob(notebooks.NAMED))
DOCUMENTS = ("index", "README", "lectures-README", "lectures-CLAIMS", "minipeft-methods-lora.py")
PAGES = [*DOCUMENTS, *STEMS, *(f"{stem}-slides" for stem in STEMS)]
WIDTHS = ((360, "dark"), (1280, "light"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    for name in ("nbconvert", "latex2mathml"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"lectures: {name} is not installed")
    where = tmp_path_factory.mktemp("site")
    assert cli.main(["lectures", "--html", str(where), "--slides"]) == 0
    return where


@pytest.fixture(scope="module")
def chromium():
    """A browser without a window."""
    file = shutil.which("chromium") or shutil.which("google-chrome")
    if file is None:
        pytest.skip("browser: no Chromium here")
    if importlib.util.find_spec("axe_playwright_python") is None:
        pytest.skip("browser: axe-playwright-python is not installed")
    from playwright.sync_api import sync_playwright

    root = hasattr(os, "geteuid") and os.geteuid() == 0  # root has no sandbox
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=file, args=["--no-sandbox"] if root else []
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, site):
    """visit(name, width, scheme) is an open page; all that it loads is a file of the site."""
    opened, loaded = [], []

    def show(name, width=1280, scheme="light"):
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme
        )
        page = context.new_page()
        page.on("request", lambda request: loaded.append(request.url))
        page.goto((site / name).as_uri())
        opened.append(context)
        return page

    yield show
    for context in opened:
        context.close()
    assert not [url for url in loaded if not url.startswith((site.as_uri(), "data:"))]


def test_no_page_is_wider_than_its_window(visit, site):
    for width, scheme in WIDTHS:
        page = visit("index.html", width, scheme)
        for file in sorted(site.glob("*.html")):
            page.goto(file.as_uri())
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{file.name} is {wide} wide, in a window of {width}"


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(visit, name):
    from axe_playwright_python.sync_playwright import Axe

    for width, scheme in WIDTHS:
        found = Axe().run(visit(f"{name}.html", width, scheme)).response["violations"]
        told = [(f["id"], f["nodes"][0]["html"][:200], len(f["nodes"])) for f in found]
        assert not told, (name, width, scheme)


def test_axe_sees_what_is_wrong(visit):
    from axe_playwright_python.sync_playwright import Axe

    page = visit("index.html")
    page.evaluate("document.querySelector('main').style.color = '#bbb'")
    page.evaluate("document.documentElement.removeAttribute('lang')")
    found = {one["id"] for one in Axe().run(page).response["violations"]}
    assert found == {"color-contrast", "html-has-lang"}


def test_light_and_dark(visit):
    ground = "getComputedStyle(document.body).backgroundColor"
    page = visit("index.html", scheme="dark")
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Light").click()
    light = page.evaluate(ground)
    assert dark != light == visit("index.html", scheme="light").evaluate(ground)
    page.reload()  # the choice is kept
    assert page.evaluate(ground) == light
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(ground) == dark


def test_slides_turn_by_keys_and_buttons(visit):
    page = visit("08_lora-slides.html")
    count = page.locator("#count")
    slides = page.locator("section.slide").count()

    def at(number):
        count.get_by_text(f"{number} / {slides}", exact=True).wait_for(timeout=5000)

    at(1)
    for key, number in (("ArrowRight", 2), (" ", 3), ("PageUp", 2), ("End", slides), ("Home", 1)):
        page.keyboard.press(key)
        at(number)
    page.get_by_role("button", name="The next slide").click()
    at(2)
    assert page.url.endswith("#2")
    page.reload()
    at(2)


def test_slides_turn_by_a_swipe_and_print_one_to_a_sheet(visit, tmp_path):
    page = visit("08_lora-slides.html", 360)
    snap = page.evaluate("getComputedStyle(document.querySelector('.deck')).scrollSnapType")
    assert snap == "x mandatory"  # a finger moves the row of slides, which stops at one
    printed = page.pdf()
    sheets = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert sheets >= page.locator("section.slide").count()


def test_without_scripts_all_is_there(chromium, site):
    context = chromium.new_context(
        java_script_enabled=False, viewport={"width": 360, "height": 800}
    )
    page = context.new_page()
    page.goto((site / "08_lora-slides.html").as_uri())
    assert page.get_by_role("button").count() == 0  # none that does nothing
    page.get_by_role("link", name="The lecture").click()
    assert page.locator("h1").inner_text().startswith("LoRA")
    context.close()
