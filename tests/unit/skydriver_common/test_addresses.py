"""Which server a database URL asks for."""

import pytest

from skydriver_common.db.addresses import with_defaults


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("postgresql://u:p,w@one:5432/db", ""),
        ("postgresql://u:p@one,two/db", "?target_session_attrs=read-write"),
        ("postgresql://u:p@[::1]:5432,[::2]:5433/db?sslmode=require", "&target_session_attrs=read-write"),
        ("postgresql:///db?host=one,two", "&target_session_attrs=read-write"),
        ("postgresql://u@one,two/db?", "target_session_attrs=read-write"),
        ("postgresql://u@one,two/db?target_session_attrs=any", ""),
    ],
)
def test_of_several_servers_the_one_that_takes_writes_is_asked_for(url: str, asked: str) -> None:
    assert with_defaults(url) == url + asked
    assert with_defaults(with_defaults(url)) == with_defaults(url)
