"""Check each file of deploy/ with the tool that reads it."""

import asyncio
import contextlib
import http.client
import itertools
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import yaml
from django.contrib.auth.models import User
from websockets.asyncio.client import connect
from websockets.typing import Origin

from connections.config.loader import WebSocketConfig
from connections.testing import Servers, free_port, wait_until
from connections.testing.waiting import scale
from connections.workers.parent import MARGIN_SECONDS
from tests.integration.browser import PASSWORD
from tests.integration.echo import assert_alive, read_rows
from tests.integration.nginx import SITE, Nginx, open_to_workers
from tests.integration.services import find_program
from tests.integration.shipped import read_environment
from tests.project import ROOT

DEPLOY = ROOT / "deploy"
SCRIPTS = str(Path(sys.executable).parent)
OWN_THREADS = 60
"""Threads of a node beside those of its HTTP requests: 14 were measured."""
END_SECONDS = 5
"""The time the parent has to end after it has killed a worker that hangs."""


def run(*command: str | Path, **options: Any) -> str:
    """Run a tool; return its output, and fail on a non-zero exit code."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=scale(30), **options
    )
    output: str = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def stop_seconds() -> float:
    """Return how long a stop may take where a worker hangs."""
    config = WebSocketConfig()
    drain_seconds = config.drain.delay_seconds + config.drain.grace_seconds
    worker_seconds = config.handshake.timeout_seconds + drain_seconds + MARGIN_SECONDS
    return worker_seconds + END_SECONDS


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, adapted to an /opt/orchestra that exists."""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to("/bin/true")
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text().replace("/opt/orchestra", str(tmp_path))
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def test_systemd_takes_the_units(units: Path) -> None:
    program = find_program("systemd-analyze")
    names = ("orchestra@8001.service", "orchestra-sweeper.service", "orchestra.target")
    # The trailing colon adds the default search paths.
    environment = {"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin"}
    output = run(program, "verify", "--man=no", *names, env=environment)
    assert output == ""


@pytest.mark.parametrize("name", ["orchestra@.service", "orchestra-sweeper.service"])
def test_the_units_are_hardened(name: str) -> None:
    """systemd's exposure score: 0 is fully confined, 10 is unconfined."""
    program = find_program("systemd-analyze")
    unit = DEPLOY / "systemd" / name
    run(program, "security", "--offline=true", "--threshold=20", unit)


def test_systemd_waits_for_a_worker_that_does_not_drain() -> None:
    lines = (DEPLOY / "systemd" / "orchestra@.service").read_text().splitlines()
    (stop,) = (line for line in lines if line.startswith("TimeoutStopSec="))
    assert int(stop.partition("=")[2]) >= stop_seconds()


async def test_the_unit_has_room_for_the_threads_of_a_node(servers: Servers) -> None:
    """Ninety sign-ins at once used to need more threads than the unit allowed."""
    unit = (DEPLOY / "systemd" / "orchestra@.service").read_text()
    (most,) = re.findall(r"^TasksMax=(\d+)$", unit, re.MULTILINE)
    config = WebSocketConfig()
    assert int(most) >= 2 * config.http.max_requests + OWN_THREADS

    bound = 6
    server = servers.start(config={"http__max_requests": bound})
    create: Any = User.objects.create_user
    server.run(create, "alice", password=PASSWORD)
    with ThreadPoolExecutor(90) as threads:
        signing_in = [threads.submit(sign_in, server.port) for _ in range(90)]
        counts = set()
        while not all(one.done() for one in signing_in):
            counts.add(count_threads(server.pid))
            await asyncio.sleep(0.01)
    statuses = {one.result() for one in signing_in}
    assert {302, 503} <= statuses <= {302, 429, 503}
    assert bound < max(counts) <= 2 * bound + OWN_THREADS


def sign_in(port: int) -> int:
    """Sign in with a form; return the status."""
    token = "a" * 32
    form = {"username": "alice", "password": PASSWORD, "csrfmiddlewaretoken": token}
    headers = {
        "Cookie": f"csrftoken={token}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=scale(60))
    with contextlib.closing(connection):
        connection.request("POST", "/sign-in/", urlencode(form), headers)
        return connection.getresponse().status


def count_threads(pid: int) -> int:
    """Return the threads of a process (proc(5), Threads)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (count,) = re.findall(r"^Threads:\s+(\d+)$", status, re.MULTILINE)
    return int(count)


def test_the_compose_file_is_valid() -> None:
    program = find_program("check-jsonschema", SCRIPTS)
    run(program, "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_compose_waits_for_a_worker_that_does_not_drain() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name in ("server-1", "server-2"):
        grace = services[name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) >= stop_seconds()


def find_variables(text: str) -> dict[str, str]:
    """Return the variables of a compose file with `:?`, `:-` or nothing."""
    return dict(re.findall(r"\$\{(\w+)(:[?-])?", text))


def test_compose_migrates_and_creates_the_first_admin() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert services["migrate"]["command"] == ["migrate"]
    admin = services["admin"]
    assert admin["command"] == ["create_first_admin"]
    assert admin["depends_on"]["migrate"] == {
        "condition": "service_completed_successfully"
    }
    node = services["server-1"]["environment"]
    assert {*node} < {*admin["environment"]}
    assert {"EMAIL_HOST", "SERVER_EMAIL", "WEBSOCKET__ALERT_RECIPIENTS"} < {*node}
    assert "DJANGO_SUPERUSER_PASSWORD" in read_environment()


def test_compose_migrates_before_a_deploy() -> None:
    """A node that starts alone (--no-deps) does not start the service `migrate`."""
    header = (DEPLOY / "compose.yaml").read_text().partition("name:")[0]
    build, migrate, replace = (
        header.index(command)
        for command in (".yaml build", "run --rm migrate", "--no-deps server-1")
    )
    assert build < migrate < replace


def test_units_start_after_a_reboot() -> None:
    """Enabling a unit enables the target that wants it."""
    for name in ("orchestra@.service", "orchestra-sweeper.service"):
        unit = (DEPLOY / "systemd" / name).read_text()
        assert unit.endswith("Also=orchestra.target\n")


def test_compose_has_no_secret_by_default() -> None:
    variables = find_variables((DEPLOY / "compose.yaml").read_text())
    secret = re.compile("PASSWORD|TOKEN|SECRET")
    operators = {name: one for name, one in variables.items() if secret.search(name)}
    assert operators.pop("EMAIL_HOST_PASSWORD") == ":-"  # Empty without a login.
    assert set(operators.values()) == {":?"}, operators
    example = read_environment()
    required = {name for name, operator in variables.items() if operator == ":?"}
    assert required <= set(example)
    assert required >= {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "GRAFANA_PASSWORD"}


def test_a_variable_of_the_example_has_a_reader() -> None:
    settings = (ROOT / "orchestra" / "settings.py").read_text()
    compose = find_variables((DEPLOY / "compose.yaml").read_text())
    lines = (DEPLOY / "environment.example").read_text().splitlines()
    names = re.findall(r"^#?([A-Z_]+)=", "\n".join(lines), re.MULTILINE)
    assert len(names) == len(set(names)) > 10
    unread = [
        name
        for name in names
        if not name.startswith("WEBSOCKET__")
        and f'"{name}"' not in settings
        and name not in compose
    ]
    assert unread == []


def test_stores_need_a_password_and_are_out_of_reach_of_the_pages_for_operators() -> (
    None
):
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert "--requirepass" in services["redis"]["command"]
    assert "${REDIS_PASSWORD" in services["server-1"]["environment"]["REDIS_URL"]
    networks = {name: set(one["networks"]) for name, one in services.items()}
    for store in ("postgres", "redis"):
        assert networks[store] <= networks["server-1"]
        assert not networks[store] & (networks["grafana"] | networks["prometheus"])
        assert "ports" not in services[store]


def test_mounts_of_the_compose_file_exist() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    mounts = itertools.chain(*(one.get("volumes", ()) for one in services.values()))
    sources = {mount.split(":")[0] for mount in mounts if mount.startswith(".")}
    assert sources
    assert all((DEPLOY / source).is_dir() for source in sources)


def test_files_copied_into_the_image_exist() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [
        source
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    needed = {"connections", "sessions_history", "orchestra", "manage.py"}
    assert {*needed, "requirements/serve.txt"} <= {*copied}
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize("name", ["orchestra.yaml", "autoscaling-hpa.yaml"])
def test_kubernetes_takes_the_manifest(name: str) -> None:
    program = find_program("kubernetes-validate", SCRIPTS)
    run(program, "--strict", DEPLOY / "kubernetes" / name)


def read_kubernetes(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()))


def test_autoscaling_drains_one_node_after_the_other() -> None:
    """KEDA has no schema here; its file says the same as the HPA."""
    (hpa,) = read_kubernetes("autoscaling-hpa.yaml")
    (keda,) = read_kubernetes("autoscaling-keda.yaml")
    documents = read_kubernetes("orchestra.yaml")
    deployments = {
        one["metadata"]["name"]: one["spec"]
        for one in documents
        if one["kind"] == "Deployment"
    }
    own, other = hpa["spec"], keda["spec"]
    assert own["scaleTargetRef"] == other["scaleTargetRef"]
    nodes = deployments[own["scaleTargetRef"]["name"]]
    pod = nodes["template"]["spec"]
    behavior = own["behavior"]
    config = other["advanced"]["horizontalPodAutoscalerConfig"]
    assert config["behavior"] == behavior
    (policy,) = behavior["scaleDown"]["policies"]
    assert (policy["type"], policy["value"]) == ("Pods", 1)
    assert policy["periodSeconds"] > pod["terminationGracePeriodSeconds"]
    fewest, most = own["minReplicas"], own["maxReplicas"]
    assert (fewest, most) == (other["minReplicaCount"], other["maxReplicaCount"])
    (trigger,) = other["triggers"]
    (metric,) = own["metrics"]
    name = metric["external"]["metric"]["name"]
    assert trigger["metadata"]["query"] == f"max({name})"
    per_node = metric["external"]["target"]["averageValue"]
    assert trigger["metadata"]["threshold"] == per_node
    (limits,) = (one["data"] for one in documents if one["kind"] == "ConfigMap")
    total = int(limits["WEBSOCKET__MAX_TOTAL_CONNECTIONS"])
    assert int(per_node) * most == total
    assert f'"{name}"' in (ROOT / "connections" / "views" / "series.py").read_text()


def read_pod() -> Any:
    """Return the pod of a node in Kubernetes."""
    nodes = next(
        one
        for one in read_kubernetes("orchestra.yaml")
        if one["kind"] == "Deployment" and one["metadata"]["name"] == "orchestra"
    )
    return nodes["spec"]["template"]["spec"]


def test_kubernetes_waits_for_a_worker_that_hangs() -> None:
    """/readyz waits a second for its report; the default of a probe is a second too."""
    (container,) = read_pod()["containers"]
    for name in ("readinessProbe", "livenessProbe", "startupProbe"):
        assert container[name]["timeoutSeconds"] >= 5


def test_kubernetes_waits_for_a_worker_that_does_not_drain() -> None:
    pod = read_pod()
    (container,) = pod["containers"]
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + stop_seconds()
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_prometheus_finds_the_pods_and_sends_the_token() -> None:
    """Annotations of a pod name no credential: their scrape would get 401."""
    text = (DEPLOY / "kubernetes" / "orchestra.yaml").read_text()
    assert "prometheus.io" not in text
    documents = list(yaml.safe_load_all(text))
    services = {
        one["metadata"]["name"]: one["spec"]
        for one in documents
        if one["kind"] == "Service"
    }
    (scrape,) = yaml.safe_load((DEPLOY / "prometheus" / "kubernetes.yml").read_text())[
        "scrape_configs"
    ]
    (source,) = scrape["dns_sd_configs"]
    service = services[source["names"][0]]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"]
    assert {port["port"] for port in service["ports"]} == {source["port"]}
    assert Path(scrape["authorization"]["credentials_file"]).name == "METRICS_TOKEN"


@pytest.mark.parametrize("name", ["prometheus.yml", "kubernetes.yml"])
def test_prometheus_takes_its_configuration(name: str) -> None:
    program = find_program("promtool")
    path = DEPLOY / "prometheus" / name
    run(program, "check", "config", "--syntax-only", path)


def test_nginx_gives_up_on_no_node_and_asks_another_after_503_alone() -> None:
    site = SITE.read_text()
    servers = re.findall(r"^ *server (127\S+) (.*);$", site, re.MULTILINE)
    assert [options for _, options in servers] == ["max_fails=0"] * 2
    (reasons,) = re.findall(r"^ *proxy_next_upstream (.*);$", site, re.MULTILINE)
    assert reasons.split() == ["error", "timeout", "http_503"]
    assert "Strict-Transport-Security" not in site


@pytest.fixture
def nginx_folder(tmp_path: Path) -> Iterator[Path]:
    with open_to_workers(tmp_path / "nginx") as folder:
        yield folder


async def test_nginx_carries_connections_to_a_node_that_serves(
    servers: Servers, nginx_folder: Path, certificate: tuple[Path, Path]
) -> None:
    """One node is down: nginx asks the other, which learns the client's address."""
    server = servers.start(
        config={"trusted_proxies": "[127.0.0.1/32]", "node__beat_seconds": 0.1},
        environment={"ALLOWED_HOSTS": "127.0.0.1"},
    )
    token = server.create_token()
    nginx = Nginx(nginx_folder, certificate, (free_port(), server.port))
    nginx.check()
    nginx.start()
    context = ssl.create_default_context(cafile=str(certificate[0]))
    secret = "a-ticket-that-no-log-may-hold"
    try:
        await wait_until(lambda: answers(nginx.port, context, "/livez") == 404)
        for _ in range(3):
            async with connect(
                f"wss://127.0.0.1:{nginx.port}/ws/echo/?seen={secret}",
                ssl=context,
                origin=Origin(f"https://127.0.0.1:{nginx.port}"),
                additional_headers={"Authorization": f"Bearer {token}"},
                local_addr=("127.0.0.9", 0),
                open_timeout=scale(20),
            ) as connection:
                await assert_alive(connection)
        assert answers(nginx.port, context, "/metrics") == 404
        assert answers(nginx.port, context, "/admin/login/") == 200
        async with httpx.AsyncClient(
            http2=True, verify=context, timeout=scale(20)
        ) as http:
            page = await http.get(f"https://127.0.0.1:{nginx.port}/admin/login/")
        assert (page.status_code, page.http_version) == (200, "HTTP/2")
    finally:
        nginx.stop()
    await wait_until(
        lambda: (
            read_rows(server, "select address from connections_connection")
            == [("127.0.0.9",)] * 3
        )
    )
    log = nginx.log.read_text()
    assert log.count("GET /ws/echo/") == 3
    assert secret not in log


def answers(port: int, context: ssl.SSLContext, path: str) -> int:
    """Return the HTTP status of a path, or 0 without an answer."""
    try:
        url = f"https://127.0.0.1:{port}{path}"
        with urllib.request.urlopen(url, timeout=scale(5), context=context) as response:
            return int(response.status)
    except urllib.error.HTTPError as exc:
        exc.close()
        return exc.code
    except OSError:
        return 0
