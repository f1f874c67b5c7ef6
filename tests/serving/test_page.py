"""The pages in headless Chromium, over the HTTP of a real process."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright
from starlette.types import Receive, Scope, Send

from configs.schema.serving import RolloutSpec, ServingSpec
from serving.endpoint import create_app, create_catalogue
from serving.keys import add
from serving.metered import Metered
from serving.metrics import Meter, Nowhere
from serving.platforms import Vertex
from serving.relay import Parts
from serving.rollout import Rollout
from serving.runtime import load_bundle
from serving.service import Release, catalogue_entry, put_in_service
from serving.services import Services
from serving.site import Site
from tests.tiny.bundles import write_tiny_bundle
from tests.tiny.http import Process
from tests.tiny.services import answering as behind_uvicorn
from tests.tiny.site import LIMITS, SERVICES, answering

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")]
FOCUSABLE = "a[href], button, select, textarea, input:not([type=radio]), input:checked, summary"
# Whether the focus can be seen; null where it was here before, or has left the page.
FOCUSED = """() => {
    const one = document.activeElement, style = getComputedStyle(one);
    if (one === document.body || one.dataset.reached) return null;
    one.dataset.reached = 'yes';
    return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
}"""
MISSED = "all => all.filter((one) => one.checkVisibility() && !one.dataset.reached).map((one) => one.outerHTML)"
# The least contrast (WCAG 2.2) of an element's own text with what is behind it.
CONTRAST = """() => {
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    const light = (text) => rgb(text).slice(0, 3).map((each) => linear(each / 255))
        .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0);
    const ground = (one) => getComputedStyle(one).backgroundColor;
    const behind = (one) => (rgb(ground(one))[3] === 0 ? behind(one.parentElement) : ground(one));
    const says = (one) => [...one.childNodes].some((each) => each.nodeType === Node.TEXT_NODE && each.data.trim());
    const shown = [...document.body.querySelectorAll(':not(script, noscript, style, option)')];
    return Math.min(...shown.filter((one) => one.checkVisibility() && says(one)).map((one) => {
        const [dim, bright] = [light(getComputedStyle(one).color), light(behind(one))].sort((a, b) => a - b);
        return (bright + 0.05) / (dim + 0.05);
    }));
}"""
Opened = Callable[..., Page]
TRIED = (("intent", "7"), ("second", "8"))  # bundles and versions of a champion and its candidate


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # The sandbox of Chromium needs rights that containers do not give.
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Browser, site: Process) -> Iterator[Opened]:
    """Opens a page of the site; fails where one asked another host, or had an error that the test did not expect."""
    contexts, wrong, asked = [], [], set[str]()

    def open_page(
        path: str = "/",
        width: int = 1280,
        dark: bool = False,
        url: str = site.url,
        awaited: str = "#service option, .route",
    ) -> Page:
        scheme: Any = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        page.goto(url + path)
        page.locator(awaited).first.wait_for(state="attached")
        return page

    open_page.wrong = wrong  # type: ignore[attr-defined]
    yield open_page
    for context in contexts:
        context.close()
    assert len({*asked, urlsplit(site.url).netloc}) <= 2 and all(each.startswith("127.0.0.1:") for each in asked)
    assert wrong == []


def ask(page: Page, *texts: str) -> None:
    for place, text in enumerate(texts):
        page.fill(f"#input-{place}", text)
    page.click("#send")
    expect(page.locator("#answers")).not_to_have_attribute("aria-busy", "true")


def facts(page: Page) -> dict[str, str]:
    names, values = (page.locator(f".facts {each}").all_inner_texts() for each in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def test_a_service_is_chosen_and_its_answer_shown(opened: Opened, site: Process, site_folder: Path):
    page = opened()
    assert page.locator("#service option").all_inner_texts() == SERVICES
    page.select_option("#service", "second")
    ask(page, "where is my order")
    (wanted,) = load_bundle(site_folder / "second").predict(["where is my order"], all_scores=True)
    assert page.locator(".label-said").inner_text() == wanted["label"]
    assert "scores" in wanted
    best = sorted(wanted["scores"].items(), key=lambda each: -each[1])
    shown = page.locator(".scores li").all_inner_texts()
    assert [each.split("\n") for each in shown] == [[name, f"{100 * share:.1f} %"] for name, share in best]
    assert facts(page).keys() == {"Time in the model", "Time in all", "Unknown tokens"}
    (entry,) = [each for each in site.get("/v1/models").json()["models"] if each["service"] == "second"]
    assert page.locator("article > .head").inner_text().split("\n") == ["second", f"tiny, version {entry['version']}"]


def test_two_services_answer_side_by_side(opened: Opened):
    page = opened("/#intent")
    assert page.locator("#other option").all_inner_texts() == ["nothing", "second", "reply", "writer", "talk"]
    page.select_option("#other", "second")
    ask(page, "where is my order")
    assert page.locator("article h2").all_inner_texts() == ["intent", "second"]
    boxes = [page.locator("article").nth(place).bounding_box() for place in (0, 1)]
    assert boxes[0] and boxes[1] and boxes[0]["y"] == boxes[1]["y"]


def test_what_runs_is_listed_with_its_version(opened: Opened, site: Process):
    shown = opened().locator("#running li").all_inner_texts()
    listed = site.get("/v1/models").json()["models"]
    assert [(each["service"] in text, each["version"] in text) for each, text in zip(listed, shown, strict=True)] == [
        (True, True)
    ] * len(SERVICES)


def test_the_keyboard_reaches_everything_and_sends(opened: Opened):
    page = opened("/#category")
    seen = []
    while True:
        page.keyboard.press("Tab")
        if (visible := page.evaluate(FOCUSED)) is None:
            break
        seen.append(visible)
    assert all(seen) and len(seen) > len(SERVICES) + 8
    assert page.locator(FOCUSABLE).evaluate_all(MISSED) == []
    page.locator("#service").focus()
    page.keyboard.type("intent")
    page.locator("#input-0").focus()
    page.keyboard.type("refund now")
    page.keyboard.press("Control+Enter")
    page.locator(".label-said").wait_for()
    assert page.locator("article h2").inner_text() == "intent"


@pytest.mark.parametrize("dark", [False, True])
def test_the_pages_fit_400_pixels_and_can_be_read(opened: Opened, dark: bool):
    page = opened(width=400, dark=dark)
    for service in SERVICES:
        page.select_option("#service", service)
        ask(page, *(["name: order\ninch: 40"] * page.locator("#inputs textarea[id^=input-]").count()))
        for fold in page.locator("details").all():
            fold.evaluate("each => { each.open = true }")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, service
        assert contrasts(page) >= 4.5, service
    docs = opened("/docs", width=400, dark=dark)
    for fold in docs.locator("details").all():
        fold.evaluate("each => { each.open = true }")
    assert docs.evaluate("document.documentElement.scrollWidth") <= 400
    assert contrasts(docs) >= 4.5
    ground = re.findall(r"\d+", docs.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert (sum(map(int, ground)) < 150) == dark


def inputs_of(request: Request) -> Any:
    body: Any = request.post_data_json
    return body["inputs"]


def contrasts(page: Page) -> float:
    return page.evaluate(CONTRAST)


def test_a_product_is_typed_as_lines_or_as_a_text(opened: Opened):
    page = opened("/#category")
    with page.expect_request("**/v1/category") as sent:
        ask(page, "order: refund\nnow: 40\nnow: a: b")
    assert inputs_of(sent.value) == [{"order": "refund", "now": ["40", "a: b"]}]
    page.check("#as-text")
    with page.expect_request("**/v1/category") as sent:
        ask(page, "order: refund")
    assert inputs_of(sent.value) == ["order: refund"]
    page.check("#as-lines")
    ask(page, "order")
    assert "without a colon" in page.locator("article .problem").inner_text()


def test_a_pair_is_two_texts(opened: Opened):
    page = opened("/#pairs")
    page.check("#as-text")
    with page.expect_request("**/v1/pairs") as sent:
        ask(page, "order", "now")
    assert inputs_of(sent.value) == [{"text": "order", "text_pair": "now"}]
    assert page.locator(".label-said").inner_text()


def test_a_reply_is_shown_or_its_handover_with_the_reason(opened: Opened):
    page = opened("/#reply")
    ask(page, "refund now")
    said = page.locator("article").inner_text()
    assert "handed over to a person" in said and "the placeholder 'order_number' has no value" in said
    page.fill("#fields", "order_number: 12")
    ask(page, "refund now")
    intent = page.locator(".scores li span").first.inner_text()
    assert page.locator(".text-said").inner_text() == f"{intent} of 12"
    assert "answered" in page.locator("article").inner_text()


def test_a_text_comes_as_a_stream(opened: Opened):
    page = opened("/#writer")
    ask(page, "a")
    assert page.locator(".text-said").text_content() == " says hello."
    assert facts(page)["Ended by"] == "the model" and facts(page)["Tokens read, written"] == "2, 12"
    assert {"First piece after", "Time in the model", "Time in all"} <= facts(page).keys()


def test_options_are_those_of_the_service(opened: Opened):
    page = opened("/#intent")
    assert page.locator("#more").is_hidden()
    page.select_option("#service", "writer")
    page.click("#more summary")
    page.select_option("#option-style", "warm")
    page.fill("#option-max_tokens", "5")
    with page.expect_request("**/v1/writer") as sent:
        ask(page, "a")
    asked = {"style": "warm", "max_tokens": 5}
    assert sent.value.post_data_json == {"inputs": ["a"], "details": True, "stream": True, **asked}


def test_a_refusal_is_its_one_line(opened: Opened, site: Process):
    page = opened("/#writer")
    text = "a" * 100
    ask(page, text)
    said = site.post("/v1/writer", {"inputs": [text]}).json()
    assert page.locator("article .problem").inner_text() == said["detail"]
    assert page.locator("article > .head").inner_text().split("\n") == ["writer", "status 422"]
    opened.wrong.remove(opened.wrong[-1])  # type: ignore[attr-defined] - Chromium logs what is not answered with 200
    ask(page, "a")
    assert page.locator("article .problem").count() == 0


def test_a_server_that_asks_for_keys_shows_the_services_of_the_one_that_is_typed(
    opened: Opened, site_folder: Path, tmp_path: Path
):
    key = add(tmp_path / "keys.json", "page", ["intent"])
    with answering(site_folder, "intent", "second", keys=tmp_path / "keys.json") as process:
        page = opened(url=process.url, awaited="#trouble:not([hidden])")
        assert "an API key is needed here" in page.locator("#trouble").inner_text()
        assert page.evaluate("document.activeElement.id") == "key"
        opened.wrong.clear()  # type: ignore[attr-defined] - Chromium logs what is not answered with 200
        page.keyboard.type(key)
        page.keyboard.press("Tab")
        page.locator("#service option").first.wait_for(state="attached")
        assert page.locator("#service option").all_inner_texts() == ["intent"]
        with page.expect_request("**/v1/intent") as sent:
            ask(page, "refund")
        assert sent.value.headers["authorization"] == f"Bearer {key}" and page.locator(".label-said").count() == 1
        kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
        assert key not in kept
        docs = opened("/docs", url=process.url)
        assert docs.locator(".path").all_inner_texts() == ["/v1/models", "/healthz"]
        docs.click("#key-part summary")
        docs.fill("#key", key)
        docs.keyboard.press("Enter")
        docs.get_by_text("/v1/intent", exact=True).wait_for()
        page.reload()
        assert page.input_value("#key") == ""
        opened.wrong.clear()  # type: ignore[attr-defined] - as above


def test_a_rollout_is_shown_and_who_of_both_answered(opened: Opened, site_folder: Path):
    spec = ServingSpec.model_validate({})
    releases = [Release(bundle=str(site_folder / name), name=name, version=version) for name, version in TRIED]
    champion, candidate = (
        Metered(put_in_service("intent", each, spec), Meter(Nowhere(), "intent", each.version)) for each in releases
    )
    entry = catalogue_entry("intent", releases[0], spec)
    share = {"candidate": {**releases[1].model, "share": 50}}
    rollout = Rollout(champion, candidate, RolloutSpec(canary=50), time.time() + 600, ["label"])
    service = create_app("intent", spec, lambda: rollout)
    catalogue = create_catalogue(lambda: [entry | share], spec, nobody)

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        await (service if scope["path"].startswith("/v1/intent") else catalogue)(scope, receive, send)

    with behind_uvicorn(both) as url:
        page = opened(url=url)
        assert "candidate version 8 answers 50 % of the requests" in page.locator("#running").inner_text()
        who = set[str]()
        for _ in range(40):  # by chance
            ask(page, "refund now")
            who |= {page.locator("article > .head").inner_text().split("\n")[1]}
            if len(who) > 1:
                break
        assert who == {"champion, intent, version 7", "candidate, second, version 8"}
        counted = rollout.counts.requests
        page.select_option("#other", label="its candidate, version 8")
        for _ in range(3):
            ask(page, "refund now")
            heads = [each.split("\n")[1] for each in page.locator("article > .head").all_inner_texts()]
            assert heads == ["champion, intent, version 7", "candidate, second, version 8"]
        assert rollout.counts.requests == counted


def nobody(*_: object) -> Parts:
    """Nothing is asked of the catalogue here."""
    raise AssertionError


def test_what_comes_from_elsewhere_is_text(opened: Opened, tmp_path: Path):
    label = "<img src=x onerror=alert(1)>"
    write_tiny_bundle(tmp_path / "odd", labels=[label, "<b>b</b>", "</script>"], name="<i>odd</i>")
    with answering(tmp_path, "odd") as process:
        page = opened(url=process.url)
        ask(page, "<img src=y onerror=alert(2)>")
        page.click("article > .part > details summary")
        assert label in page.locator(".scores").inner_text()
        assert page.locator("img, main b, main i:not(.bar i)").count() == 0
        docs = opened("/docs", url=process.url)
        assert label in docs.locator("#routes").inner_text()
        assert docs.locator("img, main b, main i").count() == 0


def test_the_documentation_shows_every_route_and_commands_that_are_answered(opened: Opened, site: Process):
    page = opened("/docs")
    api = site.get("/openapi.json").json()
    shown = page.locator(".route summary .path").all_inner_texts()
    assert sorted(shown) == sorted(api["paths"])
    commands = page.locator("pre").all_text_contents()
    assert f"curl {site.url}/v1/models" in commands
    wanted = '{"inputs":["where is my order"],"scores":true}'
    assert f"curl -H 'Content-Type: application/json' -d '{wanted}' {site.url}/v1/intent" in commands
    assert page.locator(".route details[open]").count() == 1
    assert str(LIMITS["max_inputs"]) in page.locator(".route .properties").first.inner_text()


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_that_is_opened_too_early_shows_the_services_as_soon_as_they_are_loaded(
    browser: Browser, tmp_path: Path, path: str
):
    write_tiny_bundle(tmp_path / "intent")
    spec = ServingSpec()
    services = Services({"intent": tmp_path / "intent"}, spec)
    with behind_uvicorn(Site(services, spec, Vertex())) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}{path}")
        expect(page.locator("#trouble")).to_contain_text("still being loaded")
        with ThreadPoolExecutor() as other:  # this thread has a loop of Playwright's
            other.submit(asyncio.run, services.load()).result()
        page.wait_for_selector("#service option, .route", state="attached")
        expect(page.locator("#trouble")).to_be_hidden()
