"""The tests on every Python that is supported, and once with the lowest versions allowed.

`make pythons` and `make lowest` call it. What follows `--` goes to pytest.
"""

import nox

nox.needs_version = ">=2025.5.1"

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
LOWEST = PYTHONS[0]
LOCAL = {"3.11"}  # as in the Makefile
OFFLINE = {"HF_HUB_OFFLINE": "1"}
PYTEST = ("python", "-m", "pytest", "--numprocesses", "auto", "--dist", "loadfile")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests with the packages that `make test` installs."""
    local = session.python in LOCAL
    extras = "all,local" if local else "all"
    groups = ["--group", "dev", *(["--group", "local"] if local else [])]
    session.install("--constraint", "constraints.txt", "--editable", f".[{extras}]", *groups)
    session.run(*PYTEST, *session.posargs, env=OFFLINE)


@nox.session(python=LOWEST, venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest version of every direct dependency that is allowed.

    Old packages beside new ones use what these call deprecated: no error here.
    """
    lowest_direct = ("--resolution", "lowest-direct")
    session.install(*lowest_direct, "--editable", ".[all]", "--group", "dev")
    quiet = ("-W", "ignore::DeprecationWarning")
    session.run(*PYTEST, *quiet, *session.posargs, env=OFFLINE)
