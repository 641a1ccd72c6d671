"""Every check of the project, each a session; ``nox`` without arguments runs what CI runs.

Sessions install from ``[dependency-groups]`` in pyproject.toml, so that a tool's version stands in one place.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ("3.11", "3.12", "3.13")
ASYNC_RULES_OFF = ("ASYNC103", "ASYNC104", "ASYNC114", "ASYNC124", "ASYNC128", "ASYNC9")
"""What flake8-async cannot see (errors sorted out and raised later, whom a ``task_status`` goes to), and what it has off by default."""
DOCS_OUT = "docs/_build/html"

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.stop_on_first_error = False
nox.options.sessions = ["lint", "types", "docs", *(f"tests-{version}" for version in PYTHONS), "examples"]
# A Python that is missing is skipped; where the environment says CI, nox makes it an error. No override here.

GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")


def interpreter(version: str) -> str:
    """Return where Python *version* is: this very one, one of pyenv's, or its bare name for nox to look up on the PATH.

    pyenv's shims are on the PATH for every version it has, and fail for those that are not selected; its folders do not.
    """
    if sys.version_info[:2] == tuple(int(part) for part in version.split(".")):
        return sys.executable
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    patch = re.compile(re.escape(version) + r"\.(\d+)")
    found = sorted(
        (int(match[1]), python)
        for folder in versions.glob(f"{version}.*")
        if (match := patch.fullmatch(folder.name)) and (python := folder / "bin" / f"python{version}").exists()
    )
    return str(found[-1][1]) if found else version


def install(session: nox.Session, *groups: str, editable: bool = True, project: bool = True) -> None:
    """Install dependency *groups*, and the project with its extra ``cli`` unless told not to."""
    wanted: list[str] = []
    for group in groups:
        wanted += nox.project.dependency_groups(GROUPS, group)
    if project:
        wanted += ["-e", ".[cli]"] if editable else [".[cli]"]
    session.install(*wanted)


def tests(session: nox.Session) -> None:
    """Run the test suite, the files shared out among two processes; arguments after ``--`` go to pytest.

    The oldest Python tries all of hypothesis' examples, the others a third of them: what they could find alone is not in the data.
    """
    install(session, "test")
    profile = "default" if session.name.endswith(PYTHONS[0]) else "quick"
    env = {"HYPOTHESIS_PROFILE": os.environ.get("HYPOTHESIS_PROFILE", profile)}
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "loadfile", *session.posargs, env=env)


for _version in PYTHONS:
    nox.session(name=f"tests-{_version}", python=interpreter(_version), tags=["tests"])(tests)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format, and flake8-async for what Ruff does not know."""
    install(session, "lint", project=False)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = (str(path.relative_to(ROOT)) for folder in ("trio_ticks", "examples") for path in sorted((ROOT / folder).rglob("*.py")))
    session.run("flake8-async", "--enable=ASYNC", f"--disable={','.join(ASYNC_RULES_OFF)}", *sources, log=False)


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, over the package, its tests, the examples and this file."""
    install(session, "types")
    session.run("mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; every warning is an error, and so is a reference that leads nowhere."""
    install(session, "docs")
    session.run("sphinx-build", "-W", "-n", "--keep-going", "-E", "-q", "-b", "html", "docs", DOCS_OUT)
    session.log(f"{DOCS_OUT}/index.html")


@nox.session
def examples(session: nox.Session) -> None:
    """Run the demo and every example as a user would: the built wheel, in a folder that is not the checkout."""
    install(session, editable=False)
    with tempfile.TemporaryDirectory() as elsewhere:
        session.chdir(elsewhere)
        session.run("trio-ticks", "demo", "--duration", "2", "--rate", "20000", "--strategy-ms", "5", "--json")
        for example in sorted((ROOT / "examples").glob("*.py")):
            session.run("python", str(example))


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure; arguments after ``--`` go to the benchmarks."""
    install(session, "test", "bench")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """A minute at ten times what the workers can take: memory stays flat, the law holds in every sample."""
    install(session, "test")
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session(default=False)
def thorough(session: nox.Session) -> None:
    """The tests that make up their own data, with many more examples, other ones at every run; arguments after ``--`` go to pytest."""
    install(session, "test")
    env = {"HYPOTHESIS_PROFILE": "thorough", "TRIO_TICKS_THREAD_RUNS": "400", "TRIO_TICKS_SEEDS": "1000"}
    made_up = re.compile("hypothesis|THREAD_RUNS|seeded_world")
    files = (path for path in sorted((ROOT / "tests").glob("test_*.py")) if made_up.search(path.read_text()))
    which = session.posargs or [str(path.relative_to(ROOT)) for path in files]
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "loadfile", *which, env=env)


@nox.session(default=False)
def kill(session: nox.Session) -> None:
    """Kill a worker process every second, under load: nothing hangs, every tick has its outcome, and work goes on within a second."""
    install(session, "test")
    session.run("python", "-m", "tests.soak_kill", *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Feed the frame parser generated bytes; arguments after ``--`` go to the fuzzer."""
    install(session, "test", "fuzz")
    session.run("python", "-m", "tests.fuzz.fuzz_frames", *session.posargs)
