"""No request sets a variable that steers an interpreter, a loader, a shell, TLS, a proxy or our own settings."""

import re

import pytest

from skydriver_common.model import scanner_variables
from skydriver_common.model.steering_variables import STEERING, STEERING_REGEX, UserVariables, why_steering

HOSTILE = (
    "PYTHONWARNINGS", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONINSPECT", "BROWSER", "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT",
    "GLIBC_TUNABLES", "GCONV_PATH", "BASH_ENV", "BASH_FUNC_ls", "ENV", "IFS", "SHELLOPTS", "PS4", "PATH", "HOME", "EDITOR", "PAGER",
    "MANPAGER", "LESSOPEN", "HTTP_PROXY", "https_proxy", "No_Proxy", "ALL_PROXY", "SSL_CERT_FILE", "SSLKEYLOGFILE",
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSH_COMMAND", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "PERL5OPT",
    "RUBYOPT", "XDG_CONFIG_HOME", "TMPDIR", "KUBERNETES_SERVICE_HOST", "KUBECONFIG", "AWS_ACCESS_KEY_ID", "SKYDRIVER_DATABASE_URL",
    "MPLBACKEND", "OPENSSL_CONF", "HOSTALIASES", "SANDBOX_SCANNER_DIE", "COVERAGE_PROCESS_START",
)  # fmt: skip
HARMLESS = ("B", "MY_NAME", "RATE", "SKYSCAN_LOG", "I3_TESTDATA", "OMP_NUM_THREADS", "PATHOLOGY", "TIMES", "environment")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_steers_is_refused_whatever_the_setting_lets_through(name: str) -> None:
    assert why_steering(name)
    assert not UserVariables.parse(f"*, {name}").allows(name)
    assert re.fullmatch(STEERING_REGEX, name)
    assert scanner_variables.left_out([name, "MINE"]) == [name]


@pytest.mark.parametrize("name", HARMLESS)
def test_the_rest_is_the_settings_to_say(name: str) -> None:
    assert why_steering(name) is None
    assert not re.fullmatch(STEERING_REGEX, name)
    assert UserVariables().allows(name)
    assert UserVariables.parse("SKYSCAN_*").allows(name) == name.startswith("SKYSCAN_")
    assert not UserVariables.parse("").allows(name)


def test_each_row_has_a_reason_and_no_variable_of_the_scanner_is_among_them() -> None:
    assert all(STEERING.values())
    read = {name for name, each in scanner_variables.VARIABLES.items() if each.source is not scanner_variables.Source.LAUNCHER}
    assert not [name for name in read if why_steering(name)]


def test_a_reason_names_the_setting_and_what_it_lets_through() -> None:
    refused = UserVariables.parse("SKYSCAN_*, RATE").refused(["RATE", "SKYSCAN_LOG", "OTHER"])
    assert refused == {"OTHER": "is not let through by SKYDRIVER_USER_ENV_ALLOW (SKYSCAN_*, RATE)"}


@pytest.mark.parametrize("text", ["A B", "a-b", "(.*)", "1X", "A;B", "x" * 200])
def test_a_pattern_is_a_name_with_stars(text: str) -> None:
    with pytest.raises(ValueError, match="names of variables"):
        UserVariables.parse(text)
