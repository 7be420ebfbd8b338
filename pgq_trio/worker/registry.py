"""The entrypoints of one application: names and executors; it runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from pgq_trio.abc import RetryPolicy
from pgq_trio.errors import RegistrationError
from pgq_trio.executors import (
    AbstractEntrypointExecutor,
    Entrypoint,
    EntrypointExecutor,
    EntrypointExecutorParameters,
    wants_context,
)
from pgq_trio.model.durations import Duration
from pgq_trio.model.enqueue import checked_name
from pgq_trio.models import Context
from pgq_trio.types import OnFailure

ExecutorFactory: TypeAlias = Callable[[EntrypointExecutorParameters], AbstractEntrypointExecutor]


class EntrypointRegistry:
    """All entrypoints of one application by name."""

    def __init__(self) -> None:
        self._executors: dict[str, AbstractEntrypointExecutor] = {}

    @property
    def executors(self) -> Mapping[str, AbstractEntrypointExecutor]:
        """The executor of each name."""
        return self._executors

    def check_name(self, name: object) -> str:
        """Return the name, or say why it cannot be registered.

        Raises:
            RegistrationError: no text that PostgreSQL can store and index, empty, or taken.
        """
        if not isinstance(name, str) or not name:
            raise RegistrationError(f"the name of an entrypoint is a non-empty str, got {name!r}")
        try:
            checked_name("the name of an entrypoint", name)
        except ValueError as exc:
            raise RegistrationError(str(exc)) from exc
        if name in self._executors:
            raise RegistrationError(
                f"the entrypoint {name!r} is registered already; names are unique in a program"
            )
        return name

    def add_executor(self, name: str, executor: AbstractEntrypointExecutor) -> None:
        """Register a whole executor.

        Raises:
            RegistrationError: the name is taken, or this is no executor.
        """
        self.check_name(name)
        if not isinstance(executor, AbstractEntrypointExecutor):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RegistrationError(
                "an executor, also what an executor_factory returns, derives from "
                f"AbstractEntrypointExecutor, got {executor!r}"
            )
        self._executors[name] = executor

    def add(
        self,
        name: str,
        func: Entrypoint,
        *,
        concurrency_limit: int,
        accepts_context: bool | None,
        on_failure: OnFailure,
        executor_factory: ExecutorFactory | None,
        retry: RetryPolicy | None,
        timeout: Duration | None,
        max_attempts: int,
    ) -> None:
        """Register a handler; `QueueManager.entrypoint` explains the arguments.

        Raises:
            RegistrationError: an argument cannot work.
        """
        if accepts_context is not None and not isinstance(accepts_context, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RegistrationError(
                f"accepts_context is True, False or None, got {accepts_context!r}"
            )
        if executor_factory is not None and not callable(executor_factory):  # pyright: ignore[reportUnnecessaryComparison]
            raise RegistrationError(
                "executor_factory is an executor class, or a function of "
                "EntrypointExecutorParameters that returns an AbstractEntrypointExecutor; "
                f"got {executor_factory!r}"
            )
        parameters = EntrypointExecutorParameters(
            func=func,
            concurrency_limit=concurrency_limit,
            accepts_context=(
                wants_context(func, Context) if accepts_context is None else accepts_context
            ),
            on_failure=on_failure,
            retry=retry,
            timeout=timeout,
            max_attempts=max_attempts,
        )
        self.add_executor(name, (executor_factory or EntrypointExecutor)(parameters))
