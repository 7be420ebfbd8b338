# Recipes for people and for CI. They use the environment that the README's second command makes.
set shell := ["bash", "-euo", "pipefail", "-c"]

export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

_default:
    @just --list --unsorted

# The main job on real input, on a private PostgreSQL
demo *args:
    pgq-trio demo {{ args }}

# Most tests wait for a server or a process: four at a time keep two cores busy.

# All tests, on trio and asyncio, in memory and on every PostgreSQL that is here
test *args:
    pytest -q -n 4 --dist loadgroup {{ args }}

# Everything CI looks at beside the tests
check: lint types floors coverage mutants wheel

# Format the code
fmt:
    ruff format .
    ruff check --fix .

# Style and structured-concurrency faults
lint:
    ruff format --check .
    ruff check .
    flake8 pgq_trio tests

# mypy and pyright, both strict, and the completeness of the public types
types:
    mypy
    pyright --pythonpath "$(which python)"
    python -m benchmarks.typecover

# A module imports only from lower floors
floors:
    lint-imports

# Left out are tests that run the same lines once more: other loops and servers, and whole programs.

# Lines and branches that tests reach
coverage:
    coverage erase
    coverage run -m pytest -q -n 4 -k "not asyncio and not postgresql-system" \
        --ignore tests/interop --ignore tests/defects --ignore tests/docs \
        --ignore tests/property --ignore tests/model/test_cron_zones.py
    coverage combine -q
    coverage report --fail-under=93

# The built wheel in a clean environment
wheel:
    python -m tests.wheel

# The worker next to PgQueuer in one run
bench *args:
    python -m benchmarks.drain {{ args }}

# What the library promises under drawn interleavings and faults; --long goes on for --hours, --rates counts
[positional-arguments]
property *args:
    python -m tests.property "$@"

# Faults planted on purpose, and the property that finds each; fails when one survives
mutants *args:
    python -m tests.property.mutants {{ args }}

# The documentation's code as tests
docs:
    pytest -q tests/docs
