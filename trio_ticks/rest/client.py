"""A client for JSON over HTTP: paced, patient, bounded, and silent about secrets.

Plan: :meth:`RestClient.get` waits for its turn, sends the request, and has the answer
judged; ``answers.py`` decides whether it is sent again, and when.

Rules: size and time of an answer are bounded, whatever the other side does. Nothing
shows a query string or a header. Redirects are not followed: the key would go to
another host.
"""

from __future__ import annotations

import logging
import os
import ssl
import zlib
from collections.abc import Mapping, Sequence
from random import Random
from types import TracebackType
from typing import Any, Final, TypeVar, final, overload
from urllib.parse import urlsplit

import attrs
import msgspec
import trio

from ..checks import check_count, check_flag, check_instance, check_seconds
from ..clock import Clock, new_random
from ..errors import ConfigError
from ..feeds.websocket.backoff import Backoff, BackoffPolicy, parse_retry_after
from ..feeds.websocket.connect import Target, make_ssl_context
from ..feeds.websocket.environment import ProxyVariables
from ..feeds.websocket.headers import USER_AGENT, check_headers, header_secrets
from ..feeds.websocket.pacing import Pace
from ..feeds.websocket.proxy import Proxy
from ..hosts import ascii_host
from ..logs import LogLimit, Redactor, log_event
from .answers import Failure, Inflater, Judge, TooLargeError, judge_status, next_wait
from .library import library

__all__ = ["Parameters", "RestClient"]

logger = logging.getLogger("trio_ticks.rest")

T = TypeVar("T")

Parameters = Mapping[str, str | int | float | None]
"""What stands in the query string; a parameter that is ``None`` is left out."""

_MINUTE_S: Final = 60.0
_PATIENCE: Final = BackoffPolicy(initial_s=0.5, maximum_s=30.0)
_BAD_ANSWER: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What a judge may raise because of a body; msgspec's errors are ValueErrors."""


@final
@attrs.frozen
class _Answer:
    """The whole of an answer."""

    status: int
    body: bytes
    retry_after: str | None


@final
class RestClient:
    """Asks one venue over HTTP; an async context manager.

    Example::

        async with RestClient("https://data-api.binance.vision") as client:
            depth = await client.get("/api/v3/depth", {"symbol": "BTCUSDT"}, type=Depth)

    Several tasks may use it at once; they share its pace. A wait that the venue asks
    for (``Retry-After``) holds for all of them.

    Args:
        base_url: ``https://host`` or ``http://host``, with a path or without; or
            several of them for the same venue: if one cannot be reached, the next is
            tried.
        api_key: goes into the header *key_header*; ``None``: no key is sent.
        key_header: the header with the key.
        headers: further headers of each request.
        timeout: seconds for one attempt, from connecting to the last byte;
            ``math.inf``: no limit.
        requests_per_minute: how many requests, repeated ones included, may be sent in
            any 60 s; ``None``: no limit.
        tries: how often a request is sent, at most, before its error is raised.
        backoff: the waits between attempts: from up to 0.5 s to up to 30 s unless
            given. Its ``max_retry_after_s`` (300 s) is the longest ``Retry-After`` that
            is waited for; if the venue asks for more, the error is raised at once.
        max_bytes: the largest body, inflated, in bytes.
        judge: reads the venue's own errors; the HTTP status alone counts unless given.
        proxy: ``http://[user:password@]host:port``.
        trust_env: whether to take the proxy from the environment (``HTTPS_PROXY``).
        ca: a PEM file with the authorities to trust, instead of the system's.
        ssl_context: instead of *ca*, for everything about TLS.
        clock: the time; the system's unless given.
        random: the source of chance for the waits.

    Raises:
        ConfigError: a setting is wrong, or httpx is not installed.
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        api_key: str | None = None,
        key_header: str = "X-API-Key",
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        requests_per_minute: int | None = None,
        tries: int = 5,
        backoff: BackoffPolicy | None = None,
        max_bytes: int = 32 * 1024 * 1024,
        judge: Judge = judge_status,
        proxy: str | None = None,
        trust_env: bool = False,
        ca: str | os.PathLike[str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self._httpx = library()
        self._urls = _base_urls(base_url)
        self._chosen = 0
        check_seconds("timeout", timeout, positive=True, infinite=True)
        check_count("requests_per_minute", requests_per_minute, or_none=True)
        check_count("tries", tries)
        check_count("max_bytes", max_bytes)
        check_instance("backoff", backoff, BackoffPolicy, "a BackoffPolicy", or_none=True)
        check_flag("trust_env", trust_env)
        if trust_env and proxy is not None:
            raise ConfigError("give either proxy or trust_env=True")
        if ca is not None and ssl_context is not None:
            raise ConfigError("give either ca or ssl_context")
        self._timeout_s = timeout
        self._tries = tries
        self._policy = backoff or _PATIENCE
        self._max_bytes = max_bytes
        self._judge = judge
        self._has_key = api_key is not None
        self._headers = _headers(api_key, key_header, headers)
        self._proxy = None if proxy is None else Proxy.parse(proxy)
        self._variables = ProxyVariables.read(os.environ) if trust_env else None
        maybe_tls = trust_env or (self._proxy is not None and self._proxy.secure)
        self._ssl = _trust(self._urls, ca, ssl_context, maybe_tls=maybe_tls)
        self._redactor = Redactor(
            (*header_secrets(self._headers), *(self._proxy.secrets if self._proxy else ()))
        )
        self._clock = clock or Clock()
        self._random = random or new_random()
        self._pace = Pace(requests_per_minute, _MINUTE_S)
        self._free_at = -float("inf")
        self._log_limit = LogLimit(self._clock.now)
        self._clients: dict[str, Any] = {}
        self._open = False
        self.sent = 0
        """Requests sent so far, repeated ones included."""
        self.repeated = 0
        """Requests that were sent again, since an attempt had failed."""

    async def __aenter__(self) -> RestClient:
        self._open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.aclose()

    @property
    def url(self) -> str:
        """The address that is asked first at present."""
        return self._urls[self._chosen]

    @overload
    async def get(self, path: str, params: Parameters | None = None) -> Any: ...

    @overload
    async def get(self, path: str, params: Parameters | None = None, *, type: type[T]) -> T: ...

    async def get(
        self, path: str, params: Parameters | None = None, *, type: type[Any] | None = None
    ) -> Any:
        """Return the answer to a request, decoded from JSON.

        Args:
            path: behind the base URL; it begins with a slash.
            params: of the query string. They should hold no secrets: httpx logs whole
                URLs at the level INFO.
            type: what the answer is decoded to: a class or an annotation that msgspec
                knows; plain dicts and lists unless given.

        Raises:
            FeedAuthError: the venue refuses the credentials.
            UnknownSymbolError: the venue does not know the symbol.
            RestError: there is no usable answer, after as many attempts as it may take.
            RuntimeError: the client is not open.

        Cancellation: nothing is kept of the answer; the request counts for the pace.
        The client can still be used.
        """
        backoff = Backoff(self._policy, self._random.random)
        attempts = 0
        while True:
            if not self._open:
                raise RuntimeError("use the client inside `async with`")
            await self._turn(self.url + path)
            attempts += 1
            base = self.url
            answer = await self._attempt(base, path, params)
            failure = answer if isinstance(answer, Failure) else self._judged(answer)
            if failure is None:
                assert isinstance(answer, _Answer)
                return self._decoded(answer, type or Any, base + path, attempts)
            wait_s = next_wait(
                failure, attempts, self._tries, backoff, self._policy.max_retry_after_s
            )
            if failure.retry_after_s is not None:
                asked_s = min(failure.retry_after_s, _LONGEST_WAIT_S)
                self._free_at = max(self._free_at, self._clock.now() + asked_s)
            if wait_s is None:
                raise self._error(failure, base + path, attempts)
            self._log_repeat(failure, base + path, wait_s)
            self._try_next_address(failure, base)
            await trio.sleep(wait_s)
            self.repeated += 1

    async def _turn(self, url: str) -> None:
        """Wait until the pace and the venue allow the next request.

        Raises:
            RestError: the venue has asked for a longer wait than is waited for.
        """
        asked_s = self._free_at - self._clock.now()
        if asked_s > self._policy.max_retry_after_s:
            reason = "not asked, since the venue wants to be left alone"
            failure = Failure(reason=reason, again=True, retry_after_s=asked_s)
            raise self._error(failure, url, 0)
        moment = self._pace.reserve(max(self._clock.now(), self._free_at))
        # Another request may learn of a longer wait while this one sleeps.
        while True:
            wait_s = max(moment, self._free_at) - self._clock.now()
            if wait_s <= 0:
                return
            await trio.sleep(wait_s)

    async def _attempt(self, base: str, path: str, params: Parameters | None) -> _Answer | Failure:
        self.sent += 1
        given = {name: value for name, value in (params or {}).items() if value is not None}
        httpx = self._httpx
        try:
            with trio.fail_after(self._timeout_s):
                client = self._client_for(base)
                async with client.stream("GET", base + path, params=given) as response:
                    return await self._read(response)
        except trio.TooSlowError:
            return Failure(reason=f"no answer within {self._timeout_s:g} s", again=True)
        except TooLargeError:
            return Failure(reason=f"the answer is larger than {self._max_bytes} bytes", again=False)
        except zlib.error:
            return Failure(reason="the answer cannot be inflated", again=True)
        except httpx.TransportError as error:
            return self._broken(error)
        except httpx.InvalidURL as error:
            raise ConfigError(f"the path or a parameter makes no URL: {error}") from None

    async def _read(self, response: Any) -> _Answer:
        """Return the whole of an answer.

        Raises:
            TooLargeError: its body is too large.
            zlib.error: its body cannot be inflated.
        """
        inflater = Inflater(response.headers.get("content-encoding", ""), self._max_bytes)
        problem: Exception | None = None
        # httpx reads through several nested generators. Leaving the loop would leave
        # the inner ones open; a cancellation, raised in the innermost, ends them all.
        with trio.CancelScope() as scope:
            async for chunk in response.aiter_raw():
                if problem is None:
                    try:
                        inflater.add(chunk)
                    except (TooLargeError, zlib.error) as error:
                        problem = error
                        scope.cancel()
        if problem is not None:
            raise problem
        asked = response.headers.get("retry-after")
        return _Answer(response.status_code, inflater.body(), asked)

    def _client_for(self, base: str) -> Any:
        """Return the client of httpx for one address, which is made when first used."""
        client = self._clients.get(base)
        if client is None:
            httpx = self._httpx
            proxy = self._proxy
            if self._variables is not None:
                proxy = self._variables.proxy_for(_target(base))
            made = None
            if proxy is not None:
                auth = proxy.authorization
                headers = {} if auth is None else {"Proxy-Authorization": auth}
                secure = self._ssl if proxy.secure else None
                made = httpx.Proxy(str(proxy), headers=headers, ssl_context=secure)
            client = self._clients[base] = httpx.AsyncClient(
                headers=self._headers,
                verify=self._ssl,
                trust_env=False,
                proxy=made,
                timeout=None,  # The limit is that of the whole attempt.
                follow_redirects=False,
            )
        return client

    def _judged(self, answer: _Answer) -> Failure | None:
        """Return what failed according to an answer; ``None``: nothing."""
        try:
            failure = self._judge(answer.status, answer.body)
        except _BAD_ANSWER:
            failure = judge_status(answer.status) or _senseless(answer)
        if failure is None or answer.retry_after is None:
            return failure
        asked_s = parse_retry_after(answer.retry_after, self._clock.utc())
        return attrs.evolve(failure, retry_after_s=asked_s)

    def _decoded(self, answer: _Answer, kind: Any, url: str, attempts: int) -> Any:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            failure = attrs.evolve(_senseless(answer), reason=f"{_SENSELESS} ({error})")
            raise self._error(failure, url, attempts) from None

    def _broken(self, error: Exception) -> Failure:
        """Return what an *error* of the connection means."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                why = cause.verify_message
                return Failure(reason=f"its certificate is not trusted: {why}", again=False)
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, self._httpx.ConnectError):
            return Failure(reason=f"it cannot be reached: {error}", again=True)
        what = str(error) or type(error).__name__
        return Failure(reason=f"the connection broke: {what}", again=True)

    def _error(self, failure: Failure, url: str, attempts: int) -> Exception:
        message = f"{url}: {self._redactor.excerpt(failure.reason)}"
        advice = failure.advice
        if failure.kind == "auth":
            advice = advice or ("check the api_key" if self._has_key else "no api_key was given")
        if advice:
            message += f"; {self._redactor.excerpt(advice)}"
        if failure.retry_after_s is not None:
            message += f"; it asks to wait {failure.retry_after_s:g} s"
        if attempts > 1:
            message += f" (after {attempts} attempts)"
        return failure.to_error(message, url, attempts)

    def _log_repeat(self, failure: Failure, url: str, wait_s: float) -> None:
        if self._log_limit.due("again"):
            log_event(
                logger,
                logging.WARNING,
                "rest.again",
                "%s: %s; asking again in %.1f s",
                url,
                reason := self._redactor.excerpt(failure.reason),
                wait_s,
                url=url,
                reason=reason,
                status=failure.status,
                wait_s=wait_s,
            )

    def _try_next_address(self, failure: Failure, base: str) -> None:
        """Turn to the next address if *base* is in trouble, for all tasks."""
        in_trouble = failure.status is None or failure.status >= 500
        if in_trouble and base == self.url:
            self._chosen = (self._chosen + 1) % len(self._urls)


_LONGEST_WAIT_S: Final = 3 * 86_400.0
"""Venues ban for up to three days. A wait of years is a mistake, after which a program
that runs for a year would never ask again."""
_SENSELESS: Final = "the answer is not what was expected"


def _senseless(answer: _Answer) -> Failure:
    return Failure(reason=_SENSELESS, status=answer.status, again=False)


def _base_urls(given: object) -> tuple[str, ...]:
    if isinstance(given, str):
        return (_base_url(given),)
    if not isinstance(given, Sequence) or not given:
        raise ConfigError("base_url must be a URL, or several in a list")
    return tuple(map(_base_url, given))


def _base_url(url: object) -> str:
    """Return *url* without a slash at its end, checked.

    No message repeats it: a user may have put a key into it.
    """
    if not isinstance(url, str):
        raise ConfigError(f"base_url must be a str, not {type(url).__name__}")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError("base_url must be ASCII without spaces or control characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("base_url is not a valid URL: check the host and the port") from None
    if parts.scheme not in ("http", "https"):
        raise ConfigError(
            "base_url must begin with https:// or http://; where a venue has its WebSocket at"
            " the same host and port, as the local exchange has, only the scheme differs"
        )
    if not host or port == 0:
        raise ConfigError("base_url must have a host, and no port 0")
    if "@" in parts.netloc:
        raise ConfigError("base_url must not have a user name or password in it")
    if "?" in url or "#" in url:
        raise ConfigError("base_url must end after the path: give parameters with the request")
    return url.rstrip("/")


def _target(base: str) -> Target:
    """Return an address as the variables of the environment are asked about it."""
    parts = urlsplit(base)
    secure = parts.scheme == "https"
    host = ascii_host("base_url", parts.hostname or "")
    return Target(secure, host, parts.port or (443 if secure else 80), parts.path or "/", "")


def _headers(
    api_key: str | None, key_header: str, headers: Mapping[str, str] | None
) -> dict[str, str]:
    given = {} if headers is None else check_headers("headers", headers)
    ours = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip"}
    if api_key is not None:
        if any(name.lower() == key_header.lower() for name in given):
            raise ConfigError(f"give either api_key or the header {key_header}")
        given |= check_headers("api_key", {key_header: api_key})
    names = {name.lower() for name in given}
    if "accept-encoding" in names:
        raise ConfigError("headers must not have Accept-Encoding, which the client sets")
    return {name: value for name, value in ours.items() if name.lower() not in names} | given


def _trust(
    urls: Sequence[str],
    ca: str | os.PathLike[str] | None,
    context: ssl.SSLContext | None,
    *,
    maybe_tls: bool,
) -> ssl.SSLContext:
    """Return what certificates are checked by.

    Args:
        urls: the addresses.
        ca: as the user gave it.
        context: as the user gave it.
        maybe_tls: whether a proxy may speak TLS, too.
    """
    check_instance("ssl_context", context, ssl.SSLContext, "an ssl.SSLContext", or_none=True)
    if maybe_tls or any(url.startswith("https://") for url in urls):
        return context or make_ssl_context(ca)
    if ca is not None or context is not None:
        raise ConfigError("ca and ssl_context are for https:// URLs; this one is http://")
    # Reading the system's certificates takes milliseconds; this one trusts nobody.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
