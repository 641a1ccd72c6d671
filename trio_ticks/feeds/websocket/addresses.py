"""Where the connections of a feed lead, and what is sent with the handshake.

Plan: the address is fixed (``url``), or a function of the user is asked for it before
each connection (``endpoint``). Either way :meth:`Addresses.next_settings` returns what
a session needs, and the redactor knows all secrets in it.

Rules: nothing of an endpoint is shown but its host. What the user's function raises is
shown with its type, its text without secrets, and the line; it is no cause of another
exception, since a traceback would show the text as it is.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from inspect import isawaitable
from os import PathLike
from typing import Final, final

import attrs
import trio

from ...checks import check_callable, check_flag
from ...errors import ConfigError
from ...logs import Redactor
from ..raised import auth_error_in, innermost, where_raised
from ..venues import Language
from .connect import ConnectFailed, Target, make_ssl_context
from .endpoint import Endpoint, EndpointFunction
from .environment import ProxyVariables
from .headers import USER_AGENT, check_headers, header_secrets, merge_headers
from .options import WebSocketOptions
from .proxy import Proxy
from .session import SessionSettings

__all__ = ["Access", "Addresses"]


def _headers(headers: object) -> Mapping[str, str]:
    return {} if headers is None else check_headers("headers", headers)


def _proxy(url: object) -> Proxy | None:
    return None if url is None else Proxy.parse(url)


@attrs.frozen(kw_only=True, repr=False)
class Access:
    """What the user gave to reach the venue, checked.

    Raises:
        ConfigError: a value makes no sense, or two do not go together.
    """

    target: Target | None
    """Where the feed connects to; ``None`` if *endpoint* says it."""
    endpoint: EndpointFunction | None = None
    api_key: str | None = None
    key_parameter: str | None = None
    """The parameter of the query string that carries *api_key*; ``None``: a header."""
    headers: Mapping[str, str] = attrs.field(converter=_headers)
    proxy: Proxy | None = attrs.field(converter=_proxy)
    trust_env: bool = False
    ca: str | PathLike[str] | None = None
    ssl_context: ssl.SSLContext | None = None

    def __attrs_post_init__(self) -> None:
        if self.endpoint is not None:
            shown = "an async function that returns an Endpoint, or None"
            check_callable("endpoint", self.endpoint, shown)
        if self.api_key is not None and any(h.lower() == "x-api-key" for h in self.headers):
            raise ConfigError("give either api_key or the header X-API-Key")
        if self.api_key is not None and self.key_parameter is not None and self.target is None:
            raise ConfigError("give the key in the url that endpoint returns, not as api_key")
        check_flag("trust_env", self.trust_env)
        if self.trust_env and self.proxy is not None:
            raise ConfigError("give either proxy or trust_env=True")
        if self.ssl_context is not None and (
            self.ca is not None or not isinstance(self.ssl_context, ssl.SSLContext)
        ):
            raise ConfigError("give either ca or ssl_context, and that as an ssl.SSLContext")
        if self.trusts and not (self._maybe_tls or self.trust_env):
            raise ConfigError("ca and ssl_context are for wss:// URLs; this one is ws://")

    @property
    def key_headers(self) -> Mapping[str, str]:
        """The header with the key, unless the venue wants it in the query string."""
        if self.api_key is None or self.key_parameter is not None:
            return {}
        return {"X-API-Key": self.api_key}

    @property
    def trusts(self) -> bool:
        """Whether the user said which certificates to trust."""
        return not (self.ca is None and self.ssl_context is None)

    @property
    def _maybe_tls(self) -> bool:
        target, proxy = self.target, self.proxy
        return target is None or target.secure or (proxy is not None and proxy.secure)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown, besides what an endpoint brings."""
        return (
            *(() if self.target is None else self.target.secrets),
            *(() if self.api_key is None else (self.api_key,)),
            *header_secrets(self.headers),
            *(() if self.proxy is None else self.proxy.secrets),
        )

    @property
    def auth_advice(self) -> str:
        """What to do where the venue refuses the credentials."""
        if self.endpoint is not None:
            return "check what endpoint returns"
        if self.api_key is not None:
            return "check the api_key"
        return "check the headers" if self.headers else "no api_key was given"


@final
class Addresses:
    """The address of a feed, or the addresses that its endpoint function returns.

    Args:
        access: what the user gave.
        options: of the feed.
        language: of the venue.
        redactor: learns the secrets of each endpoint.
    """

    def __init__(
        self, access: Access, options: WebSocketOptions, language: Language, redactor: Redactor
    ) -> None:
        self._access: Final = access
        self._options: Final = options
        self._language: Final = language
        self._redactor: Final = redactor
        self._variables: Final = ProxyVariables.read(os.environ if access.trust_env else {})
        self._ssl_context = access.ssl_context
        self.shown = "(endpoint)"
        """The address of the last connection, as far as it may be shown."""
        self.host = ""
        """The host of the last connection."""
        if access.ca is not None:
            self._trust()
        self._fixed: SessionSettings | None = None
        if access.target is not None:
            self.shown, self.host = str(access.target), access.target.host
            self._fixed = self._settings(access.target, self._proxy_for(access.target))
            if self._fixed.proxy is not None:
                redactor.learn(self._fixed.proxy.secrets)

    def _trust(self) -> ssl.SSLContext:
        # Loading the certificates of the system takes milliseconds: once is enough.
        if self._ssl_context is None:
            self._ssl_context = make_ssl_context(self._access.ca)
        return self._ssl_context

    def _proxy_for(self, target: Target) -> Proxy | None:
        return self._access.proxy or self._variables.proxy_for(target)

    def _settings(
        self, target: Target, proxy: Proxy | None, endpoint: Endpoint | None = None
    ) -> SessionSettings:
        access, options, limits = self._access, self._options, self._language.limits
        return SessionSettings(
            target=target,
            headers=merge_headers(
                {"User-Agent": USER_AGENT},
                access.key_headers,
                access.headers,
                {} if endpoint is None else endpoint.headers,
            ),
            subprotocols=() if endpoint is None else endpoint.subprotocols,
            ssl_context=self._trust() if target.secure else None,
            proxy=proxy,
            proxy_ssl_context=self._trust() if proxy is not None and proxy.secure else None,
            open_stream=options.open_stream,
            max_message_size=self._language.max_message_size(options.max_message_size),
            ping_interval=options.ping_interval,
            pong_timeout=options.pong_timeout,
            stale_after=options.stale_after,
            connect_timeout=options.connect_timeout,
            keep_alive=self._language.keep_alive,
            messages_per_s=limits.messages_per_s,
            subscribe_within_s=limits.subscribe_within_s,
            compression=self._language.compression or options.compression,
            needs_compression=self._language.compression is not None,
        )

    async def next_settings(self, *, connections: int = 1) -> SessionSettings:
        """Return the settings of the next connection.

        Args:
            connections: how many the feed has; the secrets of so many endpoints, and
                of 16 at least, are kept for the redactor.

        Raises:
            ConnectFailed: the endpoint function gave no address.
            ConfigError: it returned something else, or the environment names a proxy
                that the feed cannot use.

        Cancellation: cancels the endpoint function.
        """
        access = self._access
        if access.endpoint is None:
            assert self._fixed is not None
            return self._fixed
        endpoint = await self._ask(access.endpoint)
        target = endpoint.target
        self._redactor.learn(endpoint.secrets, most=max(16, 2 * connections))
        self.shown, self.host = endpoint.shown, target.host
        proxy = self._proxy_for(target)
        if proxy is not None and access.proxy is None:
            self._redactor.learn(proxy.secrets, most=max(16, 2 * connections))
        if access.trusts and not target.secure:
            # Such a feed is meant to be encrypted.
            raise ConnectFailed(
                "endpoint returned a ws:// URL; ca and ssl_context are for wss://", permanent=True
            )
        return self._settings(target, proxy, endpoint)

    async def _ask(self, function: EndpointFunction) -> Endpoint:
        limit = self._options.endpoint_timeout
        try:
            with trio.move_on_after(limit) as scope:
                waits = function()
                if not isawaitable(waits):
                    raise _NotAsync
                endpoint = await waits
        except _NotAsync:
            raise ConfigError("endpoint must be an async function") from None
        except Exception as error:
            raise self._failure(error) from auth_error_in(error)
        if scope.cancelled_caught:
            raise ConnectFailed(f"endpoint took longer than {limit:g} s")
        if not isinstance(endpoint, Endpoint):
            raise ConfigError(f"endpoint must return an Endpoint, not {type(endpoint).__name__}")
        return endpoint

    def _failure(self, error: Exception) -> ConnectFailed:
        auth_error = auth_error_in(error)
        if auth_error is not None:
            return ConnectFailed(str(auth_error), final=True)
        inner = innermost(error)
        text = self._redactor.text(f"{type(inner).__name__}: {inner}")
        # An Endpoint that the function could not make is a mistake in the function.
        return ConnectFailed(
            f"endpoint raised {text}{where_raised(error)}", permanent=isinstance(inner, ConfigError)
        )


class _NotAsync(Exception):
    """The endpoint function returned something that cannot be awaited."""
