"""The documents as a site: built strictly, so that no link and no anchor leads nowhere; it asks nobody for anything."""

import re

import build_site
import pytest
import yaml


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    source = tmp_path_factory.mktemp("site") / "source"
    build_site.stage(source)
    return source


@pytest.fixture(scope="module")
def site(staged):
    folder = staged.with_name("site")
    assert build_site.build(staged, folder) == 0
    return folder


def nav_pages():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/name:", lambda *_: None)
    config = yaml.load((build_site.ROOT / "mkdocs.yml").read_text(), Loader)

    def below(entry):
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from below(inner)

    return list(below(config["nav"]))


def test_every_document_is_a_page_and_every_one_for_users_stands_in_the_navigation(site):
    for page in build_site.pages():
        built = site / page.relative_to(build_site.ROOT).with_suffix(".html")
        assert built.exists() or built.with_name("index.html").exists(), page
    docs = build_site.ROOT / "docs"
    for_users = [*docs.glob("*.md"), *docs.glob("method/*.md")]
    missing = {str(path.relative_to(build_site.ROOT)) for path in for_users} - set(nav_pages())
    assert not missing


def test_no_page_loads_anything_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.findall(r"<(?:script|img|iframe)[^>]+src=[\"']?(?:https?:)?//", text), page
        assert not re.findall(r"<link[^>]+rel=\"?(?:stylesheet|preconnect)[^>]+href=[\"']?(?:https?:)?//", text), page


@pytest.mark.parametrize(
    "link", ["[x](docs/no-such-page.md)", "[x](docs/method.md#no-such-heading)", "[x](no-such-file.yaml)"]
)
def test_what_leads_nowhere_fails_the_build(tmp_path, link):
    source = tmp_path / "source"
    build_site.stage(source)
    (source / "README.md").write_text(f"# Home\n\n{link}\n")
    assert build_site.build(source, tmp_path / "site") != 0


def test_code_blocks_are_left_as_they_are(staged):
    for name in ("README.md", "docs/method/rules.md"):
        fences = build_site.FENCE.findall((build_site.ROOT / name).read_text())
        assert build_site.FENCE.findall((staged / name).read_text()) == fences
