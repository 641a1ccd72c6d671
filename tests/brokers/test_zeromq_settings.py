"""What a ZeroMQ buffer takes as settings, and what it says to others."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import zmq

from trio_ticks.brokers.zeromq import ZeroMQ
from trio_ticks.buffer import Buffer, Sink, Source
from trio_ticks.errors import ConfigError

HERE = "tcp://127.0.0.1:5555"


def test_it_is_a_buffer() -> None:
    buffer = ZeroMQ(HERE)
    assert isinstance(buffer, Buffer)
    assert isinstance(buffer.sink(), Sink)
    assert isinstance(buffer.source(), Source)
    assert ZeroMQ([HERE]) == buffer
    assert buffer.prefetch == 8192


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "needs an address"),
        ({"addresses": 5}, "a list of these"),
        ({"addresses": "127.0.0.1:5555"}, "tcp://HOST:PORT or ipc://PATH"),
        ({"addresses": "inproc://x"}, "tcp://HOST:PORT or ipc://PATH"),
        ({"addresses": "tcp://a:70000"}, "a port from 1 to 65535"),
        ({"addresses": [HERE, HERE]}, "must differ"),
        ({"addresses": HERE, "bind": "tcp://*"}, "bind must be tcp://HOST:PORT"),
        ({"addresses": "tcp://*:5", "bind": HERE}, "only bind= takes a *"),
        ({"addresses": HERE, "window": 0}, "window must be a whole number"),
        ({"addresses": HERE, "shards": True}, "shards must be a whole number"),
        ({"addresses": HERE, "lease": 1.5}, "at least two heartbeats"),
        ({"addresses": HERE, "max_deliveries": 1}, "max_deliveries must be"),
        ({"addresses": HERE, "server_key": "short"}, "40 characters"),
        ({"addresses": HERE, "server_key": "é" * 40}, "Z85 alphabet"),
        ({"addresses": HERE, "public_key": "0" * 40}, "go together"),
    ],
)
def test_nonsense_is_one_clear_error(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ZeroMQ(**settings)
    assert words in str(caught.value)


def test_each_end_says_what_it_lacks() -> None:
    public, secret = zmq.curve_keypair()
    with pytest.raises(ConfigError, match="say which by bind="):
        ZeroMQ([HERE, "tcp://b:5555"]).sink()
    with pytest.raises(ConfigError, match="addresses of the ingests"):
        ZeroMQ(bind="tcp://*:5555").source()
    with pytest.raises(ConfigError, match="needs its own public_key and secret_key"):
        ZeroMQ(HERE, server_key=public).sink()
    with pytest.raises(ConfigError, match="need server_key="):
        ZeroMQ(HERE, public_key=public, secret_key=secret).source()


def test_no_secret_is_shown() -> None:
    public, secret = zmq.curve_keypair()
    buffer = ZeroMQ(HERE, server_key=public, public_key=public, secret_key=secret)
    for shown in (repr(buffer), repr(buffer.curve), buffer.shown):
        assert secret.decode() not in shown
    bad = secret.decode()[:39]
    with pytest.raises(ConfigError) as caught:
        ZeroMQ(HERE, public_key=public, secret_key=bad)
    assert bad not in str(caught.value)


@pytest.mark.parametrize("scheme", ["tcp", "zmq+tcp"])
def test_from_url(scheme: str) -> None:
    assert ZeroMQ.from_url(f"{scheme}://a:1,b:2?window=9&heartbeat=0.5&bind=tcp://*:7") == ZeroMQ(
        ["tcp://a:1", "tcp://b:2"], window=9, heartbeat=0.5, bind="tcp://*:7"
    )


@pytest.mark.parametrize(
    "url", ["", "host:5", "tcp://a:1?x=1", "tcp://a:1?window=a", "tcp://a:1?pack=1&pack=2"]
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError):
        ZeroMQ.from_url(url)


def test_a_setting_that_is_none_is_told_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"no setting 'maxsize'; it may have .*window"):
        ZeroMQ.from_url("tcp://a:1?maxsize=1")
    with pytest.raises(ConfigError, match="the setting 'pack' twice"):
        ZeroMQ.from_url("tcp://a:1?pack=1&pack=2")


def test_without_pyzmq_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['zmq'] = None\n"
        "from trio_ticks.brokers.zeromq import ZeroMQ\n"
        "try: ZeroMQ('tcp://a:1')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("ConfigError")
    assert "pip install 'trio-ticks[zeromq]'" in done.stdout
