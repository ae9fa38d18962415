"""The configuration of a cluster, and what answers mean."""

from pathlib import Path

import pytest

from skydriver_common.faults import TryLater
from skydriver_common.kubernetes.client import (
    AlreadyExists,
    Gone,
    NoCluster,
    NotFound,
    QuotaExceeded,
    Refused,
    meaning,
    open_client,
)


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
    with pytest.raises(NoCluster) as raised:
        async with open_client(str(path)):
            pass
    assert str(raised.value).startswith("KUBECONFIG: ")
    assert "\n" not in str(raised.value)
    assert "a-secret-token" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (403, '{"message": "jobs is forbidden: exceeded quota: q"}', QuotaExceeded),
        (403, '{"message": "jobs is forbidden: status unknown for quota: q, resources: count/jobs.batch"}', TryLater),
        (403, '{"message": "cannot create jobs"}', Refused), (422, '{"message": "invalid"}', Refused), (400, "", Refused),
        (404, '{"message": "jobs \\"x\\" not found"}', NotFound), (404, '{"message": "namespaces \\"x\\" not found"}', TryLater),
        (409, '{"reason": "AlreadyExists"}', AlreadyExists), (409, '{"reason": "Conflict", "message": "modified"}', TryLater),
        (410, "{}", Gone), (401, "", TryLater), (408, "", TryLater), (429, "<html>", TryLater), (500, None, TryLater), (0, "", TryLater),
    ],
)  # fmt: skip
def test_each_answer_has_one_meaning(status: int, body: str | None, expected: type[Exception]) -> None:
    fault = meaning(status, body, {}, "do something")
    assert type(fault) is expected or isinstance(fault, expected)
    assert isinstance(fault, TryLater) == issubclass(expected, TryLater)


@pytest.mark.parametrize(("value", "after_s"), [("7", 7.0), ("7000", 60.0), ("-1", 0.0), ("soon", 1.0), (None, 1.0)])
def test_retry_after_is_honoured_within_reason(value: str | None, after_s: float) -> None:
    fault = meaning(429, "", {} if value is None else {"Retry-After": value}, "do something")
    assert isinstance(fault, TryLater)
    assert fault.after_s == after_s
