"""Opens the live pages in Chromium and prints what it saw as JSON. Run by the peers' Python, not by pytest.

python ui_browser.py CHROMIUM ADDRESS FOLDER
"""

import json
import sys
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from board_browser import ARGS, watch
from playwright.sync_api import sync_playwright

PAGES = {
    "overview": "",
    "tenants": "tenants?over=all",
    "requests": "requests?over=all",
    "devices": "devices?over=all",
    "balance": "balance",
    "request": "requests/record-00004",
}
SIZES = {"desk": (1280, 900), "phone": (390, 844)}
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def look(browser, address, folder, seen, scheme, size):
    width, height = SIZES[size]
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})
    watch(page, seen)
    for name, path in PAGES.items():
        page.goto(address + path)
        violations = Axe().run(page).response["violations"]
        where = f"{name}, {scheme}, {size}"
        seen["violations"] += [[where, one["id"], [node["html"] for node in one["nodes"]]] for one in violations]
        seen["wider"][where] = page.evaluate(WIDER)
        page.screenshot(path=folder / f"ui-{name}-{scheme}-{size}.png", full_page=True)
    page.close()


def use(browser, address, seen):
    """What a person does: look, search, read why, freeze."""
    page = browser.new_page()
    watch(page, seen)
    page.goto(address)
    # Not wait_for_function: it needs `eval`, which the page's policy forbids.
    page.locator("body[data-reads]").wait_for(state="attached", timeout=60_000)
    seen["costs"] = page.eval_on_selector_all(".tiles data", "all => all.map(one => one.value)")
    page.click("#freeze")
    seen["frozen"] = page.get_attribute("#freeze", "aria-pressed")
    page.goto(address + "requests?over=all")
    page.fill("input[name=q]", "record-00004")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=record-00004**")
    page.click("tbody th a, tbody td a")
    page.wait_for_url("**/requests/record-00004")
    seen["why"] = page.locator(".why li").all_inner_texts()
    seen["text"] = page.inner_text("main")
    seen["marked up"] = page.evaluate("!!document.querySelector('main script, main img, main [onerror]')")
    page.close()


def main():
    chromium, address, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    seen = {"requests": [], "console": [], "violations": [], "wider": {}}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=ARGS.split())
        for scheme in ("light", "dark"):
            for size in SIZES:
                look(browser, address, folder, seen, scheme, size)
        use(browser, address, seen)
        browser.close()
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
