"""Take packages from the machine's own Debian or Ubuntu mirror, leaving the system as it is.

apt does the work, with a state of its own in a temporary folder: its own package lists, its own
sources, no installed packages. The mirror, its keyring, proxies and credentials are the machine's,
and signatures are checked as always. Packages are unpacked into a folder, never installed.

Standard library only; runs on Python 3.9 and later.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ETC_APT = Path("/etc/apt")
KEYRINGS = Path("/usr/share/keyrings")
OS_RELEASE = Path("/etc/os-release")

# The newest suites of each distribution, which have interpreters its stable release lacks.
NEWEST = {"debian": ("forky", "sid"), "ubuntu": ("devel",)}

# Hooks of the machine, such as a container's "delete all archives", are for the machine's own
# state; pins and the default release would hide the suites asked for.
APT_CONF = """\
Dir::State "{state}";
Dir::State::Lists "lists";
Dir::State::status "{state}/status";
Dir::Cache "{state}/cache";
Dir::Etc::SourceList "{state}/mirror.sources";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Acquire::Languages "none";
APT::Default-Release "";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
"""


class DebianError(RuntimeError):
    """Packages could not be taken from Debian; the message says why."""


@dataclass(frozen=True)
class Source:
    """One entry of the machine's apt sources."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""
    """A keyring's path, or a whole armoured key; empty where the entry names none."""


def one_line_sources(text: str) -> Iterator[Source]:
    """Yield the binary-package entries of a one-line-style ``.list`` file."""
    pattern = re.compile(r"^\s*deb\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<rest>[^#\n]+)", re.MULTILINE)
    for match in pattern.finditer(text):
        uri, suite, *components = match["rest"].split()
        options = dict(option.partition("=")[::2] for option in shlex.split(match["options"] or ""))
        yield Source((uri,), (suite,), tuple(components), options.get("signed-by", ""))


def deb822_sources(text: str) -> Iterator[Source]:
    """Yield the enabled binary-package entries of a deb822-style ``.sources`` file."""
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", text):
        # A line that starts with white space continues the field above it.
        pairs = re.findall(r"^([\w-]+):[ \t]*((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        fields = {name.lower(): value.strip() for name, value in pairs}
        enabled = fields.get("enabled", "yes").lower() not in {"no", "false", "0"}
        if enabled and "deb" in fields.get("types", "").split():
            yield Source(
                tuple(fields.get("uris", "").split()),
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
            )


def machine_sources(etc: Path = ETC_APT) -> list[Source]:
    """Return every source that the apt configuration in `etc` names, in apt's order."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    found: list[Source] = []
    for file in files:
        if file.suffix not in {".list", ".sources"} or not file.is_file():
            continue
        read = deb822_sources if file.suffix == ".sources" else one_line_sources
        found += read(file.read_text(encoding="utf-8", errors="replace"))
    return found


def os_release(file: Path = OS_RELEASE) -> dict[str, str]:
    """Return the fields of an os-release file; none where there is no such file."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    return {
        name: "".join(shlex.split(value))
        for name, _, value in (line.partition("=") for line in lines if "=" in line)
    }


def archive(sources: Iterable[Source], release: dict[str, str]) -> Source:
    """Return the source among `sources` that serves the distribution's own packages.

    Raises
    ------
    DebianError
        Where none carries the release's main component.
    """
    names = {release.get("VERSION_CODENAME", ""), "stable", "testing", "unstable", "sid"}
    serving = [s for s in sources if "main" in s.components and names & set(s.suites)]
    # Other vendors name their suites after Debian's as well; the keyring tells them apart.
    serving.sort(key=lambda source: "archive" not in source.signed_by)
    if not serving:
        raise DebianError(
            f"no source in {ETC_APT} carries the component main of"
            f" {release.get('VERSION_CODENAME') or 'this release'}"
        )
    return serving[0]


def _run(command: Sequence[str], cwd: Path) -> None:
    """Run `command`, and show on standard error how far it is and what goes wrong.

    Raises
    ------
    DebianError
        Where it cannot be started or exits with anything but 0.
    """
    try:
        with subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout or ():
                if line.startswith(("Get:", "Err:", "Need to get", "Fetched")):
                    print(line, end="", file=sys.stderr, flush=True)
    except OSError as error:
        raise DebianError(f"{command[0]} cannot be started: {error}") from error
    if process.returncode:
        raise DebianError(
            f"{command[0]} exited with status {process.returncode}; what it says is above"
        )


def unpack(
    packages: Sequence[str],
    into: Path,
    *,
    suites: Sequence[str] = (),
    dependencies: bool = False,
) -> None:
    """Download `packages` and unpack them into the folder `into`.

    Parameters
    ----------
    packages
        Package names.
    into
        A folder, which need not exist yet.
    suites
        Where to look for them; by default the release that the machine runs.
    dependencies
        Unpack everything they depend on as well, down to the C library.

    Raises
    ------
    DebianError
        Where this is neither Debian nor Ubuntu, no source fits, or apt fails.
    """
    missing = [tool for tool in ("apt-get", "dpkg") if not shutil.which(tool)]
    if missing:
        raise DebianError(f"this machine has no {' and no '.join(missing)}")
    release = os_release()
    source = archive(machine_sources(), release)
    keyring = KEYRINGS / f"{release.get('ID')}-archive-keyring.gpg"
    signed_by = source.signed_by or (str(keyring) if keyring.is_file() else "")
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
    ).stdout.strip()
    # Not the caller's cache folder: as root, apt downloads as the user `_apt`, who may not be
    # able to enter it.
    with tempfile.TemporaryDirectory(prefix="apt-") as folder:
        state = Path(folder)
        state.chmod(0o755)
        archives = state / "cache" / "archives"
        for needed in (state / "lists" / "partial", archives / "partial"):
            needed.mkdir(parents=True)
        (state / "status").touch()
        (state / "mirror.sources").write_text(
            "Types: deb\n"
            f"URIs: {' '.join(source.uris)}\n"
            f"Suites: {' '.join(suites or [release['VERSION_CODENAME']])}\n"
            f"Components: {' '.join(source.components)}\n"
            f"Architectures: {architecture}\n" + (f"Signed-By: {signed_by}\n" if signed_by else ""),
            encoding="utf-8",
        )
        conf = state / "apt.conf"
        conf.write_text(APT_CONF.format(state=state), encoding="utf-8")
        apt = ["apt-get", "--config-file", str(conf), "--quiet", "--yes"]
        _run([*apt, "update", "--error-on=any"], state)
        if dependencies:
            _run([*apt, "install", "--download-only", "--no-install-recommends", *packages], state)
        else:
            # `download` writes to the folder it stands in, where `_apt` may not write.
            _run([*apt, "--option", "APT::Sandbox::User=root", "download", *packages], archives)
        into.mkdir(parents=True, exist_ok=True)
        for package in sorted(archives.glob("*.deb")):
            _run(["dpkg", "--extract", str(package), str(into.resolve())], state)


def newest_suites() -> Sequence[str]:
    """Return the suites with the newest packages of this machine's distribution.

    Raises
    ------
    DebianError
        Where this is neither Debian nor Ubuntu.
    """
    distribution = os_release().get("ID", "")
    if distribution not in NEWEST:
        raise DebianError(f"this machine runs {distribution or sys.platform}, not Debian or Ubuntu")
    return NEWEST[distribution]
