"""The configuration of a cluster, and what answers mean."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from skydriver_common.faults import TryLater
from skydriver_common.kubernetes.client import (
    AlreadyExists,
    ClusterConfigError,
    KubernetesRejected,
    NotFound,
    QuotaExceeded,
    ResourceVersionExpired,
    fault_for_status,
    open_client,
)
from tests.support.waiting import until


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "clusters: [",
        "[]",
        "just words",
        "current-context: x",
        '{"current-context": "x", "contexts": [{"name": "x"}]}',
    ],
)
async def test_a_configuration_that_cannot_be_used_is_one_readable_line_without_its_content(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content + "\n# a-secret-token")
    with pytest.raises(ClusterConfigError) as raised:
        async with open_client(str(path)):
            pass
    assert str(raised.value).startswith("KUBECONFIG: ")
    assert "\n" not in str(raised.value)
    assert "a-secret-token" not in str(raised.value)


def a_config_with(folder: Path, user: dict[str, Any]) -> str:
    path = folder / "config.json"
    path.write_text(
        json.dumps({
            "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}], "users": [{"name": "u", "user": user}],
        })
    )  # fmt: skip
    return str(path)


def a_plugin(folder: Path, status: str) -> dict[str, Any]:
    """An exec plugin that gives this, as Python makes it; ``calls`` is how often it was asked."""
    program = folder / "plugin.py"
    program.write_text(
        f"""import json, pathlib, sys
counter = pathlib.Path({str(folder / "calls")!r})
calls = len(counter.read_text()) + 1 if counter.exists() else 1
counter.write_text("x" * calls)
if calls == 2: sys.exit("no network")
print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {status}}}))
"""
    )
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": [str(program)]}}


async def test_the_token_of_an_exec_plugin_is_renewed_even_if_it_fails_in_between(tmp_path: Path) -> None:
    user = a_plugin(tmp_path, '{"token": f"token-{calls}", "expirationTimestamp": "2026-01-01T00:00:00Z"}')
    async with open_client(a_config_with(tmp_path, user), renew_s=0.05) as client:
        assert client.configuration.api_key["BearerToken"] == "Bearer token-1"
        await until(lambda: client.configuration.api_key["BearerToken"] == "Bearer token-3", "the third token", poll_s=0.01)


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ({"auth-provider": {"name": "oidc", "config": {"id-token": "e30.eyJleHAiOiA5OTk5OTk5OTk5fQ.e30"}}}, "oidc"),
        ({"exec": {"apiVersion": "v1", "command": "/there/is/no/such/program"}}, "KUBECONFIG: "),
        (None, "returns a certificate"),
    ],
    ids=["oidc", "no such plugin", "certificate"],
)
async def test_what_cannot_be_renewed_is_refused_at_the_start(tmp_path: Path, user: dict[str, Any] | None, words: str) -> None:
    certificate = a_plugin(tmp_path, '{"clientCertificateData": "c", "clientKeyData": "k"}')
    with pytest.raises(ClusterConfigError, match=words):
        async with open_client(a_config_with(tmp_path, user or certificate)):
            pass


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (403, '{"message": "jobs is forbidden: exceeded quota: q"}', QuotaExceeded),
        (403, '{"message": "jobs is forbidden: status unknown for quota: q, resources: count/jobs.batch"}', TryLater),
        (403, '{"message": "cannot create jobs"}', KubernetesRejected), (422, '{"message": "invalid"}', KubernetesRejected),
        (400, "", KubernetesRejected),
        (404, '{"message": "jobs \\"x\\" not found"}', NotFound), (404, '{"message": "namespaces \\"x\\" not found"}', TryLater),
        (409, '{"reason": "AlreadyExists"}', AlreadyExists), (409, '{"reason": "Conflict", "message": "modified"}', TryLater),
        (410, "{}", ResourceVersionExpired), (401, "", TryLater), (408, "", TryLater),
        (429, "<html>", TryLater), (500, None, TryLater), (0, "", TryLater),
    ],
)  # fmt: skip
def test_each_answer_has_one_meaning(status: int, body: str | None, expected: type[Exception]) -> None:
    fault = fault_for_status(status, body, {}, "do something")
    assert type(fault) is expected or isinstance(fault, expected)
    assert isinstance(fault, TryLater) == issubclass(expected, TryLater)


@pytest.mark.parametrize(("value", "after_s"), [("7", 7.0), ("7000", 60.0), ("-1", 0.0), ("soon", 1.0), (None, 1.0)])
def test_retry_after_is_honoured_within_reason(value: str | None, after_s: float) -> None:
    fault = fault_for_status(429, "", {} if value is None else {"Retry-After": value}, "do something")
    assert isinstance(fault, TryLater)
    assert fault.after_s == after_s
