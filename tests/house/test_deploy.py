"""The files to run trio_ticks with: they parse, and agree with each other and with us.

No container is started here; what can be checked without one is checked.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.worlds.command_line import run_cli
from trio_ticks.cli import cli
from trio_ticks.handlers.kinds import is_async

ROOT = Path(__file__).parents[2]
OPERATIONS = ROOT / "docs" / "operations"
DEPLOY = OPERATIONS / "deploy"
PAGE = (OPERATIONS / "deploy.md").read_text()
SETTINGS = tomllib.loads((DEPLOY / "ticks.toml").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yml").read_text())
CLUSTER = list(yaml.safe_load_all((DEPLOY / "kubernetes.yml").read_text()))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
GRACE_S = 25
"""``shutdown_timeout`` and 10 seconds more, as the page says."""


def deployments() -> list[dict[str, Any]]:
    return [each for each in CLUSTER if each["kind"] == "Deployment"]


def unit() -> dict[str, list[str]]:
    lines: dict[str, list[str]] = {}
    for line in (DEPLOY / "trio-ticks.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            lines.setdefault(name, []).append(value)
    return lines


@pytest.mark.parametrize("command", ["ingest", "work"])
def test_the_settings_are_ones_that_the_commands_take(command: str, tmp_path: Path) -> None:
    for name in ("ticks.toml", "mine.py"):
        shutil.copy(DEPLOY / name, tmp_path)
    (inside,) = [each for each in CLUSTER if each["kind"] == "ConfigMap"]
    (tmp_path / "cluster.toml").write_text(inside["data"]["ticks.toml"])
    for file in ("ticks.toml", "cluster.toml"):
        done = run_cli(
            *(command, "--config", file, "--dry-run"),
            cwd=tmp_path,
            TRIO_TICKS_BUFFER="redis://localhost?name=ticks",
            # The folder of the file's own is there in the image alone.
            **({"TRIO_TICKS_DEAD_LETTERS": "failed.jsonl"} if command == "work" else {}),
        )
        assert done.returncode == 0, done.stderr
        assert "--bind" in done.stdout


def test_the_strategy_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(DEPLOY), *sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine  # type: ignore[import-not-found]  # found by the line above

    assert is_async(mine.on_tick)
    monkeypatch.delitem(sys.modules, "mine")


def test_every_supervisor_waits_long_enough() -> None:
    assert SETTINGS["shutdown_timeout"] + 10 == GRACE_S
    assert [
        each["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] for each in deployments()
    ] == [GRACE_S] * 2
    for name in ("ingest", "work"):
        assert COMPOSE["services"][name]["stop_grace_period"] == f"{GRACE_S}s"
        assert COMPOSE["services"][name]["stop_signal"] == "SIGTERM"
    assert unit()["TimeoutStopSec"] == [str(GRACE_S)]
    assert unit()["KillMode"] == ["mixed"]
    assert f"{GRACE_S} s for {SETTINGS['shutdown_timeout']} s" in PAGE


def test_probes_ask_what_is_served_where_it_can_be_reached() -> None:
    assert SETTINGS["bind"] == "0.0.0.0"
    for each in deployments():
        (container,) = each["spec"]["template"]["spec"]["containers"]
        assert container["ports"] == [
            {"name": "metrics", "containerPort": SETTINGS["metrics_port"]}
        ]
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert container["args"][0] in cli.commands
        # A limit of CPU stops the event loop.
        assert "cpu" not in container["resources"]["limits"]
    assert f"127.0.0.1:{SETTINGS['metrics_port']}/healthz" in DOCKERFILE


def test_there_is_one_ingest_and_works_are_scaled_by_the_name_that_is_there() -> None:
    ingest, work = deployments()
    assert (ingest["spec"]["replicas"], ingest["spec"]["strategy"]["type"]) == (1, "Recreate")
    assert work["spec"]["replicas"] > 1
    for file in ("hpa.yml", "keda.yml"):
        target = yaml.safe_load((OPERATIONS / file).read_text())["spec"]["scaleTargetRef"]
        assert target["name"] == work["metadata"]["name"]


def test_files_that_are_named_are_there() -> None:
    for path in re.findall(r"<(deploy/[^>]+)>", PAGE):
        assert (OPERATIONS / path).is_file(), path
    for copied in re.findall(r"^COPY (docs\S+) (docs\S+)", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / path).is_file() for path in copied)
    assert (DEPLOY / COMPOSE["services"]["ingest"]["build"]["context"]).resolve() == ROOT
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / source).is_file(), source


def test_prometheus_and_grafana_get_the_rules_and_the_dashboard() -> None:
    rules = {volume.partition(":")[0] for volume in COMPOSE["services"]["prometheus"]["volumes"]}
    assert {"../recording.yml", "../alerts.yml"} <= rules
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert scraped["rule_files"] == ["recording.yml", "alerts.yml"]
    for job in scraped["scrape_configs"]:
        (discovery,) = job["dns_sd_configs"]
        assert set(discovery["names"]) <= set(COMPOSE["services"])
        assert discovery["port"] == SETTINGS["metrics_port"]
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasources.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((DEPLOY / "grafana" / "dashboards.yml").read_text())["providers"]
    mounted = [
        volume for volume in COMPOSE["services"]["grafana"]["volumes"] if "dashboard.json" in volume
    ]
    assert provider["options"]["path"] in mounted[0]
    assert "recording" in json.dumps(
        json.loads((OPERATIONS / "dashboard.json").read_text())["panels"][-1]
    )


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    for path in (
        DEPLOY / "prometheus.yml",
        OPERATIONS / "alerts.yml",
        OPERATIONS / "recording.yml",
    ):
        shutil.copy(path, tmp_path)
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "trio-ticks.service").read_text()
    path = tmp_path / "trio-ticks.service"
    # It looks whether the program is there.
    path.write_text(text.replace("/opt/trio-ticks/bin/trio-ticks", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [
        line for line in (done.stdout + done.stderr).splitlines() if "trio-ticks.service" in line
    ]
    assert ours == []


def test_the_unit_does_not_restart_after_a_bad_setting() -> None:
    code = unit()["RestartPreventExitStatus"][0]
    done = run_cli("run", "--workers", "0")
    assert done.returncode == int(code)
