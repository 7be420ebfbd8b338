"""What all parts of `Queries` stand on: a driver and its stores."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

from pgq_trio.abc import Backend, Driver
from pgq_trio.settings import Settings

__all__ = ["Names", "QueriesBase", "names_of"]

#: One name, several, or None for all.
Names: TypeAlias = str | Collection[str] | None


class QueriesBase:
    """The stores of one driver under one set of names.

    Args:
        driver: one of `pgq_trio.db`.
        settings: names of the database objects; None: from the environment.
    """

    def __init__(self, driver: Driver, *, settings: Settings | None = None) -> None:
        self.driver = driver
        self.backend: Backend = driver.backend(settings or Settings())

    @property
    def settings(self) -> Settings:
        """The names of the database objects in use."""
        return self.backend.settings


def names_of(value: Names) -> Collection[str] | None:
    """Return names as a collection; None stays None."""
    return [value] if isinstance(value, str) else value
