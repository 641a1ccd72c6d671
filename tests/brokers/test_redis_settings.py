"""The value: what may be given, what a URL says, and what is never shown."""

from __future__ import annotations

import pickle
import ssl
import subprocess
import sys
from typing import Any

import attrs
import pytest

from trio_ticks.brokers import from_url
from trio_ticks.brokers.redis_streams import RedisStreams
from trio_ticks.brokers.redis_streams.clocks import ServerClock
from trio_ticks.buffer import Buffer, Sink, Source
from trio_ticks.errors import ConfigError

URL = "redis://user:pa%2Fss@host:6380/2"


def test_the_usual_url() -> None:
    target = RedisStreams(URL).target
    assert target.addresses == (("host", 6380),)
    assert (target.username, target.password, target.database) == ("user", "pa/ss", 2)
    assert not target.tls
    assert target.master is None
    assert target.path is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", {"addresses": (("h", 6379),), "password": None, "database": 0}),
        ("rediss://:p@h", {"tls": True, "username": None, "password": "p"}),
        ("redis://[::1]:7/", {"addresses": (("::1", 7),)}),
        ("redis://a:1,b:2", {"addresses": (("a", 1), ("b", 2))}),
        ("unix:///run/r.sock?db=3", {"path": "/run/r.sock", "database": 3}),
        (
            "redis+sentinel://u:p@a,b:3/main/1?sentinel_password=q",
            {
                "addresses": (("a", 26379), ("b", 3)),
                "master": "main",
                "database": 1,
                "password": "p",
                "sentinel_password": "q",
            },
        ),
        ("rediss+sentinel://a/main", {"tls": True, "master": "main", "database": 0}),
    ],
)
def test_other_urls(url: str, expected: dict[str, Any]) -> None:
    target = RedisStreams(url).target
    assert {name: getattr(target, name) for name in expected} == expected


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:secret@h:port",
        "http://user:secret@h",
        "redis://user:secret@",
        "redis://user:secret@h/0/1",
        "redis://user:secret@h/zero",
        "redis://user:secret@h?db=1",
        "redis://user:secret@h:0",
        "redis://user:secret@h/0#x",
        "redis://user:secret@[::1",
        "unix://secret@host/path",
        "redis+sentinel://user:secret@h/",
        "redis+sentinel://user:secret@h/a/b/c",
        b"redis://user:secret@h",
        None,
    ],
)
def test_wrong_urls_are_told_without_their_passwords(url: Any) -> None:
    with pytest.raises(ConfigError, match=r"^url must ") as caught:
        RedisStreams(url)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^url must "):
        RedisStreams.from_url(url)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "{a}"},
        {"group": "a|b"},
        {"maxsize": 0},
        {"maxsize": 5},
        {"shards": 0},
        {"shards": 2000},
        {"pack": True},
        {"prefetch": 0.5},
        {"lease": 0},
        {"lease": float("inf")},
        {"lease": 601},
        {"max_deliveries": 1},
        {"timeout": -1},
        {"replica_patience": "long"},
        {"ssl_context": object()},
        {"ssl_context": ssl.create_default_context()},
    ],
)
def test_wrong_settings(settings: dict[str, Any]) -> None:
    name = "pack" if settings == {"maxsize": 5} else next(iter(settings))
    with pytest.raises(ConfigError, match=rf"^{name} "):
        RedisStreams(URL, **settings)


@pytest.mark.parametrize("host", [".h", "a..b", "h" * 64])
def test_a_host_that_cannot_exist_is_told_at_once(host: str) -> None:
    with pytest.raises(ConfigError, match="host name that cannot exist"):
        RedisStreams(f"redis://{host}")


def test_settings_in_the_url() -> None:
    url = "redis://u:p@h/1?name=a&group=g&maxsize=500&shards=8&pack=4&lease=2.5&max_deliveries=4"
    assert RedisStreams.from_url(url, shards=16) == RedisStreams(
        "redis://u:p@h/1", "a", 500, group="g", shards=16, pack=4, lease=2.5, max_deliveries=4
    )
    with pytest.raises(ConfigError, match=r"set 'nmae', which is unknown; it may set .*name, "):
        RedisStreams.from_url("redis://h?nmae=a")
    with pytest.raises(ConfigError, match="has 'name' more than once"):
        from_url("redis://h?name=a&name=b")
    with pytest.raises(ConfigError, match="maxsize must be a number, got 'x'"):
        RedisStreams.from_url("redis://h?maxsize=x")
    found = RedisStreams.from_url("redis+sentinel://h/m?name=a&sentinel_password=x")
    assert found.target.sentinel_password == "x"


def test_nothing_shows_the_password() -> None:
    buffer = RedisStreams(URL, ssl_context=None)
    assert repr(buffer).startswith("RedisStreams(url='redis://user:***@host:6380/2', name='ticks'")
    assert buffer.shown == "redis://user:***@host:6380/2?name=ticks"
    for shown in (repr(buffer), buffer.shown, repr(buffer.target)):
        assert "ss@" not in shown
        assert "pa/ss" not in shown
    hidden = RedisStreams("redis+sentinel://h/m?sentinel_password=geheim")
    assert "geheim" not in repr(hidden) + hidden.shown + repr(hidden.target)


def test_it_is_a_buffer_and_a_value() -> None:
    buffer = RedisStreams(URL)
    assert isinstance(buffer, Buffer)
    assert isinstance(buffer.sink(), Sink)
    assert isinstance(buffer.source(), Source)
    assert buffer.prefetch == 4096
    assert pickle.loads(pickle.dumps(buffer)) == buffer
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        buffer.name = "x"  # type: ignore[misc]  # frozen


def test_without_hiredis_an_error_says_what_to_install() -> None:
    program = (
        "import sys\n"
        "sys.modules['hiredis'] = None\n"
        "from trio_ticks.brokers.redis_streams import RedisStreams\n"
        "try: RedisStreams('redis://h')\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "RedisStreams needs hiredis: pip install 'trio-ticks[redis]'\n"


def test_the_best_sample_of_the_servers_clock_is_kept_until_it_is_old() -> None:
    times = ServerClock()
    assert times.difference_s is times.error_s(0) is None
    assert times.our_time(5.0) == times.server_time(5.0) == 5.0
    times.observe(100.0, 100.2, 90.0)
    assert times.difference_s == pytest.approx(10.1)
    assert times.error_s(100.2) == pytest.approx(0.1)
    times.observe(101.0, 101.02, 91.01)
    assert times.difference_s == pytest.approx(10.0)
    # A worse one changes nothing, until the better one is older.
    times.observe(102.0, 102.1, 92.04)
    assert times.difference_s == pytest.approx(10.0)
    times.observe(1502.0, 1502.1, 1492.04)
    assert times.difference_s == pytest.approx(10.01)
    # A clock was set: a sample that contradicts counts at once.
    times.observe(1503.0, 1503.1, 1000.0)
    assert times.difference_s == pytest.approx(503.05)
    assert times.our_time(times.server_time(7.0)) == pytest.approx(7.0)
