"""Rate limits that several processes share, in a file or in Redis.

Each request reserves the earliest time at which it fits, after all reservations before it, and then
waits for that time. So the limits hold for any window, turns are taken in the order of asking in
whichever process, and a time after the deadline is known at once.

Rate-limiting packages are not used, because none keeps an exact window of amounts: those with an
exact window store one entry per token, and those with a constant state let twice the limit
through in the first minute.
"""

from __future__ import annotations

import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast
from uuid import uuid4

from pydantic import SecretStr

from qwen_rerank.errors import InvalidInputError, MissingDependencyError
from qwen_rerank.options import NOT_SAVED, without_user

__all__ = ["STORE_SECONDS", "FileStore", "RatesStore", "RedisStore", "Reservation", "StorePlace"]

STORE_SECONDS = 5.0
"""How long an operation of a store may take before the store counts as failed."""

_UNLIMITED = 2**53
"""More than can be sent in a window, for a limit that is not set. Lua counts exactly up to it."""


class Reservation(NamedTuple):
    """The turn of a request.

    Attributes:
        wait: Seconds until its turn, at least 0.
        ticket: What `release` needs; None if nothing was reserved, as the wait is too long.
    """

    wait: float
    ticket: str | None


class RatesStore(ABC):
    """Keeps the requests of the last window by account. Used by one thread at a time."""

    @abstractmethod
    def reserve(
        self, account: str, limits: Sequence[int | None], tokens: int, longest: float | None
    ) -> Reservation:
        """Reserve the earliest turn for a request.

        Args:
            account: Whose limits count.
            limits: Requests and tokens per window; None for no limit.
            tokens: The tokens of the request.
            longest: Reserve nothing if the wait takes this many seconds or more; None for any wait.
        """

    @abstractmethod
    def release(self, account: str, ticket: str) -> None:
        """Give back the turn of a request that is not sent."""


class FileStore(RatesStore):
    """An SQLite file, for the processes of one machine.

    Args:
        path: The file. It is created if it is not there.
        window: Seconds of the window.
        clock: The machine's clock, in seconds. If it is set back, the limits start afresh.

    Raises:
        sqlite3.Error: The file cannot be opened.
    """

    def __init__(
        self, path: str, *, window: float = 60.0, clock: Callable[[], float] = time.time
    ) -> None:
        import sqlite3  # lazy: few need it

        self._window = window
        self._clock = clock
        self._database = sqlite3.connect(
            path, timeout=STORE_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=OFF")  # nothing is lost with a lost minute
            self._database.executescript(_TABLES)
            self._database.execute("PRAGMA busy_timeout=0")  # see _begin
        except sqlite3.Error:
            self._database.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def reserve(
        self, account: str, limits: Sequence[int | None], tokens: int, longest: float | None
    ) -> Reservation:
        execute = self._database.execute
        self._begin()
        try:
            now = self._clock()
            asked, last = self._account(account, now)
            if asked > now + 1.0:  # the clock was set back
                execute("DELETE FROM sent WHERE account = ?", [account])
                last = now
            start = max(now, last)
            start = max(
                self._room_at(account, start, limit, amount, column)
                for limit, amount, column in (
                    (limits[0], 1, "1"),
                    (limits[1], tokens, "tokens"),
                )
            )
            if longest is not None and start - now >= longest:
                return Reservation(start - now, None)
            ticket = uuid4().hex
            execute(
                "DELETE FROM sent WHERE account = ? AND at <= ?", [account, start - self._window]
            )
            execute("INSERT INTO sent VALUES (?, ?, ?, ?)", [account, start, tokens, ticket])
            execute("REPLACE INTO account VALUES (?, ?, ?)", [account, now, start])
            return Reservation(start - now, ticket)
        finally:
            execute("COMMIT")

    def release(self, account: str, ticket: str) -> None:
        self._begin()
        self._database.execute(
            "DELETE FROM sent WHERE account = ? AND ticket = ?", [account, ticket]
        )
        self._database.execute("COMMIT")

    def _begin(self) -> None:
        """Start a transaction. SQLite's own waiting lets those who come later overtake."""
        from sqlite3 import SQLITE_BUSY, OperationalError

        ends_at = time.monotonic() + STORE_SECONDS
        while True:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                return
            except OperationalError as error:
                if error.sqlite_errorcode != SQLITE_BUSY or time.monotonic() > ends_at:
                    raise
            time.sleep(random.uniform(0.0005, 0.003))

    def _account(self, account: str, now: float) -> tuple[float, float]:
        """Return when the account was last asked for a turn, and the last turn that it gave."""
        query = "SELECT asked, last FROM account WHERE account = ?"
        row = self._database.execute(query, [account]).fetchone()
        return cast(tuple[float, float], row) if row else (now, now)

    def _room_at(
        self, account: str, start: float, limit: int | None, amount: int, column: str
    ) -> float:
        """Return the earliest time, not before `start`, at which the amount fits."""
        if limit is None:
            return start
        scope = ("FROM sent WHERE account = ? AND at > ?", [account, start - self._window])
        (total,) = self._database.execute(f"SELECT TOTAL({column}) {scope[0]}", scope[1]).fetchone()
        excess = total + amount - limit
        if excess <= 0:
            return start
        rows = self._database.execute(f"SELECT at, {column} {scope[0]} ORDER BY at", scope[1])
        with closing(rows):
            for at, freed in rows:
                excess -= freed
                if excess <= 0:
                    return float(at) + self._window
        return start


_TABLES = """
CREATE TABLE IF NOT EXISTS account (account TEXT PRIMARY KEY, asked REAL, last REAL);
CREATE TABLE IF NOT EXISTS sent (account TEXT, at REAL, tokens INTEGER, ticket TEXT);
CREATE INDEX IF NOT EXISTS sent_by_time ON sent (account, at);
"""


class _RedisClient(Protocol):
    """What is used of redis.Redis."""

    def register_script(self, script: str) -> Callable[..., Any]: ...


class RedisStore(RatesStore):
    """A Redis server, for the processes of many machines. Its clock counts.

    Args:
        client: The client.
        window: Seconds of the window.
    """

    def __init__(self, client: _RedisClient, *, window: float = 60.0) -> None:
        self._window = window
        self._reserve = client.register_script(_RESERVE)
        self._release = client.register_script(_RELEASE)

    def reserve(
        self, account: str, limits: Sequence[int | None], tokens: int, longest: float | None
    ) -> Reservation:
        most = [_UNLIMITED if limit is None else limit for limit in limits]
        allowed = -1 if longest is None else longest
        arguments = [*most, tokens, allowed, uuid4().hex, self._window]
        wait, ticket = self._reserve(keys=_keys(account), args=arguments)
        return Reservation(float(wait), _as_text(ticket) or None)

    def release(self, account: str, ticket: str) -> None:
        self._release(keys=_keys(account), args=[ticket])


def _keys(account: str) -> list[str]:
    """Return the keys of an account. The braces keep them on one node of a cluster."""
    return [f"qwen-rerank:rates:{{{account}}}:{name}" for name in ("sent", "state")]


def _as_text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


_RESERVE = """
-- sent: a list of "time tokens ticket", in the order of their times.
-- state: the last time, and the sum of the tokens in the list.
local sent, state = KEYS[1], KEYS[2]
local most_requests, most_tokens = tonumber(ARGV[1]), tonumber(ARGV[2])
local tokens, longest = tonumber(ARGV[3]), tonumber(ARGV[4])
local ticket, window = ARGV[5], tonumber(ARGV[6])

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local stored = redis.call('HMGET', state, 'last', 'tokens')
local start = math.max(now, tonumber(stored[1] or '0'))
local total = tonumber(stored[2] or '0')
local count, left = redis.call('LLEN', sent), 0

-- No later request has an earlier turn, so what leaves the window now is not needed again.
while left < count do
    local at, held = string.match(redis.call('LINDEX', sent, left), '^(%S+) (%S+)')
    at, held = tonumber(at), tonumber(held)
    local is_full = count - left + 1 > most_requests or total + tokens > most_tokens
    if at > start - window and not is_full then break end
    start = math.max(start, at + window)
    left, total = left + 1, total - held
end
if longest >= 0 and start - now >= longest then
    return {tostring(start - now), ''}
end

local entry = string.format('%.6f %d %s', start, tokens, ticket)
redis.call('LTRIM', sent, left, -1)
redis.call('RPUSH', sent, entry)
redis.call('HSET', state, 'last', string.format('%.6f', start), 'tokens', total + tokens)
local seconds = math.ceil(start - now + window) + 1
redis.call('EXPIRE', sent, seconds)
redis.call('EXPIRE', state, seconds)
return {tostring(start - now), entry}
"""

_RELEASE = """
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 1 then
    local tokens = string.match(ARGV[1], '^%S+ (%S+)')
    redis.call('HINCRBY', KEYS[2], 'tokens', -tonumber(tokens))
end
"""


@dataclass(frozen=True, slots=True)
class StorePlace:
    """Where a store is. Pickles do not have its password.

    Attributes:
        where: The path of a file, a redis:// URL as SecretStr, or a client.
    """

    where: Any

    @classmethod
    def of(cls, where: Any) -> StorePlace:
        """Return the place, if there can be a store.

        Raises:
            InvalidInputError: It is none of these, or the file cannot be used.
            MissingDependencyError: It is in Redis, and the package is not installed.
        """
        if isinstance(where, str) and "://" in where:
            where = SecretStr(where)
        elif isinstance(where, str | os.PathLike):
            where = os.path.abspath(os.fspath(where))
        place = cls(where)
        store = place.open()  # fails now if it ever does
        if isinstance(store, FileStore):
            store.close()
        return place

    def open(self) -> RatesStore:
        """Open the store. A Redis server is not contacted yet."""
        where = self.where
        if isinstance(where, str):
            return _opened_file(where)
        if isinstance(where, SecretStr):
            return RedisStore(_client_of(where))
        if _is_sync_client(where):
            return RedisStore(where)
        raise InvalidInputError(
            f"rates_store must be a path, a redis:// URL or a redis.Redis, got "
            f"{type(where).__name__}."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.where, str):
            return (StorePlace, (self.where,))
        if isinstance(self.where, SecretStr):
            return (StorePlace, (SecretStr(without_user(self.where)),))
        raise InvalidInputError(
            "A rates_store that is a Redis client cannot be pickled.",
            remedy="Pass its redis:// URL instead.",
        )


def _opened_file(path: str) -> FileStore:
    import sqlite3  # lazy: few need it

    try:
        return FileStore(path)
    except sqlite3.Error as error:
        raise InvalidInputError(
            f"rates_store={path!r} cannot be used: {error}.",
            remedy="Pass the path of a new file, in a folder that exists, on a local disk.",
        ) from error


def _is_sync_client(where: object) -> bool:
    return hasattr(where, "register_script") and ".asyncio" not in type(where).__module__


_MARKS = (f"//{NOT_SAVED}@", f"?password={NOT_SAVED}", f"&password={NOT_SAVED}")
"""What a URL has in the place of its password after it was saved."""


def _client_of(url: SecretStr) -> _RedisClient:
    if any(mark in url.get_secret_value() for mark in _MARKS):
        raise InvalidInputError(
            "rates_store: the user and password are missing, because pickles and dumps do not hold "
            "secrets.",
            remedy="Pass rates_store= again.",
        )
    try:
        import redis
    except ImportError as error:
        raise MissingDependencyError(
            "A rates_store in Redis needs the redis package.",
            remedy='Install it: pip install "qwen-rerank[rates]"',
        ) from error
    client = _client_or_none(redis, url)
    if client is None:
        raise InvalidInputError(
            "rates_store must be a path or an address such as redis://user:password@host:6379/0."
        )
    return client


def _client_or_none(redis: Any, url: SecretStr) -> _RedisClient | None:
    """Return a client, or None: an error raised here would show the password."""
    seconds = STORE_SECONDS / 2
    try:
        return cast(
            _RedisClient,
            redis.Redis.from_url(
                url.get_secret_value(), socket_timeout=seconds, socket_connect_timeout=seconds
            ),
        )
    except (ValueError, TypeError):
        return None
