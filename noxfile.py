"""Every check of the project, each a session.

``nox`` without arguments runs the sessions that CI runs. Sessions install from
``[dependency-groups]`` in pyproject.toml, so that a tool's version stands in one place.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import nox

ROOT = Path(__file__).parent
PYTHONS = ("3.11", "3.12", "3.13")
ASYNC_RULES_OFF = ("ASYNC103", "ASYNC104", "ASYNC114", "ASYNC124", "ASYNC128", "ASYNC9")
"""Rules of flake8-async that are off.

Rules that it cannot check here (it does not see that errors are sorted out and raised
later, or which task a ``task_status`` goes to), and rules that it has off by default.
"""
PROCESSES = "3"
"""How many tests run at once: more than there are cores, since many of them wait."""
EXAMPLES = "tests/house/test_examples.py"
DOCS_OUT = "docs/_build/html"
SAME = (
    "tests/house",
    "tests/history/test_klines.py",
    "tests/channel/test_conformance.py",
    "tests/feeds/test_frames.py",
    "tests/feeds/test_night.py",
    "tests/control/test_scaling.py",
    "tests/observability/test_dashboard_page.py",
    "tests/observability/test_failures_page.py",
    "tests/observability/test_alerts.py",
    "tests/observability/test_autoscaling.py",
    "tests/brokers/test_brokers_page.py",
    "tests/brokers/test_buffers_page.py",
    "tests/brokers/test_kafka_cluster.py",
    "tests/brokers/test_kafka_delivery.py",
    "tests/brokers/test_kafka_errors.py",
    "tests/brokers/test_kafka_groups.py",
    "tests/brokers/test_kafka_state.py",
    "tests/brokers/test_redis_errors.py",
    "tests/brokers/test_redis_large.py",
    "tests/brokers/test_redis_processes.py",
    "tests/brokers/test_redis_retire.py",
    "tests/brokers/test_redis_settings.py",
    "tests/brokers/test_redis_takeover.py",
    "tests/brokers/test_redis_topology.py",
    "tests/brokers/test_redis_trouble.py",
    "tests/brokers/test_results_stores.py",
    "tests/brokers/test_zeromq_crashes.py",
    "tests/brokers/test_zeromq_protocol.py",
    "tests/brokers/test_zeromq_settings.py",
    "tests/cli/test_binance_run.py",
    "tests/cli/test_buffer_commands.py",
    "tests/cli/test_history.py",
    "tests/exchange",
    "tests/simulation/test_events.py",
    "tests/feeds/test_binance_sockets.py",
    "tests/feeds/test_coinbase_sockets.py",
    "tests/feeds/test_recordings_page.py",
    "tests/observability/test_dashboard_halves.py",
    "tests/observability/test_halves.py",
    "tests/observability/test_log_lines.py",
    "tests/brokers/test_broker_chaos.py",
    "tests/cli/test_config_file.py",
    "tests/cli/test_doctor.py",
    "tests/cli/test_pipeline_options.py",
    "tests/cli/test_plan_command.py",
    "tests/feeds/test_columns.py",
    "tests/foresight/test_choosing.py",
    "tests/foresight/test_measuring.py",
    "tests/foresight/test_plan.py",
    "tests/history/test_converting.py",
    "tests/history/test_surveys.py",
    "tests/recordings/test_recorder_crashes.py",
    "tests/brokers/test_check_brokers.py",
    "tests/cli/test_cli.py",
    "tests/cli/test_closed_terminal.py",
    "tests/cli/test_last_resort.py",
    "tests/cli/test_recordings.py",
    "tests/cli/test_replay_command.py",
    "tests/cli/test_troubles_seen.py",
    "tests/pipeline/test_chaos.py",
)
"""Tests whose outcome does not depend on the version of Python.

Texts, syntax trees, pages in a browser, rules of Prometheus, a parser of bytes,
simulations in plain arithmetic, what a server does when its clients die or err, what a
proxy does to connections, what the command line says, and how it ends.
"""

BETWEEN = (
    "tests/cli/test_interrupts.py",
    "tests/pipeline/test_signals.py",
    "tests/workers/test_gaps_in_every_executor.py",
    "tests/workers/test_process_crashes.py",
    "tests/workers/test_process_laws.py",
    "tests/workers/test_process_orphans.py",
    "tests/workers/test_process_replacement.py",
    "tests/workers/test_process_rooms.py",
    "tests/workers/test_seeded_steering.py",
    "tests/workers/test_processes.py",
    "tests/simulation",
    "tests/pipeline/test_notebook.py",
    "tests/pipeline/test_record.py",
    "tests/foresight",
)
"""Tests that a Python between the oldest and the newest leaves out besides.

Starting processes is most of their time. What a Python has changed there shows in the
newest one as well.
"""

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.stop_on_first_error = False
nox.options.sessions = [
    "lint",
    "types",
    "docs",
    *(f"tests-{version}" for version in PYTHONS),
    "examples",
    *(f"release-{version}" for version in PYTHONS),
    "skipped",
]
# nox skips a Python that is missing, but fails if the environment says CI. Do not
# override that here.

GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")


def interpreter(version: str) -> str:
    """Return the path of Python *version*, or its bare name for nox to look up.

    The path is that of the running Python or one of pyenv's. The folders of pyenv are
    read, since its shims are on the PATH for every version that it has, and fail for
    versions that are not selected.
    """
    if sys.version_info[:2] == tuple(int(part) for part in version.split(".")):
        return sys.executable
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    patch = re.compile(re.escape(version) + r"\.(\d+)")
    found = sorted(
        (int(match[1]), python)
        for folder in versions.glob(f"{version}.*")
        if (match := patch.fullmatch(folder.name))
        and (python := folder / "bin" / f"python{version}").exists()
    )
    return str(found[-1][1]) if found else version


def install(
    session: nox.Session,
    *groups: str,
    editable: bool = True,
    project: bool = True,
    extras: str = "cli",
) -> None:
    """Install dependency *groups* and, if *project*, the project with *extras*."""
    wanted: list[str] = []
    for group in groups:
        wanted += nox.project.dependency_groups(GROUPS, group)
    if project:
        wanted += ["-e", f".[{extras}]"] if editable else [f".[{extras}]"]
    session.install(*wanted)


def tests(session: nox.Session) -> None:
    """Run the test suite in ``PROCESSES``; arguments after ``--`` go to pytest.

    Some tests need what a machine may lack, and are skipped there: promtool, a browser,
    or real recordings, whose folder the variable ``TRIO_TICKS_RECORDINGS`` names. The
    oldest Python runs everything but the examples. The others leave out the tests in
    ``SAME`` (and those between it and the newest the ones in ``BETWEEN``) and try a
    third of hypothesis' examples: a fault that only they could show does not depend on
    the data.
    """
    install(session, "test")
    oldest = session.name.endswith(PYTHONS[0])
    profile = "default" if oldest else "quick"
    same = SAME if session.name.endswith(PYTHONS[-1]) else SAME + BETWEEN
    # The session "examples" runs these, with the package as users install it.
    same = (EXAMPLES,) if oldest else (EXAMPLES, *same)
    left_out = [] if session.posargs else [f"--ignore={path}" for path in same]
    env = {"HYPOTHESIS_PROFILE": os.environ.get("HYPOTHESIS_PROFILE", profile)}
    results = session.cache_dir.resolve() / f"{session.name}.xml"
    results.unlink(missing_ok=True)
    RESULTS[session.name] = results
    report = f"--junitxml={results}"
    session.run(
        "python",
        "-m",
        "pytest",
        "-n",
        PROCESSES,
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
        report,
        *left_out,
        *session.posargs,
        env=env,
    )


RESULTS: dict[str, Path] = {}
"""Where pytest reports in XML, by the session."""


@nox.session(venv_backend="none")
def skipped(session: nox.Session) -> None:
    """Say how many tests were skipped in the sessions before, and why.

    What they would check is not checked on this machine.
    """
    for name, results in RESULTS.items():
        if not results.exists():
            session.warn(f"{name}: no results")
            continue
        reasons = Counter(
            test.get("message", "no reason given")
            for test in ElementTree.parse(results).iter("skipped")
            if test.get("type") != "pytest.xfail"
        )
        session.log(f"{name}: {reasons.total()} tests skipped")
        for reason, count in reasons.most_common():
            session.log(f"{name}: {count} skipped: {reason}")


for _version in PYTHONS:
    nox.session(name=f"tests-{_version}", python=interpreter(_version), tags=["tests"])(tests)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format, spelling, and flake8-async for what Ruff leaves."""
    install(session, "lint", project=False)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell", ".")
    # Its rules are about async code alone, and it takes 2 ms a line.
    is_async = re.compile(r"\basync (?:def|for|with)\b|\bimport trio\b")
    sources = [
        str(path.relative_to(ROOT))
        for folder in ("trio_ticks", "examples")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if is_async.search(path.read_text())
    ]
    command = [
        str(Path(session.bin) / "flake8-async"),
        "--enable=ASYNC",
        f"--disable={','.join(ASYNC_RULES_OFF)}",
    ]
    parts = os.cpu_count() or 1
    running = [subprocess.Popen([*command, *sources[part::parts]]) for part in range(parts)]
    codes = [process.wait() for process in running]
    if any(codes):
        session.error("flake8-async found something")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, over the package, its tests, the examples and this file."""
    install(session, "types")
    session.run("mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, and look at the site that it is.

    Warnings and references that lead nowhere are errors, and so is what
    ``docs/check_site.py`` finds: broken links, pages too wide for a phone, questions
    that the search does not answer.
    """
    install(session, "docs")
    session.run(
        "sphinx-build", "-W", "-n", "--keep-going", "-E", "-q", "-b", "html", "docs", DOCS_OUT
    )
    session.run("python", "docs/check_site.py", DOCS_OUT)
    session.log(f"{DOCS_OUT}/index.html")


@nox.session(default=False)
def linkcheck(session: nox.Session) -> None:
    """Ask each link to the Internet whether it is still there; not part of CI."""
    install(session, "docs")
    session.run("sphinx-build", "-q", "-b", "linkcheck", "docs", "docs/_build/linkcheck")


def release(session: nox.Session) -> None:
    """Build wheel and sdist as for a release, install each, and run it.

    Each is installed with what it asks for itself, and runs outside the checkout: a
    file or a dependency that it lacks is missed there. They are the same on each
    Python, so the first session that runs builds them for all.
    """
    if not PACKAGES:
        out = session.cache_dir.resolve() / "release"
        shutil.rmtree(out, ignore_errors=True)
        session.install("build>=1.2", "twine>=6")
        session.run("python", "-m", "build", f"--outdir={out}", str(ROOT), silent=True)
        PACKAGES.extend(sorted(path for path in out.iterdir() if path.suffix in (".whl", ".gz")))
        session.run("twine", "check", "--strict", *map(str, PACKAGES))
    with tempfile.TemporaryDirectory() as folder:
        session.chdir(folder)
        for package in PACKAGES:
            session.install(f"trio_ticks[cli] @ {package.as_uri()}")
            for arguments in (["--version"], ["doctor"], ["demo", "--duration=1", "--view=none"]):
                session.run("trio-ticks", *arguments)
            session.run("python", str(ROOT / "examples" / "quickstart.py"))


PACKAGES: list[Path] = []
"""Wheel and sdist, once they are built."""

for _version in PYTHONS:
    nox.session(name=f"release-{_version}", python=interpreter(_version), tags=["release"])(release)


@nox.session
def examples(session: nox.Session) -> None:
    """Run the demo, the examples and the notebook as a user would.

    The wheel is built and installed, and the folder is not the checkout.
    """
    install(session, "examples", "test", editable=False, extras="cli,zeromq")
    env = {"TRIO_TICKS_TEST_INSTALLED": "1"}
    session.run("python", "-m", "pytest", "-n", PROCESSES, EXAMPLES, env=env)
    with tempfile.TemporaryDirectory() as elsewhere:
        session.chdir(elsewhere)
        session.run(
            "trio-ticks",
            "demo",
            "--duration",
            "2",
            "--rate",
            "20000",
            "--strategy-ms",
            "5",
            "--json",
        )
        for notebook in sorted((ROOT / "examples").glob("*.ipynb")):
            session.run("jupyter-execute", str(notebook))


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure; arguments after ``--`` go to the benchmarks."""
    install(session, "test", "bench")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Run for a minute at ten times what the workers can take.

    Memory stays flat, and the ledger's law holds in every sample. ``-- --minutes 30``
    adds reconnects, symbols that come and go, the page, scrapes and a recorder, writes
    its samples down as it goes, and draws them.
    """
    install(session, "test")
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session(python=PYTHONS[0])
def plan_check(session: nox.Session) -> None:
    """Compare what is predicted with what really happens; not part of CI.

    It takes about 40 minutes, wants a quiet machine, and goes on where it was cut off.
    Arguments go to ``tests/plan_check.py``.
    """
    install(session, "test")
    session.run("python", "-m", "tests.plan_check", *session.posargs)


@nox.session(default=False)
def symbols(session: nox.Session) -> None:
    """Ten million symbols, from a server that was asked for three and from one that was
    asked for all: memory stays flat, the law holds.
    """
    install(session, "test")
    session.run("python", "-m", "tests.soak_symbols", *session.posargs)


@nox.session(default=False)
def thorough(session: nox.Session) -> None:
    """Run the tests that make up their own data with many more examples.

    The examples differ at every run. Arguments after ``--`` go to pytest.
    """
    install(session, "test")
    env = {
        "HYPOTHESIS_PROFILE": "thorough",
        "TRIO_TICKS_THREAD_RUNS": "400",
        "TRIO_TICKS_SEEDS": "1000",
    }
    made_up = re.compile("hypothesis|THREAD_RUNS|seeded_world")
    files = (
        path
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if made_up.search(path.read_text())
    )
    which = session.posargs or [str(path.relative_to(ROOT)) for path in files]
    # The limit of a test in pyproject.toml is for the usual number of examples.
    limit = ("-o", "faulthandler_timeout=7200")
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "loadfile", *limit, *which, env=env)


@nox.session(python=interpreter(PYTHONS[0]), default=False)
def coverage(session: nox.Session) -> None:
    """Run all tests, and write down which lines and branches none of them reaches.

    Worker processes and command lines that tests start count too. It takes two to three
    times as long as the tests alone. Arguments go to pytest.
    """
    install(session, "test")
    report = session.cache_dir.resolve() / "coverage.json"
    session.run("coverage", "erase")
    command = ("coverage", "run", "-m", "pytest", "-n", PROCESSES, "--dist", "loadfile")
    left_out = () if session.posargs else (f"--ignore={EXAMPLES}",)
    session.run(*command, "--no-loadscope-reorder", *left_out, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "json", "-q", "-o", str(report))
    session.run("python", "docs/make_coverage_table.py", str(report))


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Plant bugs into a copy, one at a time: the tests that reach them find each.

    It writes each result down, and goes on where it was cut off; ``-- --anew`` begins
    anew.
    """
    install(session, "test")
    session.run("python", "-m", "tests.mutants", *session.posargs)


@nox.session(default=False)
def simulate(session: nox.Session) -> None:
    """Play thousands of seeds: everything in one process, with faults drawn from each.

    ``-- --seeds 10000 --first 300`` says how many and from where; a seed that fails is
    printed as the line that repeats it, cut down to the faults that are needed.
    """
    install(session, "test")
    session.run("python", "-m", "tests.simulation", *session.posargs)


@nox.session(default=False)
def kill(session: nox.Session) -> None:
    """Kill a worker process every second, under load.

    Nothing hangs, every tick has its outcome, and work goes on within a second.
    """
    install(session, "test")
    session.run("python", "-m", "tests.soak_kill", *session.posargs)


@nox.session(default=False)
def recorder(session: nox.Session) -> None:
    """Kill a recorder under load, 20 times: each kill costs a second at most.

    What is left has no hole, plays, and no restart changes it.
    """
    install(session, "test")
    session.run("python", "-m", "tests.soak_recorder", *session.posargs)


@nox.session(default=False)
def brokers(session: nox.Session) -> None:
    """Kill, stop and restart workers and servers of each broker under load.

    Judged by tick: nothing is lost, nothing skipped. It writes each run down, and goes
    on where it was cut off; ``-- --anew`` begins anew.
    """
    install(session, "test")
    session.run("python", "-m", "tests.soak_brokers", *session.posargs)


@nox.session(default=False)
def broker_memory(session: nox.Session) -> None:
    """Memory of ingests and workers is flat without their broker, and with a full one.

    It takes about an hour, writes as it goes, and goes on where it was cut off.
    """
    install(session, "test")
    session.run("python", "-m", "tests.soak_broker_memory", *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Feed the frame parser generated bytes; further arguments go to the fuzzer."""
    install(session, "test", "fuzz")
    session.run("python", "-m", "tests.fuzz.fuzz_frames", *session.posargs)


@nox.session(default=False)
def fuzz_parsers(session: nox.Session) -> None:
    """Feed every other parser of what comes from outside; a minute for each.

    ``-- --seconds 600 --only codec-flat``: for longer, and one alone. Inputs that led
    to new paths are kept in ``.fuzz``, and are where the next run begins.
    """
    install(session, "test", "fuzz")
    session.run("python", "-m", "tests.fuzz.fuzz_parsers", *session.posargs)


@nox.session(default=False)
def autobahn(session: nox.Session) -> None:
    """Run the Autobahn test suite against the feed's WebSocket client, five times.

    No case fails. It wants a Python 2.7 with pip beside the others; its environment and
    the suite's own reports are kept in nox's cache. ``-- --runs 1 --cases "5.*"``: less
    of it.
    """
    python = shutil.which(interpreter("2.7")) or shutil.which("python2.7")
    if python is None:
        session.skip("Autobahn needs Python 2.7: pyenv install 2.7.18, or python2.7 on the PATH")
    folder = session.cache_dir.resolve() / "autobahn"
    suite = folder / "python2.7" / "bin" / "python"
    # A folder without this file is of an installation that was cut off.
    done = folder / "installed"
    if not done.exists():
        tools = folder / "tools"
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        session.run(python, *pip, f"--target={tools}", "virtualenv<20.22", external=True)
        session.run(
            *(python, "-m", "virtualenv", "--quiet", str(suite.parents[1])),
            env={"PYTHONPATH": str(tools)},
            external=True,
        )
        session.run(str(suite), *pip, "autobahntestsuite==25.10.1", external=True)
        done.touch()
    install(session, "test")
    arguments = [f"--python={suite}", f"--out={folder}", *session.posargs]
    session.run("python", "-m", "tests.autobahn", *arguments)
