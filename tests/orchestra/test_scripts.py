"""The two commands, on a machine as bare as a test can make it."""

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from connections.testing import free_port
from connections.testing.waiting import scale
from tests.plugins.selection import LIVE_FOLDERS

pytestmark = pytest.mark.source

ROOT = Path(__file__).resolve().parents[2]

PROGRAMS = (
    "bash",
    "cat",
    "cp",
    "dirname",
    "env",
    "id",
    "mkdir",
    "rm",
    "sed",
    "sh",
    "timeout",
    "tr",
)

PYTHON = f"""#!/bin/sh
# Python as the scripts see it: what installs is written down, not done.
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo venv >> "$CALLS" ;;
"- 127.0.0.1") ;;  # As if no other server on this machine had the port.
"-m pip") case "$3" in install) echo "pip $*" >> "$CALLS" ;; esac ;;
*) exec {sys.executable} "$@" ;;
esac
"""

MANAGE = """
import os, pathlib, socket, sys
with open(os.environ["CALLS"], "a") as calls:
    print("manage", *sys.argv[1:], file=calls)
if sys.argv[1] == "serve" and "LISTENS" in os.environ:
    address = (os.environ["HOST"], int(os.environ["PORT"]))
    with socket.create_server(address) as server:
        server.accept()
if sys.argv[1] == "prepare_development":
    folder = pathlib.Path(os.environ.get("ORCHESTRA_VAR", "var"))
    folder.mkdir(exist_ok=True)
    (folder / "development_token").write_text("the-token\\n")
    (folder / "development_password").write_text("the-password\\n")
"""

RECORD = '#!/bin/sh\necho "$(basename "$0") $*" >> "$CALLS"\n'


def write_program(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Machine:
    """A checkout, and a PATH with little more than a shell and Python on it."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        self.programs = folder / "bin"
        self._calls = folder / "calls"
        self._elsewhere = folder / "elsewhere"
        for one in (self.checkout, self.programs, self._elsewhere):
            one.mkdir()
        shutil.copytree(ROOT / "script", self.checkout / "script")
        # What it builds is tested by building it.
        write_program(self.checkout / "script" / "docs", "#!/bin/sh\n")
        (self.checkout / "requirements.txt").write_text("django\n")
        (self.checkout / "requirements").mkdir()
        for name in (
            "demo",
            "serve",
            "tests",
            "checks",
            "docs",
            "django60",
            "django61",
        ):
            (self.checkout / "requirements" / f"{name}.txt").write_text("pytest\n")
        (self.checkout / "manage.py").write_text(MANAGE)
        for name in (*PROGRAMS, "basename"):
            found = shutil.which(name)
            assert found, name
            (self.programs / name).symlink_to(found)
        for name in ("codespell", "deptry", "mypy", "pip-audit", "ruff"):
            write_program(self.programs / name, RECORD)
        write_program(self.programs / "python3", PYTHON)
        # `python -m pytest` finds what lies in the folder it is run in.
        (self.checkout / "pytest.py").write_text(
            "import os, sys\n"
            "with open(os.environ['CALLS'], 'a') as calls:\n"
            "    print('pytest', *sys.argv[1:], file=calls)\n"
        )

    def run(
        self, script: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script from another folder than the checkout."""
        return subprocess.run(
            [self.checkout / "script" / script, *arguments],
            cwd=self._elsewhere,
            env={
                "PATH": str(self.programs),
                "CALLS": str(self._calls),
                "HOME": str(self._elsewhere),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=scale(30),
        )

    def calls(self) -> list[str]:
        """Return what was called since the last time this was asked."""
        found = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return found

    def tests(self) -> list[str]:
        """Return the runs of pytest that were called, each as `name: options`."""
        start = f"pytest -q --failures-to {self.checkout}/var/tests/failures/"
        return [
            call.removeprefix(start).replace(".json", ":", 1)
            for call in self.calls()
            if call.startswith(start)
        ]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


INSTALLED = (
    "pip -m pip install --disable-pip-version-check --no-deps --no-compile"
    " --progress-bar off -r requirements/demo.txt"
)


def test_server_sets_everything_up_and_serves(machine: Machine) -> None:
    done = machine.run("server", "--no-sweeper")
    assert done.returncode == 0, done.stderr
    assert machine.calls() == [
        "venv",
        INSTALLED,
        "manage migrate --verbosity 0",
        "manage prepare_development",
        "manage serve --host 127.0.0.1 --port 8000 --no-sweeper",
    ]


def test_server_prints_how_to_connect_once_it_listens(machine: Machine) -> None:
    # On an address on which no other process of this machine listens.
    place = {"HOST": "127.0.0.3", "PORT": str(free_port())}
    done = machine.run("server", LISTENS="1", **place)
    url = f"ws://127.0.0.3:{place['PORT']}/ws/echo/"
    assert f"{url} --token the-token" in done.stderr
    assert "user admin, password the-password" in done.stderr
    assert "the-token" not in machine.run("server", **place).stderr


def test_a_model_answers_where_there_is_one_else_the_agents(machine: Machine) -> None:
    manage = MANAGE + "    print(os.environ['SESSIONS_RESPONDER'])\n"
    (machine.checkout / "manage.py").write_text(manage)
    model = "http://127.0.0.1:11434/v1"
    for environment, responder in (
        ({}, "orchestra.agents.AgentsResponder"),
        ({"COMPLETIONS_BASE_URL": model}, "orchestra.responders.CompletionsResponder"),
        ({"SESSIONS_RESPONDER": "mine.Own", "COMPLETIONS_BASE_URL": model}, "mine.Own"),
    ):
        assert responder in machine.run("server", **environment).stdout.splitlines()


def test_each_package_is_printed_and_no_warning(machine: Machine) -> None:
    lines = (
        "WARNING: Location '/wheels' is ignored",
        "Collecting django==5.2 (from -r requirements/demo.txt (line 1))",
        "  Downloading django-5.2-py3-none-any.whl (8.3 MB)",
        "Processing /wheels/attrs-26.1.0-py3-none-any.whl (from -r demo.txt (line 2))",
    )
    printing = "".join(f' echo "{line}";' for line in lines)
    installer = PYTHON.replace("install) echo", f"install){printing} echo")
    write_program(machine.programs / "python3", installer)
    done = machine.run("server")
    printed = done.stderr.partition("requirements/demo.txt\n")[2].splitlines()
    assert printed[:3] == [
        "    django==5.2",
        "    attrs-26.1.0-py3-none-any.whl",
        "==> Migrating the database",
    ]


def test_the_second_run_installs_nothing(machine: Machine) -> None:
    machine.run("server")
    machine.calls()
    assert machine.run("server", PORT="9000").returncode == 0
    assert machine.calls() == [
        "manage migrate --verbosity 0",
        "manage prepare_development",
        "manage serve --host 127.0.0.1 --port 9000",
    ]


def test_changed_requirements_are_installed(machine: Machine) -> None:
    machine.run("server")
    machine.calls()
    (machine.checkout / "requirements" / "demo.txt").write_text("django\nchannels\n")
    machine.run("server")
    assert machine.calls()[0] == INSTALLED


def test_nothing_is_said_of_a_port_that_is_taken(machine: Machine) -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        port = str(other.getsockname()[1])
        done = machine.run("server", HOST="127.0.0.2", PORT=port)
    assert done.returncode == 1
    assert f"127.0.0.2:{port} is taken; take another: PORT=8001" in done.stderr
    assert "token" not in done.stderr
    assert machine.calls() == ["venv", INSTALLED]
    assert machine.run("server", HOST="127.0.0.2", PORT=port).returncode == 0


def test_nobody_is_made_outside_development(machine: Machine) -> None:
    done = machine.run("server", DEBUG="false")
    assert done.returncode == 0
    assert "manage prepare_development" not in machine.calls()
    assert "token" not in done.stderr


@pytest.mark.parametrize("script", ["server", "test", "cells"])
def test_help_helps_and_does_nothing(machine: Machine, script: str) -> None:
    done = machine.run(script, "--help")
    assert (done.returncode, machine.calls()) == (0, [])
    assert f"script/{script}" in done.stdout
    assert not (machine.checkout / ".venv").exists()


@pytest.mark.parametrize("script", ["server", "test"])
def test_without_a_new_python_it_says_so(machine: Machine, script: str) -> None:
    write_program(machine.programs / "python3", "#!/bin/sh\nexit 1\n")
    done = machine.run(script)
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr
    assert machine.calls() == []


def test_a_half_made_environment_is_not_taken_for_one(machine: Machine) -> None:
    """Debian's python3 without python3-venv leaves one that has no pip."""
    failing = PYTHON.replace("&& echo venv", "&& exit 1; echo venv")
    write_program(machine.programs / "python3", failing)
    done = machine.run("server")
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr
    assert not (machine.checkout / ".venv").exists()
    write_program(machine.programs / "python3", PYTHON)
    assert machine.run("server").returncode == 0


def test_a_failed_installation_is_tried_again(machine: Machine) -> None:
    failing = PYTHON.replace('>> "$CALLS" ;; esac', '>> "$CALLS"; exit 1 ;; esac')
    write_program(machine.programs / "python3", failing)
    done = machine.run("server")
    assert done.returncode == 1
    assert "could not be installed" in done.stderr
    machine.calls()
    write_program(machine.checkout / ".venv" / "bin" / "python", PYTHON)
    assert machine.run("server").returncode == 0
    assert machine.calls()[0] == INSTALLED


@pytest.mark.parametrize("order", [("--quick", "-x"), ("-x", "--quick")])
def test_quick_leaves_out_services_and_real_processes(
    machine: Machine, order: tuple[str, ...]
) -> None:
    done = machine.run("test", *order)
    assert done.returncode == 0, done.stderr
    (call,) = machine.tests()
    assert call.startswith("quick: -n 4 --dist loadfile --no-loadscope-reorder")
    assert call.endswith("-m quick -x")
    ignored = re.findall(r"--ignore=tests/(\w+)", call)
    assert sorted(ignored) == sorted(LIVE_FOLDERS)
    assert "install:" not in done.stderr


@pytest.mark.parametrize(
    ("report", "code", "expected"),
    [
        ("No known vulnerabilities found", 0, "no known vulnerability"),
        ("django 5.2: could not be audited", 0, "NOT RUN"),
        ("connection refused", 1, "NOT RUN, connection refused"),
        ("Found 1 known vulnerability", 1, "error: Found 1 known vulnerability"),
    ],
)
def test_all_looks_for_known_vulnerabilities(
    machine: Machine, report: str, code: int, expected: str
) -> None:
    source = f"#!/bin/sh\necho '{report}'\nexit {code}\n"
    write_program(machine.programs / "pip-audit", source)
    done = machine.run("test", "--all")
    assert expected in done.stderr
    assert bool(done.returncode) is expected.startswith("error")


def test_all_checks_come_before_the_tests(machine: Machine) -> None:
    machine.run("test", "--quick")
    calls = machine.calls()
    assert calls[calls.index("ruff check .") : -1] == [
        "ruff check .",
        "ruff format --check --quiet .",
        "mypy connections sessions_history orchestra tests benchmarks",
        "codespell ",
        "deptry .",
        "manage check",
        "manage makemigrations --check --dry-run",
    ]


def test_a_failed_check_is_a_failed_run(machine: Machine) -> None:
    write_program(machine.programs / "mypy", "#!/bin/sh\nexit 2\n")
    assert machine.run("test", "--quick").returncode == 2
    assert not any(call.startswith("pytest") for call in machine.calls())


@pytest.mark.parametrize(
    ("environment", "consequence"),
    [({}, "are skipped"), ({"CI": "true"}, "fail, for this is CI")],
    ids=["home", "CI"],
)
def test_what_may_not_be_installed_is_named(
    machine: Machine, environment: dict[str, str], consequence: str
) -> None:
    """Without apt-get nothing can be installed, whoever asks."""
    done = machine.run("test", **environment)
    assert done.returncode == 0, done.stderr
    (line,) = [one for one in done.stderr.splitlines() if "May not install" in one]
    assert "redis-server" in line
    assert consequence in line
    assert [call.partition(":")[0] for call in machine.tests()] == [
        "quick",
        "live",
        "alone",
    ]


def test_packages_that_cannot_be_fetched_end_nothing(machine: Machine) -> None:
    write_program(machine.programs / "apt-get", "#!/bin/sh\nexit 100\n")
    write_program(machine.programs / "sudo", '#!/bin/sh\nshift\nexec "$@"\n')
    done = machine.run("test")
    assert done.returncode == 0, done.stderr
    assert "Could not install: redis-server" in done.stderr


def test_ci_calls_the_same_script() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == "exec script/test --all"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_all_runs_every_test_but_the_long_ones(machine: Machine) -> None:
    machine.run("test", "--all")
    quick, live, alone = machine.tests()
    assert "-m not live and not long" in quick and "--cov" in quick
    assert live.endswith("-m live and not long and not alone")
    assert alone == "alone: -m live and alone and not long"


FAILING = """
import pathlib, sys
if "--failures-to" in sys.argv:
    path = pathlib.Path(sys.argv[sys.argv.index("--failures-to") + 1])
    path.write_text("[]")
    sys.exit(CODE)
"""


@pytest.mark.parametrize(
    ("code", "environment", "expected"),
    [(1, {}, 1), (1, {"CI": "true"}, 0), (6, {"CI": "true"}, 1), (5, {}, 0)],
    ids=["home", "unstable in CI", "over budget", "nothing selected"],
)
def test_only_ci_runs_a_failed_live_test_again(
    machine: Machine, code: int, environment: dict[str, str], expected: int
) -> None:
    (machine.checkout / "pytest.py").write_text(FAILING.replace("CODE", str(code)))
    (machine.checkout / "tests" / "plugins").mkdir(parents=True)
    again = "import sys; print('again', len(sys.argv) - 1)\n"
    (machine.checkout / "tests" / "plugins" / "unstable.py").write_text(again)
    done = machine.run("test", "--all", **environment)
    assert done.returncode == expected, done.stderr
    assert ("again 3" in done.stdout) is (code == 1 and bool(environment))


def test_ci_runs_the_failed_tests_of_a_cell_again(machine: Machine) -> None:
    write_program(machine.programs / "python3.13", PYTHON)
    fails = "1 if 'cells' in os.environ['ORCHESTRA_VAR'] else 0"
    failing = FAILING.replace("import ", "import os, ").replace("CODE", fails)
    (machine.checkout / "pytest.py").write_text(failing)
    (machine.checkout / "tests" / "plugins").mkdir(parents=True)
    again = "import sys; print(*sys.argv[1:])\n"
    (machine.checkout / "tests" / "plugins" / "unstable.py").write_text(again)
    done = machine.run("test", "--all", CI="true")
    assert done.returncode == 0, done.stderr
    for cell in ("django60", "django61"):
        assert f"var/cells/{cell}/failures.json" in done.stdout


def test_cells_without_a_python_are_named(machine: Machine) -> None:
    done = machine.run("cells", "--quick")
    assert done.returncode == 0, done.stderr
    assert "NOT RUN" in done.stderr
    assert "django60 django61" in done.stderr
    assert machine.run("cells", "--quick", CELLS_REQUIRED="true").returncode == 2


def test_each_cell_runs_the_quick_tests_on_its_own_pins(machine: Machine) -> None:
    write_program(machine.programs / "python3.13", PYTHON)
    done = machine.run("cells", "--quick", "-x")
    assert done.returncode == 0, done.stderr
    calls = machine.calls()
    assert calls.count("venv") == 2
    runs = [call for call in calls if call.startswith("pytest")]
    # The newest Django has all of them.
    older, newest = runs
    assert older.endswith("-m quick and not source and not without_django -x")
    assert newest.endswith("-m quick and not source -x")
    for cell in ("django60", "django61"):
        assert any(call.endswith(f"-r requirements/{cell}.txt") for call in calls)


@pytest.mark.parametrize(("ended", "expected"), [(1, 1), (6, 2)])
def test_a_failed_cell_fails_the_run_and_the_next_cell_runs(
    machine: Machine, ended: int, expected: int
) -> None:
    """Its code tells failed tests, which CI may run again, from everything else."""
    write_program(machine.programs / "python3.13", PYTHON)
    source = machine.checkout / "pytest.py"
    fails = f"sys.exit({ended} * ('django60' in os.environ['ORCHESTRA_VAR']))\n"
    source.write_text(source.read_text() + fails)
    assert machine.run("cells", "--quick").returncode == expected
    runs = [call for call in machine.calls() if call.startswith("pytest")]
    assert len(runs) == 2
