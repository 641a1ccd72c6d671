"""TLS, Unix sockets, Sentinel with a failover, and Cluster, on real servers."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trio
import trustme

from tests.worlds.redis_world import Book, Ingest, Workers, drain, fill, listening, ticks, until
from tests.worlds.servers import BINARIES, Server, free_port, running
from trio_ticks.brokers.redis_streams import RedisStreams, look
from trio_ticks.errors import BrokerError

KINDS = sorted(BINARIES)


@pytest.mark.skipif("redis" not in BINARIES, reason="the packaged Valkey has no TLS")
async def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    certificate.private_key_pem.write_to_path(key)
    certificate.cert_chain_pems[0].write_to_path(chain)
    port = free_port()
    options = ("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no")
    files = ("--tls-cert-file", str(key.with_name("chain.pem")), "--tls-key-file", str(key))
    with running("redis", *options, *files, port=port):
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        buffer = RedisStreams(f"rediss://127.0.0.1:{port}", ssl_context=trusting)
        book = Book()
        await fill(buffer, ticks(300))
        await drain(buffer, book, 300)
        assert (await look(buffer)).used == 0
        with pytest.raises(BrokerError, match="give an ssl_context that trusts it"):
            await fill(RedisStreams(f"rediss://127.0.0.1:{port}"), ticks(3))


async def test_a_server_that_speaks_no_tls() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"-ERR Protocol error\r\n")
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        port = await listening(nursery, serve)
        with pytest.raises(BrokerError, match="it speaks no TLS there"):
            await fill(RedisStreams(f"rediss://127.0.0.1:{port}"), ticks(3))
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
async def test_a_unix_socket(tmp_path: Path) -> None:
    path = f"{tmp_path}/redis.sock"
    with running(KINDS[0], "--unixsocket", path):
        buffer, book = RedisStreams(f"unix://{path}?db=1"), Book()
        await fill(buffer, ticks(100))
        await drain(buffer, book, 100)
        assert book.distinct == 100


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cluster_whose_other_node_has_the_buffer(kind: str) -> None:
    with (
        running(kind, "--cluster-enabled", "yes") as first,
        running(kind, "--cluster-enabled", "yes") as second,
    ):
        # All slots are at the second; the first knows that.
        second.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        first.ask("CLUSTER", "MEET", "127.0.0.1", second.port)
        await until(lambda: "cluster_slots_assigned:16384" in first.ask("CLUSTER", "INFO"))
        await until(lambda: "cluster_state:ok" in first.ask("CLUSTER", "INFO"))
        await until(lambda: "cluster_state:ok" in second.ask("CLUSTER", "INFO"))
        buffer, book = RedisStreams(first.url, lease=10.0), Book()
        sent = ticks(500)
        await fill(buffer, sent)
        await drain(buffer, book, 500)
        book.check(sent)
        assert (await look(buffer)).appended == 500
        assert "s:" in second.ask("KEYS", "*")


async def test_a_cluster_without_its_slots_is_away() -> None:
    with running(KINDS[0], "--cluster-enabled", "yes") as server:
        ingest, sink = Ingest(ticks(10)), RedisStreams(server.url).sink()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sink.run, ingest)
            await trio.sleep(0.1)
            assert ingest.taken == 0
            server.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        assert sink.statistics().appended == 10


@pytest.mark.parametrize("kind", KINDS)
async def test_sentinels_name_the_master_also_after_a_failover(kind: str, tmp_path: Path) -> None:
    with running(kind) as master, running(kind) as replica:
        replica.ask("REPLICAOF", "127.0.0.1", master.port)
        await until(lambda: "master_link_status:up" in replica.ask("INFO", "replication"))
        conf = tmp_path / "sentinel.conf"
        port = free_port()
        conf.write_text(
            f"port {port}\n"
            f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 300\n"
            "sentinel failover-timeout main 2000\n"
        )
        with running(kind, str(conf), "--sentinel", port=port) as sentinel:
            await until(lambda: "slaves=1" in sentinel.ask("INFO", "sentinel"))
            silent = free_port()
            url = f"redis+sentinel://127.0.0.1:{silent},127.0.0.1:{port}/main"
            buffer, book = RedisStreams(url, lease=10.0), Book()
            sent = ticks(400)
            ingest, sink = Ingest(ends=False), buffer.sink()
            workers, source = Workers(book), buffer.source()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sink.run, ingest)
                nursery.start_soon(workers.run, source)
                ingest.put(sent[:200])
                await until(lambda: source.statistics().acknowledged == 200)
                replica.ask("WAIT", 0, 100)
                await until(lambda: _caught_up(master, replica))
                master.kill()
                ingest.put(sent[200:])
                await until(lambda: book.distinct == 400)
                ingest.end()
                source.drain()
            book.check(sent)
            assert "role:master" in replica.ask("INFO", "replication")
            wrong = RedisStreams(f"redis+sentinel://127.0.0.1:{port}/other")
            with pytest.raises(BrokerError, match="knows no master 'other'"):
                await look(wrong)


def _caught_up(master: Server, replica: Server) -> bool:
    def offset(server: Server, name: str) -> str:
        return server.ask("INFO", "replication").split(f"{name}:")[1].split("\r")[0]

    return offset(master, "master_repl_offset") == offset(replica, "slave_repl_offset")
