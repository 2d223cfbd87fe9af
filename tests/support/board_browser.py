"""Opens a board page in Chromium and prints what it saw as JSON. Run by the peers' Python, not by pytest.

python board_browser.py CHROMIUM PAGE.html FOLDER
"""

import json
import re
import sys
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

ARGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"


def watch(page, seen):
    page.on("request", lambda request: seen["requests"].append(request.url))
    page.on("console", lambda message: seen["console"].append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen["console"].append(str(error)))


def tab_order(page, steps):
    names = []
    for _ in range(steps):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
    return names


def main():
    chromium, address, folder = sys.argv[1], Path(sys.argv[2]).as_uri(), Path(sys.argv[3])
    seen = {"requests": [], "console": [], "violations": {}, "overflow": {}}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=ARGS.split())
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 900})
            watch(page, seen)
            page.goto(address)
            violations = Axe().run(page).response["violations"]
            seen["violations"][scheme] = [[one["id"], [node["html"] for node in one["nodes"]]] for one in violations]
            seen["overflow"][scheme] = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            seen["overflow"][f"tables, {scheme}"] = page.evaluate(
                "Math.max(...[...document.querySelectorAll('.scroll')].map(one => one.scrollWidth - one.clientWidth))"
            )
            seen[f"background_{scheme}"] = page.evaluate("getComputedStyle(document.body).backgroundColor")
            page.screenshot(path=folder / f"board-{scheme}.png", full_page=True)
            if scheme == "light":
                seen["tiles"] = page.locator(".tiles .figure").all_inner_texts()
                seen["focus"] = tab_order(page, 16)
                before = page.locator("#roi-over_purchase_price").inner_text()
                page.fill("#in-utilisation", "0.5")
                page.fill("#in-price_decline", "0.5")
                seen["return"] = [before, page.locator("#roi-over_purchase_price").inner_text()]
                page.emulate_media(media="print")
                pdf = page.pdf(format="A4", prefer_css_page_size=True)
                seen["pages"] = len(re.findall(rb"/Type\s*/Page[^s]", pdf))
            page.close()
        phone = browser.new_page(viewport={"width": 390, "height": 800})
        phone.goto(address)
        seen["overflow"]["phone"] = phone.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        browser.close()
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
