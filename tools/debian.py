"""Unpacks a Debian package of another suite into a folder, system untouched. Stdlib, apt-get and dpkg-deb only."""

import os
import re
import shutil
import tempfile
from pathlib import Path

from setup_common import ROOT, SetupError, Stages, locked, read_json, say, write_json

SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = re.compile(r"^(?:URIs:|deb) +(?:\[[^]]*\] +)?(https?://\S+/debian)/?(?: .*)?$", re.MULTILINE)


def mirror() -> str:
    """The Debian mirror that this system's own apt uses. Raises SetupError where it uses none."""
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if not KEYRING.exists():
        missing.append(str(KEYRING))
    if missing:
        raise SetupError(f"there is no {', no '.join(missing)}.", "This can be set up on Debian only.")
    files = [path for top in SOURCES for path in ([top] if top.is_file() else sorted(top.glob("*")))]
    for path in files:
        if match := MIRROR.search(path.read_text(encoding="utf-8", errors="replace")):
            return match.group(1)
    raise SetupError("the apt sources of this system name no Debian mirror.", f"Add one below {SOURCES[1]}.")


def unpack(package: str, suite: str, folder: Path) -> None:
    """Unpack *package* of *suite*, without what it depends on, into *folder*; once. Raises SetupError.

    apt gets sources, lists and a cache of its own, so the system's stay as they are. Its stamp is written last.
    """
    name = f"setup-{package}"
    stages = Stages(name, ROOT / "build" / f"{name}.log")
    stamp, wanted = folder / "setup.stamp.json", {"package": package, "suite": suite}
    with locked(ROOT / "build" / f"{name}.lock", name), tempfile.TemporaryDirectory() as scratch:
        if read_json(stamp) == wanted:
            return
        place = Path(scratch)
        options = _apart(place, mirror(), suite)
        shutil.rmtree(folder, ignore_errors=True)
        with stages.stage(f"getting {package} of Debian's {suite}"):
            commands = [["apt-get", *options, "update"], ["apt-get", *options, "download", package]]
            if any(stages.run(["env", f"--chdir={place}", *words]) for words in commands):
                stages.show_log()
                raise SetupError(f"Debian's {package} could not be had.", f"Read {stages.log}.")
            (archive,) = place.glob("*.deb")
            if stages.run(["dpkg-deb", "-x", archive, folder]):
                raise SetupError(f"{archive.name} could not be unpacked.", f"Read {stages.log}.")
        write_json(stamp, wanted)
        say(f"[{name}] ready: {os.path.relpath(folder)} ({archive.name})")


def _apart(place: Path, uri: str, suite: str) -> list[str]:
    """Options by which apt keeps to *place*."""
    for below in ("lists/partial", "cache/archives/partial", "parts"):
        (place / below).mkdir(parents=True)
    (place / "parts" / "debian.sources").write_text(
        f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
    )
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": place / "parts",
        "Dir::State::lists": place / "lists",
        "Dir::Cache": place / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
