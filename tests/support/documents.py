"""The documents of the repository, and the commands in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")

FOLDERS = ("*.md", "docs/**/*.md", "plugins/*/README.md", "examples/**/*.md", "evaluation/*.md", "benchmarks/*.md")
DOCUMENTS = sorted(path for pattern in FOLDERS for path in ROOT.glob(pattern))


def fenced(text, *languages):
    return [body for language, body in FENCE.findall(text) if language in languages]


def commands(path):
    """Command lines of costtrace in a document: code in a sentence, shell blocks, indented lines."""
    text = path.read_text(encoding="utf-8")
    places = [*inline(text), *(line for body in fenced(text, "sh") for line in body.splitlines())]
    places += re.findall(r"^    (.*)$", FENCE.sub("", text), re.MULTILINE) if path.parent.name == "docs" else []
    for place in places:
        for match in re.finditer(r"(?:^|[\s(])costtrace ([a-z-][^|>&;)#]*)", place):
            yield re.split(r"\s{2,}", match[1].strip())[0]


FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def inline(text):
    return SPAN.findall(FENCE.sub("", text))
